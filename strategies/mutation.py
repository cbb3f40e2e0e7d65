"""Mutation in recorded graphs: finding it, and rewriting it where that is plainly safe."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import fx
from torch._ops import OpOverload

if TYPE_CHECKING:
    from collections.abc import Container


def remains(graph: fx.Graph) -> bool:
    """Whether any operator of the graph writes to its arguments."""
    return any(_is_mutation(node) for node in graph.nodes)


def drop_unused(graph: fx.Graph) -> None:
    """Removes what neither the outputs nor any mutation depends on."""
    graph.eliminate_dead_code(
        is_impure_node=lambda node: node.op in {"placeholder", "output"} or _is_mutation(node)
    )


def rewrite_unshared(graph: fx.Graph, *, keep: Container[Any]) -> None:
    """Turns `x.add_(y)` into `x.add(y)` wherever no other value shares x's memory.

    Most mutation is of this kind, and rewriting it saves recording a second time.

    Args:
        graph: A record in which later uses of x already refer to the mutation's result.
        keep: Operators not to rewrite to.
    """
    drop_unused(graph)
    shared = {node for node in graph.nodes if _may_share_memory(node)}
    for node in graph.nodes:
        twin = _functional_twin(node)
        if twin is None or twin in keep or node.args[0] in shared or _changes_dtype(node):
            continue
        node.target = twin
        if not any(_is_view(user) for user in node.users):
            shared.discard(node)


def _is_mutation(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable  # noqa: SLF001 - torch's schemas have no public name


def _is_view(node: fx.Node) -> bool:
    """Whether a result is, or may be, a window on an argument's memory."""
    if node.target is operator.getitem:
        source = node.args[0]
        return isinstance(source, fx.Node) and _is_view(source)
    if not isinstance(node.target, OpOverload) or _is_mutation(node):
        return False
    returns = node.target._schema.returns  # noqa: SLF001 - as above
    return any(value.alias_info is not None for value in returns)


def _may_share_memory(node: fx.Node) -> bool:
    if node.op == "get_attr" or _is_view(node) or _is_mutation(node):
        return True
    return any(_is_view(user) for user in node.users)


def _functional_twin(node: fx.Node) -> OpOverload | None:
    """`aten.add.Tensor` for `aten.add_.Tensor`."""
    if not _is_mutation(node) or not isinstance(node.target, OpOverload):
        return None
    name = node.target.overloadpacket.__name__
    if node.target.namespace != "aten" or not name.endswith("_") or name.startswith("_"):
        return None
    packet = getattr(torch.ops.aten, name[:-1], None)
    twin: OpOverload | None = getattr(packet, node.target._overloadname, None)  # noqa: SLF001 - as above
    return twin


def _changes_dtype(node: fx.Node) -> bool:
    """Whether the functional operator could return another dtype than the mutated tensor's."""
    result = node.meta.get("val")
    return not isinstance(result, torch.Tensor) or any(
        value.dtype not in {result.dtype, torch.bool} for value in _tensor_arguments(node)
    )


def _tensor_arguments(node: fx.Node) -> Iterator[torch.Tensor]:
    for argument in node.all_input_nodes:
        value = argument.meta.get("val")
        if isinstance(value, torch.Tensor):
            yield value
