"""Light clean-up of lowered graphs: dead code, small constants, repetitions; linear in size."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from onnx_ir import tensor_adapters
from onnx_ir.passes import common as passes
from onnxscript import optimizer

from strategies.hierarchy import mark, scope_of

# Larger tensors are not compared with each other.
COMPARED_BYTES = 1024


# onnx's reference implementation, which folding uses, fails on some shapes of these.
_NOT_EVALUATED = frozenset({"GatherElements"})


def simplify(model: ir.Model) -> None:
    """Removes in place what lowering operator by operator leaves behind.

    Parameters stay as they are, and no operation moves from one module to another.
    """
    graph = model.graph
    if model.functions:
        passes.InlinePass()(model)
    _absorb_transposes(graph)
    passes.RemoveUnusedNodesPass()(model)
    _fold_constants(model)
    passes.IdentityEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)
    _merge_repetitions(graph)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)


def _fold_constants(model: ir.Model) -> None:
    issuers = {
        value.name: scope
        for node in model.graph
        if (scope := scope_of(node)) is not None
        for value in node.outputs
    }
    optimizer.fold_constants(model, should_fold=_may_fold)
    for node in model.graph:
        # What replaces a node bears its values' names, or ones made from them, but not its tag.
        names = [(value.name or "").partition("_split_")[0] for value in node.outputs]
        scopes = [issuers[name] for name in names if name in issuers]
        if scopes and scope_of(node) is None:
            mark(node, scopes[0])


def _may_fold(node: ir.Node) -> bool | None:
    """Forbids folding what reads a weight; None leaves the choice to the optimiser."""
    if node.op_type in _NOT_EVALUATED:
        return False
    return False if any(_is_weight(value) for value in node.inputs) else None


def _is_weight(value: ir.Value | None) -> bool:
    if value is None or not value.is_initializer():
        return False
    tensor = value.const_value
    return isinstance(tensor, tensor_adapters.TorchTensor) and tensor.dtype.is_floating_point()


def _absorb_transposes(graph: ir.Graph) -> None:
    """Turns `x @ weight.t()`, a linear layer, into one Gemm that reads the weight as it is."""
    for node in graph:
        if node.op_type not in {"Gemm", "MatMul"} or node.domain:
            continue
        left, right = node.inputs[:2]
        transpose = right.producer() if right is not None else None
        if transpose is None or transpose.op_type != "Transpose":
            continue
        if "transB" in node.attributes and node.attributes["transB"].as_int():
            continue
        is_matrix = left is not None and left.shape is not None and len(left.shape) == 2
        order = transpose.attributes.get("perm")
        if is_matrix and order is not None and list(order.as_ints()) == [1, 0]:
            node.op_type = "Gemm"
            node.replace_input_with(1, transpose.inputs[0])
            node.attributes["transB"] = ir.AttrInt64("transB", 1)


def _merge_repetitions(graph: ir.Graph) -> None:
    """Keeps one of several nodes that compute the same in the same call of a module.

    Constants are merged wherever they are, as they become initializers of the model.
    """
    seen: dict[Any, ir.Node] = {}
    results = set(graph.outputs)
    for node in graph:
        key = _identity(node)
        first = seen.setdefault(key, node) if key is not None else node
        if first is node or any(value in results for value in node.outputs):
            continue
        ir.convenience.replace_all_uses_with(node.outputs, first.outputs)
        graph.remove(node, safe=True)


def _identity(node: ir.Node) -> Any:
    """Equal for nodes that compute the same; None where that cannot be said."""
    if node.op_type.startswith("Random") or node.op_type in {"Multinomial", "Bernoulli"}:
        return None
    attributes = []
    for name, attribute in sorted(node.attributes.items()):
        if attribute.type in {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
            return None
        attributes.append((name, _comparable(attribute.value)))
    return (
        None if node.op_type == "Constant" else scope_of(node),
        node.op_identifier(),
        tuple(id(value) for value in node.inputs),
        tuple(attributes),
        len(node.outputs),
    )


def _comparable(value: Any) -> Any:
    if isinstance(value, ir.TensorProtocol):
        if value.nbytes > COMPARED_BYTES:
            return id(value)
        return value.dtype, tuple(value.shape.numpy()), value.tobytes()
    return tuple(value) if isinstance(value, list | tuple) else value
