"""Loops as they stand in the source: which names a step binds, reads and appends to."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any


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
