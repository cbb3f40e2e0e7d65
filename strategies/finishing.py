"""From a strategy's graph to one that can be saved: names, shapes, the last tags, metadata."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx_ir as ir
from onnx_ir.passes import common as passes
from onnx_ir.tensor_adapters import from_torch_dtype

from strategies import half_precision, hierarchy, saving
from strategies.errors import LoweringError

if TYPE_CHECKING:
    from torch import nn

    from strategies.base import ExportRequest

# Where torch and other tools leave local paths and what we replace by our own.
FOREIGN_KEYS = ("pkg.torch.onnx.stack_trace",)


def finish(model: ir.Model, module: nn.Module, request: ExportRequest) -> None:
    """Completes the graph in place: everything that is the same whichever strategy ran.

    Raises:
        LoweringError: The graph's inputs or outputs are not those that were asked for.
    """
    graph = model.graph
    _convert_opset(model, request.opset)
    _drop_unused(model)
    _keep_padding(model)
    if request.past_branches:
        _take_all_there_are(model)
        _shape_nothing(model)
    half_precision.write_out(model)
    _name_inputs(graph, request)
    _name_outputs(graph, request)
    for node in hierarchy.all_nodes(graph):
        for key in FOREIGN_KEYS:
            node.metadata_props.pop(key, None)
        node.doc_string = None
    saving.place_weights(model, request)
    hierarchy.project(graph)
    classes = hierarchy.module_classes(module)
    hierarchy.name_nodes(graph, classes, hierarchy.called_paths(module))
    # A constant is no operation of any module, and its name says where it is used.
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    model.producer_name = "autoexport"
    model.graph.name = "main"
    model.metadata_props.clear()
    model.metadata_props.update(request.metadata)
    model.metadata_props[hierarchy.MODEL_MAP] = hierarchy.model_map(classes)


def count_nodes(model: ir.Model) -> int:
    """Number of nodes, those in subgraphs included."""
    return sum(1 for _ in hierarchy.all_nodes(model.graph))


def traced_share(model: ir.Model) -> float:
    """Share of nodes whose module the capture itself named, 0 to 1."""
    tags = [
        node.metadata_props.get(hierarchy.ATTRIBUTION) for node in hierarchy.all_nodes(model.graph)
    ]
    return tags.count(hierarchy.TRACED) / len(tags) if tags else 1.0


def _drop_unused(model: ir.Model) -> None:
    inputs = list(model.graph.inputs)
    if model.functions:
        passes.InlinePass()(model)
    passes.RemoveUnusedNodesPass()(model)
    passes.RemoveUnusedOpsetsPass()(model)
    if len(model.graph.inputs) != len(inputs):
        msg = "an unused input was dropped from the graph"
        raise LoweringError(msg)


def _keep_padding(model: ir.Model) -> None:
    """Keeps ONNX Runtime from making padding a part of the MaxPool that follows.

    A pool's own padding is never its maximum, zeros often are (bit, and whatever else pads
    as TensorFlow does); the results differ where all else is negative. Its optimiser
    leaves a Pad alone that says which axes it pads.
    """
    if model.opset_imports.get("", 0) < _PAD_HAS_AXES:
        return
    for node in list(hierarchy.all_nodes(model.graph)):
        if node.op_type != "Pad" or node.domain or len(node.inputs) > _AXES:
            continue
        pools = [user for user in node.outputs[0].consumers() if user.op_type == "MaxPool"]
        if pools and node.graph is not None:
            # A pool's kernel has every axis but those of batch and channels.
            rank = len(pools[0].attributes["kernel_shape"].as_ints()) + 2
            axes = ir.node("Constant", [], {"value": ir.tensor(list(range(rank)))})
            node.graph.insert_before(node, axes)
            node.resize_inputs(_AXES + 1)
            node.replace_input_with(_AXES, axes.outputs[0])


def _take_all_there_are(model: ir.Model) -> None:
    """Has a TopK of fewer than it asks for take all of them.

    Forward keeps the best of a long sequence, and asks a short one for none: all are kept.
    """
    for node in list(hierarchy.all_nodes(model.graph)):
        wanted = node.inputs[1] if node.op_type == "TopK" and not node.domain else None
        if wanted is None or node.graph is None:
            continue
        axis = node.attributes["axis"].as_int() if "axis" in node.attributes else -1
        ends = {"start": axis} if axis == -1 else {"start": axis, "end": axis + 1}
        there = ir.node("Shape", [node.inputs[0]], ends)
        least = ir.node("Min", [wanted, there.outputs[0]])
        node.graph.insert_before(node, [there, least])
        node.replace_input_with(1, least.outputs[0])
        for output in node.outputs:
            output.shape = None


def _shape_nothing(model: ir.Model) -> None:
    """Has a Reshape of no elements at all keep the length of the axis that it asks for last.

    Forward shapes what there is of a long sequence, and leaves it out of a short one: of no
    elements, -1 is no length.
    """
    for node in list(hierarchy.all_nodes(model.graph)):
        sizes = _sizes_before_rest(node)
        if sizes is None or node.graph is None:
            continue
        rest = ir.node("Constant", [], {"value": ir.tensor([-1])})
        none = ir.node("Constant", [], {"value": ir.tensor(0)})
        count = ir.node("Size", [node.inputs[0]])
        empty = ir.node("Equal", [count.outputs[0], none.outputs[0]])
        last = ir.node("Shape", [node.inputs[0]], {"start": -1})
        length = ir.node("Where", [empty.outputs[0], last.outputs[0], rest.outputs[0]])
        shape = ir.node("Concat", [*sizes, length.outputs[0]], {"axis": 0})
        node.graph.insert_before(node, [rest, none, count, empty, last, length, shape])
        node.replace_input_with(1, shape.outputs[0])


def _sizes_before_rest(node: ir.Node) -> Sequence[ir.Value | None] | None:
    """What a Reshape's shape is joined of, without the -1 that it ends with."""
    if node.op_type != "Reshape" or node.domain or node.inputs[1] is None:
        return None
    shape = node.inputs[1].producer()
    if shape is None or shape.op_type != "Concat":
        return None
    *sizes, last = shape.inputs
    made = last.producer() if last is not None else None
    if made is not None and made.op_type in {"Reshape", "Unsqueeze"}:
        last = made.inputs[0]
    found = ir.convenience.get_const_tensor(last) if last is not None else None
    is_rest = found is not None and found.size == 1 and found.numpy().item() == -1
    return sizes if is_rest else None


