"""Reads the shapes of inputs that transformers documents in a forward's docstring."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass

ARGUMENT = re.compile(r"^\s*(\w+)\s*\((.*)$", re.MULTILINE)
SHAPE = re.compile(r"`\(([^`]*)\)`")
OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentedShape:
    """What a docstring says about one argument.

    Attributes:
        symbols: One expression per axis, `batch_size` or `2 * patch_size`.
        kind: `int`, `bool` or `float`, by the documented type; None where unsaid.
    """

    symbols: tuple[str, ...]
    kind: str | None


def documented_shapes(docstring: str | None) -> dict[str, tuple[DocumentedShape, ...]]:
    """Every argument with the shapes its line "name (`type` of shape `(a, b)`)" gives."""
    found: dict[str, tuple[DocumentedShape, ...]] = {}
    for name, text in ARGUMENT.findall(docstring or ""):
        shapes = tuple(
            DocumentedShape(symbols=documented_symbols(shape), kind=_kind(text))
            for shape in SHAPE.findall(text)
        )
        if shapes:
            found.setdefault(name, shapes)
    return found


def documented_symbols(shape: str) -> tuple[str, ...]:
    """The expressions of a written shape, `(batch_size, 2 * patch_size)`, one per axis."""
    flat = shape.replace("(", "").replace(")", "")
    return tuple(part.strip() for part in flat.split(",") if part.strip())


def _kind(text: str) -> str | None:
    if "LongTensor" in text or "IntTensor" in text:
        return "int"
    if "BoolTensor" in text:
        return "bool"
    return "float" if "FloatTensor" in text else None


def evaluate(expression: str, lookup: Callable[[str], int | None]) -> int | None:
    """The value of an arithmetic expression over config names, or None where one is unknown."""
    try:
        return _value(ast.parse(expression.replace("config.", ""), mode="eval").body, lookup)
    except SyntaxError:
        return None


def _value(node: ast.expr, lookup: Callable[[str], int | None]) -> int | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return lookup(node.id)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _value(node.left, lookup), _value(node.right, lookup)
        if left is not None and right is not None:
            return OPERATORS[type(node.op)](left, right)
    return None
