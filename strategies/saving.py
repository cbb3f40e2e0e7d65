"""From a finished graph to files: each weight's bytes are written once, or stay where they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import onnx_ir as ir
import torch
from onnx_ir.tensor_adapters import TorchTensor, from_torch_dtype

from strategies import placing
from strategies.base import DATA_ENDINGS, MODEL_FILE
from strategies.embedding import write_embedded
from strategies.streaming import chunks, in_torch

if TYPE_CHECKING:
    from strategies.base import ExportRequest
    from strategies.stored import StoredTensor

EMBED = "embed"
# Smaller ones stay in the graph, where shape inference can read them.
INLINE_BELOW_BYTES = 1024
# Fewer bytes than these, all together, are not worth a file of their own.
STREAM_FROM_BYTES = 1 << 14
# So that a mapped file's tensors suit every vector instruction.
ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Saved:
    """What was written.

    Attributes:
        path: The ONNX file.
        file_bytes: Bytes of it and of the data files beside it.
        notes: What the user should know, one sentence each.
    """

    path: Path
    file_bytes: int
    notes: tuple[str, ...] = ()


def place_weights(model: ir.Model, request: ExportRequest) -> None:
    """Replaces initializers whose bytes lie on disk by pointers to these.

    What is stored in half precision is read through a Cast to float32, which belongs to
    the module that reads it. To be called once the graph's outputs are settled, and before
    nodes are tagged and named.
    """
    casts = []
    for value in list(model.graph.initializers.values()):
        tensor = value.const_value
        raw = in_torch(tensor)
        stored = None if raw is None else request.locate(raw)
        if tensor is None or raw is None or stored is None:
            continue
        dtype = from_torch_dtype(getattr(torch, stored.dtype))
        if tensor.nbytes < INLINE_BELOW_BYTES:
            if dtype != tensor.dtype:
                read = _read(stored).to(raw.dtype)
                value.const_value = TorchTensor(read, name=value.name)
            continue
        value.const_value = ir.ExternalTensor(
            stored.file.name,
            stored.offset,
            stored.nbytes,
            dtype,
            shape=ir.Shape(stored.shape),
            name=value.name or "",
            base_dir=stored.file.parent,
        )
        if dtype != tensor.dtype:
            casts.append(_cast(value, tensor.dtype))
    if casts:
        model.graph.insert_before(model.graph[0], casts)


def _read(stored: StoredTensor) -> torch.Tensor:
    with stored.file.open("rb") as file:
        file.seek(stored.offset)
        data = bytearray(file.read(stored.nbytes))
    return torch.frombuffer(data, dtype=getattr(torch, stored.dtype)).reshape(stored.shape)


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    """The node between a value and all its uses that gives it another dtype."""
    users = tuple(value.uses())
    node = ir.node("Cast", [value], attributes={"to": ir.AttrInt64("to", dtype.value)})
    node.outputs[0].shape, node.outputs[0].type = value.shape, ir.TensorType(dtype)
    for user, index in users:
        user.replace_input_with(index, node.outputs[0])
    if value.const_value is not None:
        value.type = ir.TensorType(value.const_value.dtype)
    return node


def save(model: ir.Model, request: ExportRequest) -> Saved:
    """Writes the file, and its weights into it or beside it as the request says.

    Raises:
        InvalidRequestError: All weights are to be in one file, and they are too large for that.
        OSError: The file system refuses.
    """
    path = request.directory / MODEL_FILE
    large = [
        value
        for value in model.graph.initializers.values()
        if (tensor := value.const_value) is not None and _is_large(tensor)
    ]
    notes: tuple[str, ...] = ()
    if request.weights == EMBED:
        write_embedded(path, model, large)
    else:
        notes = _point(large, request)
        path.write_bytes(ir.to_proto(model).SerializeToString())
    data = [item for item in request.directory.iterdir() if item.name.endswith(DATA_ENDINGS)]
    return Saved(
        path=path, file_bytes=sum(item.stat().st_size for item in (path, *data)), notes=notes
    )


def _is_large(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype != ir.DataType.STRING and (
        isinstance(tensor, ir.ExternalTensor) or tensor.nbytes >= INLINE_BELOW_BYTES
    )


# Beside the file


def _point(values: Sequence[ir.Value], request: ExportRequest) -> tuple[str, ...]:
    """Puts bytes into files beside the model and pointers to them into the graph."""
    stored = [
        (value, tensor)
        for value in values
        if isinstance(tensor := value.const_value, ir.ExternalTensor)
    ]
    others = [item for item in values if not isinstance(item.const_value, ir.ExternalTensor)]
    if sum(value.const_value.nbytes for value in others if value.const_value) >= STREAM_FROM_BYTES:
        _stream(others, request.directory / f"{request.data_stem}.onnx.data")
    return _point_to_checkpoint(stored, request)


def _point_to_checkpoint(
    pointers: Sequence[tuple[ir.Value, ir.ExternalTensor]], request: ExportRequest
) -> tuple[str, ...]:
    files = sorted({Path(tensor.path) for _, tensor in pointers})
    names = placing.names_beside(files, request.data_stem)
    notes = [
        placing.place(file, request.directory / name, request.weights)
        for file, name in names.items()
    ]
    for value, tensor in pointers:
        value.const_value = _pointer(tensor, names[Path(tensor.path)], tensor.offset or 0)
    return tuple(note for note in notes if note)


def _stream(values: Iterable[ir.Value], path: Path) -> None:
    """Writes tensors one after the other; the file is made where there is one to write."""
    with ExitStack() as stack:
        file: BinaryIO | None = None
        for value in values:
            tensor = value.const_value
            if tensor is None:
                continue
            file = file or stack.enter_context(path.open("xb"))
            file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
            value.const_value = _pointer(tensor, path.name, file.tell())
            for chunk in chunks(tensor):
                file.write(chunk)


def _pointer(tensor: ir.TensorProtocol, location: str, offset: int) -> ir.ExternalTensor:
    return ir.ExternalTensor(
        location,
        offset,
        tensor.nbytes,
        tensor.dtype,
        shape=ir.Shape(tensor.shape.numpy()),
        name=tensor.name or "",
    )