# The opset in which Pad was given axes, and their place among its inputs.
_PAD_HAS_AXES, _AXES = 18, 3


def _name_inputs(graph: ir.Graph, request: ExportRequest) -> None:
    expected = tuple(request.inputs)
    if len(graph.inputs) != len(expected):
        found = ", ".join(value.name or "?" for value in graph.inputs)
        raise LoweringError(f"the graph's inputs are ({found}), not ({', '.join(expected)})")
    _clear_names(graph, {*expected, *request.output_names})
    for value, name in zip(graph.inputs, expected, strict=True):
        value.name = name
        axes = request.dynamic_axes.get(name, {})
        tensor = request.inputs[name]
        value.shape = _shape(tuple(tensor.shape), axes)
        # An input that nothing uses may have come out without its own type.
        value.type = ir.TensorType(from_torch_dtype(tensor.dtype))


def _name_outputs(graph: ir.Graph, request: ExportRequest) -> None:
    if len(graph.outputs) != len(request.output_names):
        count, expected = len(graph.outputs), len(request.output_names)
        raise LoweringError(f"the graph has {count} outputs, eager PyTorch gave {expected}")
    seen: set[int] = set()
    for index, name in enumerate(request.output_names):
        value = graph.outputs[index]
        if value.is_graph_input() or value.is_initializer() or id(value) in seen:
            value = _copy_of(graph, value)
            graph.outputs[index] = value
        seen.add(id(value))
        value.name = name
        if value.shape is not None:
            axes = request.output_axes.get(name, {})
            value.shape = _output_shape(value.shape, axes)


def _clear_names(graph: ir.Graph, reserved: set[str]) -> None:
    """Moves what already bears a reserved name out of the way."""
    for value in [*graph.inputs, *graph.initializers.values()]:
        if value.name in reserved:
            value.name = f"{value.name}.initial"
    for node in graph:
        for value in node.outputs:
            if value.name in reserved:
                value.name = f"{value.name}.inner"


def _copy_of(graph: ir.Graph, value: ir.Value) -> ir.Value:
    node = ir.node("Identity", [value])
    graph.append(node)
    copy = node.outputs[0]
    copy.shape, copy.type = value.shape, value.type
    return copy


def _shape(sizes: tuple[int, ...], axes: Mapping[int, str]) -> ir.Shape:
    return ir.Shape([axes.get(index, size) for index, size in enumerate(sizes)])


def _output_shape(shape: ir.Shape, axes: Mapping[int, str]) -> ir.Shape:
    """Keeps known sizes and gives the axes that vary the names they have elsewhere."""
    return ir.Shape(
        [axes.get(index, dim if isinstance(dim, int) else None) for index, dim in enumerate(shape)]
    )


def _convert_opset(model: ir.Model, opset: int) -> None:
    current = model.opset_imports.get("", opset)
    if current == opset:
        return
    from onnxscript import version_converter  # noqa: PLC0415 - slow, and rarely needed

    version_converter.convert_version(model, target_version=opset)
    if model.opset_imports.get("") != opset:
        raise LoweringError(f"opset {current} could not be converted to {opset}")
