"""Lists of numbers that forward computes from rows: `lengths = [h * w for h, w in grid.tolist()]`.

Such a list has as many elements as the example. What its elements are computed by also
computes all of them at once from the columns of the rows, whatever their number.
"""

from __future__ import annotations

import ast
import inspect
import operator
import textwrap
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import TYPE_CHECKING

from torch import Tensor

from strategies.torchscript import paused

if TYPE_CHECKING:
    from strategies.rows import Rows

_ROW = "row_of_all"
_ARITHMETIC = (
    ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop | ast.Name | ast.Constant | ast.Load
)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Comprehension:
    """One in the source, whose list gets a name."""

    name: str
    compute: CodeType


class ComputedLists:
    """Those of one trace."""

    def __init__(self) -> None:
        self._found: dict[tuple[CodeType, int], _Comprehension | None] = {}
        # The last that was made in each place; who made it still has it under its name.
        self._made: dict[_Comprehension, tuple[FrameType, Tensor]] = {}

    def note(self, rows: Rows, frame: FrameType) -> None:
        """To be called when a frame begins to go over rows, maybe in a comprehension."""
        key = frame.f_code, frame.f_lineno
        if key not in self._found:
            self._found[key] = _find(*key)
        found = self._found[key]
        columns = None if found is None else rows.columns()
        if found is not None and columns is not None:
            names = {**frame.f_globals, **frame.f_locals, _ROW: columns}
            result = eval(found.compute, names)  # noqa: S307 - the model's own arithmetic
            if isinstance(result, Tensor) and result.dim() == 1:
                self._made[found] = frame, result

    def source(self, numbers: object) -> Tensor | None:
        """The tensor that has a list's numbers, if it is one of these."""
        if not isinstance(numbers, list):
            return None
        for found, (frame, tensor) in self._made.items():
            if operator.is_(frame.f_locals.get(found.name), numbers):
                with paused():
                    values: object = tensor.tolist()
                    same = values == [int(item) for item in numbers]
                return tensor if same else None
        return None

    def forget(self) -> None:
        """Lets go of the frames, which keep all that forward computed."""
        self._made.clear()


def _find(code: CodeType, line: int) -> _Comprehension | None:
    """The comprehension over rows in a line, if it takes no more than arithmetic."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError, TypeError):
        return None
    here = line - code.co_firstlineno + 1
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.ListComp)
        and node.lineno <= here <= (node.end_lineno or 0)
    ]
    if len(found) != 1 or len(found[0].targets) != 1:
        return None
    target, made = found[0].targets[0], found[0].value
    if not isinstance(target, ast.Name) or not isinstance(made, ast.ListComp):
        return None
    loop = made.generators[0]
    own = {node.id for node in ast.walk(loop.target) if isinstance(node, ast.Name)}
    if len(made.generators) > 1 or loop.ifs or not _is_arithmetic(made.elt, own):
        return None
    loop.iter = ast.List(elts=[ast.Name(id=_ROW, ctx=ast.Load())], ctx=ast.Load())
    first = ast.Subscript(value=made, slice=ast.Constant(0), ctx=ast.Load())
    body = ast.fix_missing_locations(ast.Expression(first))
    return _Comprehension(name=target.id, compute=compile(body, code.co_filename, "eval"))


def _is_arithmetic(tree: ast.AST, own: set[str]) -> bool:
    """Whether columns may stand for the numbers of a row; others' attributes are the same for all.

    Args:
        tree: What is computed.
        own: The names that the numbers of the row, or the row, have in it.
    """
    if isinstance(tree, ast.Attribute | ast.Subscript):
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        is_number = isinstance(tree, ast.Subscript) and isinstance(tree.slice, ast.Constant)
        return is_number if names & own else isinstance(tree, ast.Attribute)
    is_known = isinstance(tree, _ARITHMETIC)
    return is_known and all(_is_arithmetic(node, own) for node in ast.iter_child_nodes(tree))
