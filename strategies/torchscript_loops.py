"""Loops over as many steps as a size says, which a trace would unroll for the example's size.

The first step is recorded, with a tensor for its number, and all others run unseen. Markers
in the trace say what goes into a step and what comes out of it; in the file, what stands
between them becomes the body of an ONNX Loop.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import operator
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.onnx import symbolic_helper

from strategies import torchscript
from strategies.step_numbers import LoopError, unread

DOMAIN = "autoexport"
# The markers' operators in ONNX.
INDEX, START, END = "LoopIndex", "LoopStart", "LoopEnd"
# Symbolics hold for their opset and all later ones.
_OLDEST_OPSET = 9


def _marker(name: str, schema: str, function: Callable[..., Tensor]) -> Any:
    marker: Any = torch.library.custom_op(
        f"{DOMAIN}::{name}", function, mutates_args=(), schema=schema
    )
    marker.register_fake(lambda *args: torch.empty_like(function(*args)))
    return marker


_index = _marker(
    "loop_index", "(Tensor count, int loop) -> Tensor", lambda count, _: torch.zeros_like(count)
)
# What a step is given under a number; a copy, as it may be written to.
_start = _marker("loop_start", "(Tensor x, int loop, int place) -> Tensor", lambda x, *_: x.clone())
# One of all that it ends with, by its place among the numbers. Each has all of it, and what
# it was given, so that nothing is lost that only the next step reads.
_end = _marker(
    "loop_end",
    "(Tensor[] ends, Tensor[] starts, int loop, int[] places, int place) -> Tensor",
    lambda ends, _, __, places, place: ends[places.index(place)].clone(),
)


class Loops:
    """The loops of one trace.

    Attributes:
        count: How many were kept so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._statements: dict[tuple[CodeType, int], _Statement | None] = {}

    @contextmanager
    def kept(self, model: nn.Module) -> Iterator[None]:
        """Within it the model's loops over sizes are recorded as one step.

        Raises:
            LoopError: One of them cannot be.
        """
        exporter: Any = torch.onnx
        sources = {type(part).__module__ for part in model.modules()} & sys.modules.keys()
        replacement = self._range()
        with ExitStack() as stack:
            for name, symbolic in _SYMBOLICS.items():
                exporter.register_custom_op_symbolic(name, symbolic, _OLDEST_OPSET)
                stack.callback(exporter.unregister_custom_op_symbolic, name, _OLDEST_OPSET)
            for source in sorted(sources):
                module = sys.modules[source]
                if not source.startswith("torch.") and "range" not in vars(module):
                    vars(module)["range"] = replacement
                    stack.callback(delattr, module, "range")
            yield

    def _range(self) -> Any:
        class Kind(type):
            def __call__(cls, *args: Any) -> Any:
                if torchscript.is_tracing() and any(isinstance(item, Tensor) for item in args):
                    frame = sys._getframe(1)  # noqa: SLF001 - the documented way
                    statement = self._statement(frame)
                    if statement is not None:
                        return self._steps(frame, statement, args)
                return builtins.range(*args)

            def __instancecheck__(cls, item: object) -> bool:
                return isinstance(item, builtins.range)

        return Kind("range", (), {})

    def _statement(self, frame: FrameType) -> _Statement | None:
        key = frame.f_code, frame.f_lineno
        if key not in self._statements:
            self._statements[key] = _find_statement(*key)
        return self._statements[key]

    def _steps(self, frame: FrameType, statement: _Statement, args: Any) -> Iterator[Any]:
        first, stop, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
        numbers = builtins.range(*map(operator.index, args))
        if type(step) is not int or step < 1 or len(numbers) == 0:
            yield from numbers
            return
        count = torch.clamp(torch.as_tensor((stop - first + (step - 1)) // step), min=0)
        loop, self.count = self.count, self.count + 1
        before = _tensors(frame, statement)
        places = {name: place for place, name in enumerate(before)}
        starts = {name: _start(tensor, loop, places[name]) for name, tensor in before.items()}
        versions = {name: tensor._version for name, tensor in before.items()}  # noqa: SLF001 - documented
        plain = _plain_numbers(frame, statement)
        for name, tensor in before.items():
            torchscript.give_value(tensor, starts[name])
        yield unread(_index(count, loop) * step + first)
        after = {name: frame.f_locals[name] for name in before if name in frame.f_locals}
        _check(plain, _plain_numbers(frame, statement), before, after)
        changed = [
            name
            for name, tensor in after.items()
            if tensor is not before[name] or tensor._version != versions[name]  # noqa: SLF001 - as above
        ]
        found = [after[name] for name in changed], [starts[name] for name in changed]
        numbers_of = [places[name] for name in changed]
        ends = {name: _end(*found, loop, numbers_of, places[name]) for name in changed}
        # Whoever reads one of those afterwards shall be found out.
        own = {name: item for name, item in frame.f_locals.items() if isinstance(item, Tensor)}
        # If the body fails, nobody comes back to resume.
        state = torchscript.pause()
        yield from numbers[1:]
        last = dict(frame.f_locals)
        torchscript.resume(state)
        for name, value in {**own, **ends}.items():
            if last.get(name) is not value and isinstance(last.get(name), Tensor):
                torchscript.give_value(last[name], value)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Statement:
    """A loop in the source.

    Attributes:
        bound: The names that its body binds and may read before that.
        fresh: Those that every step binds before it reads them.
    """

    bound: frozenset[str]
    fresh: frozenset[str]


def _find_statement(code: CodeType, line: int) -> _Statement | None:
    """The loop that asks for its range in a line, if its steps follow one another to the end."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(code)))
    except (OSError, SyntaxError, TypeError):
        return None
    found = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.For)
        and isinstance(node.iter, ast.Call)
        and isinstance(node.iter.func, ast.Name)
        and node.iter.func.id == "range"
        and node.iter.lineno + code.co_firstlineno - 1 == line
    ]
    if len(found) != 1 or not isinstance(found[0].target, ast.Name) or found[0].orelse:
        return None
    inside = [node for statement in found[0].body for node in ast.walk(statement)]
    leaves = ast.Break | ast.Continue | ast.Return | ast.Yield | ast.YieldFrom | ast.Await
    if any(isinstance(node, leaves) for node in inside):
        return None
    if any(isinstance(node, ast.Attribute) and node.attr in _GROWING for node in inside):
        return None
    stored, loaded = {found[0].target.id}, set[str]()
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
    return _Statement(bound=frozenset(bound) - fresh, fresh=fresh)


# Methods of lists, which have an element for each step afterwards.
_GROWING = {"append", "extend", "insert"}


def _tensors(frame: FrameType, statement: _Statement) -> dict[str, Tensor]:
    """Local variables that a step may change; sizes only where it binds them."""
    return {
        name: item
        for name, item in frame.f_locals.items()
        if isinstance(item, Tensor)
        and not isinstance(item, nn.Parameter)
        and name not in statement.fresh
        and (name in statement.bound or item.dim() > 0)
    }


def _plain_numbers(frame: FrameType, statement: _Statement) -> Mapping[str, object]:
    kinds = bool | int | float | None
    names = statement.bound & frame.f_locals.keys()
    return {name: frame.f_locals[name] for name in names if isinstance(frame.f_locals[name], kinds)}


def _check(
    plain: Mapping[str, object],
    plain_after: Mapping[str, object],
    before: Mapping[str, Tensor],
    after: Mapping[str, object],
) -> None:
    changed = [
        name for name in plain if name not in plain_after or plain_after[name] != plain[name]
    ]
    if changed:
        raise LoopError(f"a step changes {', '.join(changed)}, which is no tensor")
    if after.keys() != before.keys() or not all(isinstance(x, Tensor) for x in after.values()):
        raise LoopError("a step takes a tensor away")
    bound = [name for name in before if after[name] is not before[name]]
    if len({id(before[name]) for name in bound}) < len(bound):
        raise LoopError("two variables begin as one tensor")


def _symbolic_index(g: Any, count: Any, loop: int) -> Any:
    return g.op(f"{DOMAIN}::{INDEX}", count, loop_i=loop).setType(count.type())


def _symbolic_start(g: Any, x: Any, loop: int, place: int) -> Any:
    return g.op(f"{DOMAIN}::{START}", x, loop_i=loop, place_i=place).setType(x.type())


def _symbolic_end(  # noqa: PLR0913, PLR0917 - the operator's arguments
    g: Any, ends: Any, starts: Any, loop: int, places: list[int], place: int
) -> Any:
    found = symbolic_helper._unpack_list(ends)  # noqa: SLF001 - as torch's own symbolics do
    given = symbolic_helper._unpack_list(starts)  # noqa: SLF001 - as above
    result = g.op(f"{DOMAIN}::{END}", *found, *given, loop_i=loop, places_i=places, place_i=place)
    return result.setType(found[places.index(place)].type())


_SYMBOLICS = {
    f"{DOMAIN}::loop_index": symbolic_helper.parse_args("v", "i")(_symbolic_index),
    f"{DOMAIN}::loop_start": symbolic_helper.parse_args("v", "i", "i")(_symbolic_start),
    f"{DOMAIN}::loop_end": symbolic_helper.parse_args("v", "v", "i", "is", "i")(_symbolic_end),
}
