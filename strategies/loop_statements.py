"""Loops as they stand in the source: which names a step binds, reads and appends to."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn

from strategies.step_numbers import LoopError


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A loop in the source.

    Attributes:
        bound: The names that its body binds and may read before that.
        fresh: Those that every step binds before it reads them.
        grown: Those of lists to which it appends.
    """

    bound: frozenset[str]
    fresh: frozenset[str]
    grown: frozenset[str]

    def begins_otherwise(self, frame: FrameType) -> bool:
        """Whether the first step finds nothing where later ones find what the one before left."""
        return any(frame.f_locals.get(name, ...) is None for name in self.bound)

    def tensors(self, frame: FrameType) -> dict[str, Tensor]:
        """Local variables that a step may change; sizes only where it binds them."""
        return {
            name: item
            for name, item in frame.f_locals.items()
            if isinstance(item, Tensor)
            and not isinstance(item, nn.Parameter)
            and name not in self.fresh
            and (name in self.bound or item.dim() > 0)
        }

    def plain_numbers(self, frame: FrameType) -> dict[str, object]:
        """Those that a step binds and that are no tensors."""
        kinds = bool | int | float | torch.SymInt | torch.SymFloat | None
        names = self.bound & frame.f_locals.keys()
        return {
            name: frame.f_locals[name] for name in names if isinstance(frame.f_locals[name], kinds)
        }

    def lengths(self, frame: FrameType) -> dict[str, int]:
        """How many elements the lists have that steps append to.

        Raises:
            LoopError: One of them is no list.
        """
        lists = {name: frame.f_locals.get(name) for name in self.grown}
        if any(type(item) is not list for item in lists.values()):
            raise LoopError("a step appends to what is no list")
        return {name: len(item) for name, item in lists.items() if item is not None}


def find_statement(code: CodeType, line: int) -> Statement | None:
    """The loop that begins in a line, if its steps follow one another to the end."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError, TypeError):
        return None
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.For)
        and node.lineno <= line - code.co_firstlineno + 1 <= (node.iter.end_lineno or 0)
    ]
    if len(found) != 1 or found[0].orelse or _has(found[0].iter, _COMPREHENSIONS):
        return None
    targets = list(ast.walk(found[0].target))
    if not all(isinstance(node, ast.Name | ast.Tuple | ast.List | ast.Store) for node in targets):
        return None
    inside = [node for statement in found[0].body for node in ast.walk(statement)]
    leaves = ast.Break | ast.Continue | ast.Return | ast.Yield | ast.YieldFrom | ast.Await
    if any(isinstance(node, leaves) for node in inside):
        return None
    grown = _grown(inside)
    if grown is None:
        return None
    stored = {node.id for node in targets if isinstance(node, ast.Name)}
    loaded = set[str]()
    for statement in found[0].body:
        names = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
        loads = {node.id for node in names if isinstance(node.ctx, ast.Load)}
        if isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            loads.add(statement.target.id)
        loaded |= loads - stored
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            stored |= {node.id for node in names if isinstance(node.ctx, ast.Store)}
    bound = {
        node.id
        for node in inside
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }
    fresh = frozenset(stored - loaded)
    return Statement(bound=frozenset(bound) - fresh, fresh=fresh, grown=grown)


_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
# Methods of lists, which have other elements with each step.
_GROWING = {"append", "extend", "insert", "pop"}


def _has(tree: ast.AST, kinds: Any) -> bool:
    return any(isinstance(node, kinds) for node in ast.walk(tree))


def _grown(nodes: Sequence[ast.AST]) -> frozenset[str] | None:
    """The lists that are appended to; None if that is not all that happens to lists."""
    methods = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr in _GROWING]
    if any(node.attr != "append" or not isinstance(node.value, ast.Name) for node in methods):
        return None
    names = [node.value.id for node in methods if isinstance(node.value, ast.Name)]
    read = [node.id for node in nodes if isinstance(node, ast.Name) and node.id in names]
    return frozenset(names) if len(read) == len(names) else None
