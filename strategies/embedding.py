"""Writes a model with its weights inside without ever holding these in a protobuf object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx
import onnx_ir as ir

from strategies.errors import InvalidRequestError
from strategies.streaming import chunks

# Where protobuf's parsers give up.
LARGEST_FILE = (1 << 31) - 1
# Wire type of what is preceded by its length (Protocol Buffers encoding).
_LENGTH_DELIMITED = 2


def write_embedded(path: Path, model: ir.Model, weights: Sequence[ir.Value]) -> None:
    """Writes the file; of the initializers given, bytes go straight from their source to it.

    A message's fields may stand in any order and repeated ones in several places, so the
    weights follow the rest of the graph, each written by hand from its pieces.

    Raises:
        InvalidRequestError: The file would be too large to be read again.
        OSError: The file system refuses.
    """
    sources = {value.name: tensor for value in weights if (tensor := value.const_value) is not None}
    for value in weights:
        value.const_value = _without_bytes(value)
    proto = ir.to_proto(model)
    inline, heads = _split(proto.graph, sources)
    proto.graph.ClearField("initializer")
    proto.graph.initializer.extend(inline)
    graph = proto.graph.SerializeToString()
    proto.ClearField("graph")
    rest = proto.SerializeToString()
    starts = {
        name: head + _field(onnx.TensorProto, "raw_data", sources[name].nbytes)
        for name, head in heads.items()
    }
    entries = {
        name: _field(onnx.GraphProto, "initializer", len(start) + sources[name].nbytes) + start
        for name, start in starts.items()
    }
    size = len(graph) + sum(len(head) + sources[name].nbytes for name, head in entries.items())
    _check_size(len(rest) + size)
    with path.open("xb") as file:
        file.write(rest + _field(onnx.ModelProto, "graph", size) + graph)
        for name, entry in entries.items():
            file.write(entry)
            for chunk in chunks(sources[name]):
                file.write(chunk)


def _without_bytes(value: ir.Value) -> ir.ExternalTensor | None:
    tensor = value.const_value
    if tensor is None:
        return None
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor("", 0, 0, tensor.dtype, shape=shape, name=value.name or "")


def _split(
    graph: onnx.GraphProto, sources: dict[str | None, ir.TensorProtocol]
) -> tuple[list[onnx.TensorProto], dict[str, bytes]]:
    """Initializers with their values, and what is to be written before the others' bytes."""
    inline, heads = [], {}
    for item in graph.initializer:
        if item.name in sources:
            item.ClearField("external_data")
            item.ClearField("data_location")
            heads[item.name] = item.SerializeToString()
        else:
            copy = onnx.TensorProto()
            copy.CopyFrom(item)
            inline.append(copy)
    return inline, heads


def _check_size(size: int) -> None:
    if size > LARGEST_FILE:
        # No other candidate would make it smaller.
        raise InvalidRequestError(
            f"with its weights inside, the file would have {size / 1e9:.1f} GB, and an ONNX file "
            "ends at 2 GB; weights='copy' (--weights copy) puts them beside it"
        )


def _field(message: type, name: str, length: int) -> bytes:
    """What stands before the bytes of a field: its number, wire type and length."""
    number = message.DESCRIPTOR.fields_by_name[name].number  # type: ignore[attr-defined]  # untyped
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first, with the top bit set where more follow."""
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)
