"""Rewriting recorded graphs so that no operator writes to its arguments."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from strategies.errors import CaptureError

aten = torch.ops.aten


def remains(graph: fx.Graph) -> bool:
    """Whether any operator of the graph writes to its arguments."""
    return any(_is_mutation(node) for node in graph.nodes)


def check_none(graph: fx.Graph) -> None:
    """Makes sure that no operator writes to anything but an input of the graph.

    What it writes to an input is for the caller alone, once reading it is functional.

    Raises:
        CaptureError: One does.
    """
    aliases, _ = _aliases(graph)
    for node in graph.nodes:
        if _is_mutation(node) and _owner(node, aliases).op != "placeholder":
            raise CaptureError(
                f"{node.target} writes to a tensor in a way that cannot be rewritten",
                stage="capture",
            )


def _drop_unused(graph: fx.Graph) -> None:
    """Removes what neither the outputs nor any mutation depends on."""
    graph.eliminate_dead_code(
        is_impure_node=lambda node: node.op in {"placeholder", "output"} or _is_mutation(node)
    )


def rewrite(graph: fx.Graph, *, keep: Container[Any]) -> None:
    """Turns every `x.add_(y)` into `x.add(y)`, and what shares x's memory into views of that.

    Does nothing where one of the graph's mutations is not of a kind it knows.

    Args:
        graph: A record in which later uses of x already refer to the mutation's result.
        keep: Operators not to rewrite to.
    """
    _drop_unused(graph)
    mutations = [node for node in graph.nodes if _is_mutation(node)]
    if not mutations:
        return
    aliases, identities = _aliases(graph)
    if all(_is_supported(node, aliases, keep) for node in mutations):
        _Rewriter(graph=graph, aliases=aliases, identities=identities).run()
        _drop_unused(graph)


@dataclass(slots=True)
class _Rewriter:
    """Walks the graph once, keeping for each value its latest functional equivalent.

    Attributes:
        graph: Rewritten in place.
        aliases: For each node that shows another's memory, that other node.
        identities: Those of them that show all of it unchanged.
        versions: How often the memory that a node owns has been written to.
        latest: A node's functional equivalent and the version it belongs to.
    """

    graph: fx.Graph
    aliases: dict[fx.Node, fx.Node]
    identities: set[fx.Node]
    versions: Counter[fx.Node] = field(default_factory=Counter)
    latest: dict[fx.Node, tuple[int, fx.Node]] = field(default_factory=dict)

    def run(self) -> None:
        for node in list(self.graph.nodes):
            with self.graph.inserting_before(node):
                if _is_mutation(node):
                    self._mutate(node)
                    continue
                if node.op in {"call_function", "output"}:
                    self._redirect(node)
                value = self._current(self.aliases[node]) if node in self.identities else node
            self.latest[node] = self.versions[_owner(node, self.aliases)], value

    def _redirect(self, node: fx.Node) -> None:
        node.args = fx.map_arg(node.args, self._current)
        node.kwargs = fx.map_arg(node.kwargs, self._current)

    def _current(self, node: fx.Node) -> fx.Node:
        """The value that the node shows now, its view replayed if its memory was written to."""
        version, value = self.latest[node]
        now = self.versions[_owner(node, self.aliases)]
        if version == now:
            return value
        source = self._current(self.aliases[node])
        if node in self.identities:
            value = source
        else:
            value = self._create(node.target, (source, *node.args[1:]), like=node, scope=node)
            value.kwargs = node.kwargs
        self.latest[node] = now, value
        return value

    def _mutate(self, node: fx.Node) -> None:
        written = _first_argument(node)
        chain: list[tuple[fx.Node, fx.Node]] = []
        while written in self.aliases:
            chain.append((written, self._current(self.aliases[written])))
            written = self.aliases[written]
        self._redirect(node)
        node.target = functional_twin(node.target) or node.target
        self.versions[written] += 1
        version, result, following = self.versions[written], node, node.next
        self.latest[node] = version, result
        for alias, source in chain:
            self.latest[alias] = version, result
            if alias not in self.identities:
                with self.graph.inserting_before(following):
                    result = self._write_back(alias, source, result)
        self.latest[written] = version, result

    def _write_back(self, alias: fx.Node, source: fx.Node, result: fx.Node) -> fx.Node:
        """The value of the view's source once the view has become `result`."""
        target, *arguments = _INVERSES[alias.target](*alias.args[1:])
        if target is aten.view.default:
            arguments = [[self._size(source, axis) for axis in range(_rank(source))]]
        first = (source, result) if target in _SCATTERS else (result,)
        return self._create(target, (*first, *arguments), like=source, scope=result)

    def _size(self, source: fx.Node, axis: int) -> int | fx.Node:
        size: int | torch.SymInt = source.meta["val"].shape[axis]
        if isinstance(size, int):
            return size
        node = self.graph.call_function(aten.sym_size.int, (source, axis))
        node.meta = {key: value for key, value in source.meta.items() if key == "custom"}
        node.meta["val"] = size
        return node

    def _create(
        self, target: Any, arguments: tuple[Any, ...], *, like: fx.Node, scope: fx.Node
    ) -> fx.Node:
        node = self.graph.call_function(target, arguments)
        node.meta = {key: value for key, value in scope.meta.items() if key == "custom"}
        node.meta["val"] = like.meta["val"]
        return node


