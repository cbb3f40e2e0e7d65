"""Whether the bytes of a file's tensors are there, without reading them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
import onnx_ir as ir

# What the checker looks into; larger tensors are only measured.
SMALL_BYTES = 1024


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    """The model's graph and those inside its nodes."""
    waiting = [model.graph]
    while waiting:
        graph = waiting.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    waiting.append(attribute.g)
                waiting.extend(attribute.graphs)


def take_out(model: onnx.ModelProto, folder: Path) -> str | None:
    """Leaves large and external initializers without elements; what was wrong with them.

    Afterwards the model is small enough to be checked at once, and nothing that is left
    refers to another file.

    Args:
        model: As parsed, external data left where they are; it is changed.
        folder: Where its external data have to be.
    """
    sizes: dict[str, int | str] = {}
    for graph in graphs(model):
        for tensor in graph.initializer:
            external = tensor.data_location == onnx.TensorProto.EXTERNAL
            if not external and len(tensor.raw_data) < SMALL_BYTES:
                continue
            fault = _external_fault(tensor, folder, sizes) if external else _raw_fault(tensor)
            if fault:
                return f"initializer {tensor.name}: {fault}"
            _empty(tensor)
    return None


def _empty(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    tensor.ClearField("dims")
    tensor.dims.append(0)


def _raw_fault(tensor: onnx.TensorProto) -> str | None:
    needed, there = _nbytes(tensor), len(tensor.raw_data)
    return f"{there} bytes where its shape needs {needed}" if needed != there else None


def _external_fault(
    tensor: onnx.TensorProto, folder: Path, sizes: dict[str, int | str]
) -> str | None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    if location not in sizes:
        sizes[location] = _file_size(location, folder)
    size = sizes[location]
    if isinstance(size, str):
        return size
    try:
        offset = int(entries.get("offset", 0))
        length = int(entries.get("length", size - offset))
    except ValueError:
        return f"its place in {location} is no number"
    needed = _nbytes(tensor)
    if length != needed:
        return f"{length} bytes of {location} where its shape needs {needed}"
    if offset < 0 or offset + length > size:
        return f"bytes {offset} to {offset + length} of {location}, which has {size}"
    return None


def _file_size(location: str, folder: Path) -> int | str:
    """Bytes of a regular file inside the folder, or what is wrong with it."""
    parts = Path(location).parts
    if not parts or Path(location).is_absolute() or ".." in parts:
        return f"external data at {location!r}, which is not a file beside the model"
    path = folder / location
    if path.is_symlink() or not path.is_file():
        return f"external data in {location}, which is no regular file beside the model"
    return path.stat().st_size


def _nbytes(tensor: onnx.TensorProto) -> int:
    elements: int = math.prod(tensor.dims)
    return -(-elements * ir.DataType(tensor.data_type).bitwidth // 8)
