"""Branches on sizes: two captures that take different ones, joined by an ONNX If.

A trace takes the branches that its example's sizes lead to. Where neither is right at every
size, the file has both: the first for sizes that lead to all of its branches, of those that
they do not share, and the second for all others.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType

import onnx_ir as ir
import torch
from torch import Tensor

from strategies import hierarchy
from strategies.torchscript import is_tracing

Answers = Mapping[Hashable, bool]


class Decisions:
    """What a forward that is traced asks of tensors.

    Args:
        others: The answers in another trace.

    Attributes:
        answers: Those of this one, by who asked where in the code, and how often before.
        parting: Whether all questions that the other trace was answered otherwise are
            answered as in this one; None if there is no such question.
    """

    def __init__(self, others: Answers) -> None:
        self.answers: dict[Hashable, bool] = {}
        self.parting: Tensor | None = None
        self._others = others
        self._asked = Counter[Hashable]()

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Within it they are."""
        plain = Tensor.__bool__

        def asked(tensor: Tensor) -> bool:
            answer = plain(tensor)
            if is_tracing():
                self._note(tensor, answer, sys._getframe(1))  # noqa: SLF001 - the documented way
            return answer

        every_tensor: type = Tensor
        every_tensor.__bool__ = asked  # type: ignore[attr-defined]  # Tensor has it, type has not
        try:
            yield
        finally:
            del every_tensor.__bool__  # type: ignore[attr-defined]  # as above

    def _note(self, tensor: Tensor, answer: bool, frame: FrameType) -> None:  # noqa: FBT001 - what is noted
        place = id(frame.f_locals.get("self")), frame.f_code, frame.f_lasti
        question = *place, self._asked[place]
        self._asked[place] += 1
        self.answers[question] = answer
        if self._others.get(question, answer) is not answer:
            held = tensor.reshape(()).to(torch.bool)
            held = held if answer else held.logical_not()
            self.parting = held if self.parting is None else self.parting.logical_and(held)


def join(model: ir.Model, condition: ir.Value, other: ir.Model) -> None:
    """Has a model compute its outputs as another does wherever the condition is false.

    Args:
        model: Keeps its inputs and weights.
        condition: One of its values.
        other: Of the same inputs, weights and outputs; is taken apart.
    """
    graph = model.graph
    before = _needed(graph, condition)
    mine, theirs = list(graph.outputs), list(other.graph.outputs)
    graph.outputs.clear()
    other.graph.outputs.clear()
    shared = _share(graph, other.graph)
    theirs = [shared.get(value, value) for value in theirs]
    then = _branch([node for node in graph if node not in before], mine, "then")
    otherwise = _branch(list(other.graph), theirs, "else")
    node = ir.node(
        "If",
        [condition],
        {"then_branch": then, "else_branch": otherwise},
        num_outputs=len(mine),
        name="sizes",
    )
    for place, (value, *old) in enumerate(zip(node.outputs, mine, theirs, strict=True)):
        value.name, value.type = f"joined_{place}", old[0].type
        value.shape = _common([item.shape for item in old])
    graph.append(node)
    graph.outputs.extend(node.outputs)
    model.opset_imports.update({**other.opset_imports, **model.opset_imports})


def _common(shapes: Sequence[ir.Shape | None]) -> ir.Shape | None:
    """The sizes on which shapes agree; None where their ranks do not, or are unknown."""
    known = [shape.dims for shape in shapes if shape is not None]
    if len(known) < len(shapes) or len({len(dims) for dims in known}) > 1:
        return None
    return ir.Shape([dims[0] if len(set(dims)) == 1 else None for dims in zip(*known, strict=True)])


def _needed(graph: ir.Graph, value: ir.Value) -> set[ir.Node]:
    """The nodes that a value is computed by."""
    found: set[ir.Node] = set()
    waiting = [value.producer()]
    while waiting:
        node = waiting.pop()
        if node is None or node in found:
            continue
        if node.graph is graph:
            found.add(node)
        inside = [
            inner for part in hierarchy.subgraphs(node) for inner in hierarchy.all_nodes(part)
        ]
        waiting += [item.producer() for user in (node, *inside) for item in user.inputs if item]
    return found


def _share(graph: ir.Graph, other: ir.Graph) -> dict[ir.Value, ir.Value]:
    """Has another graph read this one's inputs and weights, and bear no name twice.

    Returns:
        What it reads now in place of what.
    """
    shared = dict(zip(other.inputs, graph.inputs, strict=True))
    for name, value in list(other.initializers.items()):
        other.initializers.pop(name)
        if name in graph.initializers:
            shared[value] = graph.initializers[name]
        else:
            graph.register_initializer(value)
    for theirs, mine in shared.items():
        theirs.replace_all_uses_with(mine)
    for node in list(hierarchy.all_nodes(other)):
        given = [value for part in hierarchy.subgraphs(node) for value in part.inputs]
        for value in (*node.outputs, *given):
            value.name = f"{value.name}.otherwise" if value.name else value.name
    return shared


def _branch(nodes: Iterable[ir.Node], outputs: Sequence[ir.Value], name: str) -> ir.Graph:
    """A graph of the nodes, whose outputs are its own even where they are inputs or weights."""
    copies = [ir.node("Identity", [value]) for value in outputs]
    for place, (copy, value) in enumerate(zip(copies, outputs, strict=True)):
        copy.outputs[0].name, copy.outputs[0].type = f"{name}_{place}", value.type
    moved = list(nodes)
    for graph in {node.graph for node in moved if node.graph is not None}:
        graph.remove(moved)
    return ir.Graph([], [copy.outputs[0] for copy in copies], nodes=[*moved, *copies], name=name)
