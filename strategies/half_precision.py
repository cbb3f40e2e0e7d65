"""Arithmetic in half precision, written out for ONNX Runtime's CPU: in float32, then rounded.

It has hardly a kernel for float16 and leaves out the rounding between operators that PyTorch
does, and has none for bfloat16 and refuses the file.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes import common as passes

from strategies import hierarchy

_HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
# They move elements and compute none, or say themselves what type they give.
_MOVING = frozenset(
    {
        *("Cast", "CastLike", "Constant", "Identity", "Shape", "Size", "Reshape", "Flatten"),
        *("Transpose", "Squeeze", "Unsqueeze", "Concat", "Slice", "Gather", "EyeLike"),
        *("If", "Loop", "Scan", "Optional", "OptionalGetElement", "OptionalHasElement"),
    }
)


def write_out(model: ir.Model) -> None:
    """Puts Casts around operators on half-precision tensors, in place.

    Where an input of the model is of half precision, float16 is left as it is: the file is
    for devices that compute in it.
    """
    wanted = set(_HALVES)
    if any(value.dtype == ir.DataType.FLOAT16 for value in model.graph.inputs):
        wanted.discard(ir.DataType.FLOAT16)
    if not _computes_in_halves(model):
        return
    passes.ShapeInferencePass()(model)
    for node in list(hierarchy.all_nodes(model.graph)):
        if not node.domain and node.op_type not in _MOVING:
            _write_out(node, wanted)


def _computes_in_halves(model: ir.Model) -> bool:
    """Whether a tensor that says that it is of half precision is more than read and cast."""
    sources = [*model.graph.inputs, *model.graph.initializers.values()]
    for node in hierarchy.all_nodes(model.graph):
        if node.op_type == "Cast" and _target(node) in _HALVES:
            return True
        if node.op_type == "Constant":
            sources += node.outputs
    return any(
        user.op_type != "Cast"
        for value in sources
        if value.dtype in _HALVES
        for user in value.consumers()
    )


def _target(node: ir.Node) -> ir.DataType:
    return ir.DataType(node.attributes["to"].as_int())


def _write_out(node: ir.Node, wanted: set[ir.DataType]) -> None:
    graph = node.graph
    if graph is None:
        return
    before: dict[ir.Value, ir.Node] = {}
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype not in wanted:
            continue
        if value not in before:
            before[value] = _cast(value, ir.DataType.FLOAT, node)
        node.replace_input_with(index, before[value].outputs[0])
    graph.insert_before(node, list(before.values()))
    for value in node.outputs:
        dtype = value.dtype
        if dtype not in wanted or not before:
            continue
        users = list(value.uses())
        outputs = [index for index, output in enumerate(graph.outputs) if output is value]
        value.dtype = ir.DataType.FLOAT
        after = _cast(value, dtype, node)
        for user, index in users:
            user.replace_input_with(index, after.outputs[0])
        for index in outputs:
            graph.outputs[index] = after.outputs[0]
        graph.insert_after(node, after)


def _cast(value: ir.Value, to: ir.DataType, like: ir.Node) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": int(to)})
    cast.outputs[0].type, cast.outputs[0].shape = ir.TensorType(to), value.shape
    cast.metadata_props.update(like.metadata_props)
    return cast