_UNSAFE_VIEW = aten._unsafe_view.default  # noqa: SLF001 - the operator's name


def _transposed(order: list[int]) -> list[int]:
    return [order.index(axis) for axis in range(len(order))]


# From the arguments of a view, past the tensor, to the operator that writes a changed view
# back into its source, and that operator's arguments past the tensors.
_INVERSES: dict[Any, Callable[..., tuple[Any, ...]]] = {
    aten.slice.Tensor: lambda *where: (aten.slice_scatter.default, *where),
    aten.select.int: lambda *where: (aten.select_scatter.default, *where),
    aten.transpose.int: lambda first, second: (aten.transpose.int, first, second),
    aten.permute.default: lambda order: (aten.permute.default, _transposed(order)),
    aten.t.default: lambda: (aten.t.default,),
    aten.unsqueeze.default: lambda axis: (aten.squeeze.dim, axis),
    aten.squeeze.dim: lambda _: (aten.view.default,),
    aten.squeeze.dims: lambda _: (aten.view.default,),
    aten.squeeze.default: lambda: (aten.view.default,),
    aten.view.default: lambda _: (aten.view.default,),
    _UNSAFE_VIEW: lambda _: (aten.view.default,),
    aten.alias.default: lambda: (aten.alias.default,),
    aten.detach.default: lambda: (aten.detach.default,),
}
_SCATTERS = frozenset({aten.slice_scatter.default, aten.select_scatter.default})


def _is_supported(node: fx.Node, aliases: dict[fx.Node, fx.Node], keep: Container[Any]) -> bool:
    twin = functional_twin(node.target)
    view = node.args[0]
    if twin is None or twin in keep or not isinstance(view, fx.Node):
        return False
    while view in aliases:
        if not (_is_mutation(view) or view.op == "get_attr" or view.target in _INVERSES):
            return False
        view = aliases[view]
    return True


def _aliases(graph: fx.Graph) -> tuple[dict[fx.Node, fx.Node], set[fx.Node]]:
    aliases: dict[fx.Node, fx.Node] = {}
    identities: set[fx.Node] = set()
    readers: dict[str, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            first = readers.setdefault(str(node.target), node)
            if first is not node:
                aliases[node] = first
                identities.add(node)
        elif _is_mutation(node) or _is_view(node):
            aliases[node] = _first_argument(node)
            if _is_mutation(node):
                identities.add(node)
    return aliases, identities


def _owner(node: fx.Node, aliases: dict[fx.Node, fx.Node]) -> fx.Node:
    while node in aliases:
        node = aliases[node]
    return node


def _first_argument(node: fx.Node) -> fx.Node:
    first = node.args[0]
    if not isinstance(first, fx.Node):
        msg = f"{node.target} has no tensor as its first argument"
        raise TypeError(msg)
    return first


def _is_mutation(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable  # noqa: SLF001 - torch's schemas have no public name


def _is_view(node: fx.Node) -> bool:
    """Whether a result is, or may be, a window on the first argument's memory."""
    if node.target is operator.getitem:
        return _is_view(_first_argument(node))
    if not isinstance(node.target, OpOverload) or _is_mutation(node):
        return False
    if node.target is _UNSAFE_VIEW:
        return True
    returns = node.target._schema.returns  # noqa: SLF001 - as above
    return any(value.alias_info is not None for value in returns)


def functional_twin(target: object) -> OpOverload | None:
    """`aten.add.Tensor` for `aten.add_.Tensor`."""
    if not isinstance(target, OpOverload) or target.namespace != "aten":
        return None
    name = target.overloadpacket.__name__
    if not name.endswith("_") or name.startswith("_"):
        return None
    packet = getattr(aten, name[:-1], None)
    twin: OpOverload | None = getattr(packet, target._overloadname, None)  # noqa: SLF001 - as above
    return twin


def _rank(node: fx.Node) -> int:
    return len(node.meta["val"].shape)
