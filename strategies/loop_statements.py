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
    found = _loop(code, line)
    if found is None or _has(found.iter, _COMPREHENSIONS):
        return None
    targets = list(ast.walk(found.target))
    if not all(isinstance(node, ast.Name | ast.Tuple | ast.List | ast.Store) for node in targets):
        return None
    inside = _inside(found)
    leaves = ast.Break | ast.Continue | ast.Return | ast.Yield | ast.YieldFrom | ast.Await
    if any(isinstance(node, leaves) for node in inside) or _looks_up_text(inside):
        return None
    grown = _grown(inside)
    if grown is None:
        return None
    fresh = _stored(found.target) | _stored_for_sure(found.body)
    fresh -= _read_before(found.body, _stored(found.target))
    bound = {name for statement in found.body for name in _stored(statement)}
    return Statement(bound=frozenset(bound - fresh), fresh=frozenset(fresh), grown=grown)


def selects_apart(code: CodeType, line: int) -> bool:
    """Whether the loop that begins in a line has steps that select, and that leave no name behind.

    What a step does to tensors in place then depends on what it selects.
    """
    found = _loop(code, line)
    if found is None:
        return False
    inside = _inside(found)
    leaves = ast.Break | ast.Return | ast.Yield | ast.YieldFrom | ast.Await
    if any(isinstance(node, leaves) for node in inside) or _grown(inside) != frozenset():
        return False
    target = _stored(found.target)
    bound = {name for statement in found.body for name in _stored(statement)}
    selecting = {
        node.func.attr
        for node in inside
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    return bool(selecting & _SELECTING) and not bound & _read_before(found.body, target)


def _loop(code: CodeType, line: int) -> ast.For | None:
    """The only one that begins there."""
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
    return found[0] if len(found) == 1 and not found[0].orelse else None


def _inside(loop: ast.For) -> list[ast.AST]:
    return [node for statement in loop.body for node in ast.walk(statement)]


def _stored(tree: ast.AST) -> set[str]:
    return {
        node.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)
    }


def _stored_for_sure(statements: Sequence[ast.stmt]) -> set[str]:
    """The names that every run of the statements binds, if it comes to their end."""
    stored = set[str]()
    for statement in statements:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            stored |= _stored(statement)
        elif isinstance(statement, ast.If):
            branches = [
                _stored_for_sure(branch)
                for branch in (statement.body, statement.orelse)
                if not branch or not isinstance(branch[-1], ast.Continue | ast.Raise)
            ]
            stored |= set.intersection(*branches) if branches else set()
    return stored


def _read_before(statements: Sequence[ast.stmt], stored: set[str]) -> set[str]:
    """The names that statements may read before they bind them."""
    stored, read = set(stored), set[str]()
    for statement in statements:
        if isinstance(statement, ast.If):
            read |= _loaded(statement.test) - stored
            for branch in (statement.body, statement.orelse):
                read |= _read_before(branch, stored)
        else:
            read |= _loaded(statement) - stored
        stored |= _stored_for_sure([statement])
    return read


def _loaded(tree: ast.AST) -> set[str]:
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    written = [node.target for node in ast.walk(tree) if isinstance(node, ast.AugAssign)]
    loads = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    return loads | {node.id for node in written if isinstance(node, ast.Name)}


def _looks_up_text(nodes: Sequence[ast.AST]) -> bool:
    """Whether something is looked up by a text that is made in every step."""
    keys = [node.slice for node in nodes if isinstance(node, ast.Subscript)]
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            name = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            keys += node.args if name in _LOOKING_UP else []
    return any(_has(key, ast.FormattedValue) for key in keys)


_COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
# Methods of lists, which have other elements with each step.
_GROWING = {"append", "extend", "insert", "pop"}
_SELECTING = {"where", "nonzero"}
_LOOKING_UP = {"getattr", "get_submodule", "get_parameter", "get_buffer", "get"}


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
