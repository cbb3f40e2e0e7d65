"""Loops over sizes or rows of tensors, which a trace would unroll for the example's number.

The first step is recorded, with a tensor for its number, and all others run unseen. Markers
in the trace say what goes into a step and what comes out of it; in the file, what stands
between them becomes the body of an ONNX Loop.
"""

from __future__ import annotations

import dis
import itertools
import operator
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from onnx_ir.tensor_adapters import from_torch_dtype
from torch import Tensor, nn
from torch.onnx import symbolic_helper

from strategies import loop_markers, rows, torchscript
from strategies.compositions.tables import knowing_aliases
from strategies.computed_lists import ComputedLists
from strategies.loop_markers import DOMAIN, END, INDEX, JOINED, START
from strategies.loop_statements import Statement, find_statement
from strategies.step_numbers import LoopError, unread

# Symbolics hold for their opset and all later ones.
_OLDEST_OPSET = 9


class Loops:
    """The loops of one trace.

    Attributes:
        count: How many were kept so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._statements: dict[tuple[CodeType, int], Statement | None] = {}
        self._gathered: list[_Gathered] = []
        self._lists = ComputedLists()

    @contextmanager
    def kept(self, model: nn.Module) -> Iterator[None]:
        """Within it the model's loops over sizes and rows are recorded as one step.

        Raises:
            LoopError: One of them cannot be.
        """
        exporter: Any = torch.onnx
        with ExitStack() as stack:
            for name, symbolic in _SYMBOLICS.items():
                exporter.register_custom_op_symbolic(name, symbolic, _OLDEST_OPSET)
                stack.callback(exporter.unregister_custom_op_symbolic, name, _OLDEST_OPSET)
            stack.callback(self._lists.forget)
            stack.enter_context(rows.seen(model, self._begin))
            yield

    def around(self, replacements: rows.Replacements) -> rows.Replacements:
        """The same replacements, by which what a kept loop needs is not lost."""
        joining = {
            function: self._joining(replacements.get(function, function), stacked=stacked)
            for function, stacked in _JOINING.items()
        }
        return {**rows.around(replacements, self._begin, self._lists.source), **joining}

    def _begin(self, found: rows.Rows, frame: FrameType) -> Iterator[Any] | None:
        # Else the elements are unpacked, or handed over.
        if dis.opname[frame.f_code.co_code[frame.f_lasti]] != "GET_ITER":
            return None
        if not torchscript.is_tracing():
            return None
        statement = self._statement(frame)
        if statement is not None:
            return self._steps(frame, statement, found)
        self._lists.note(found, frame)
        return None

    def _statement(self, frame: FrameType) -> Statement | None:
        key = frame.f_code, frame.f_lineno
        if key not in self._statements:
            self._statements[key] = find_statement(*key)
        return self._statements[key]

    def _steps(self, frame: FrameType, statement: Statement, found: rows.Rows) -> Iterator[Any]:
        with torchscript.paused():
            everything = found.all()
        if len(everything) == 0:
            return
        apart = int(len(everything) > 1 and statement.begins_otherwise(frame))
        if apart:
            yield found.row(torch.tensor(0))
            everything = everything[1:]
        loop, self.count = self.count, self.count + 1
        number = unread(loop_markers.index(found.count() - apart, loop)) + apart
        before = statement.tensors(frame)
        places = {name: place for place, name in enumerate(before)}
        starts = {
            name: loop_markers.start(tensor, loop, places[name]) for name, tensor in before.items()
        }
        versions = {name: tensor._version for name, tensor in before.items()}  # noqa: SLF001 - documented
        plain = statement.plain_numbers(frame)
        lengths = statement.lengths(frame)
        row = found.row(number)
        for name, tensor in before.items():
            torchscript.give_value(tensor, starts[name])
        yield row
        after = {name: frame.f_locals[name] for name in before if name in frame.f_locals}
        _check(plain, statement.plain_numbers(frame), before, after)
        if any(len(frame.f_locals[name]) != length + 1 for name, length in lengths.items()):
            raise LoopError("a step adds to a list what is not one tensor")
        changed = [
            name
            for name, tensor in after.items()
            if tensor is not before[name] or tensor._version != versions[name]  # noqa: SLF001 - as above
        ]
        marks = _Marks(
            ends=[_alias(after[name]) for name in changed],
            starts=[starts[name] for name in changed],
            loop=loop,
            places=[places[name] for name in changed],
        )
        ends = {name: loop_markers.end(*marks, places[name]) for name in changed}
        # Whoever reads one of those afterwards shall be found out.
        own = {name: item for name, item in frame.f_locals.items() if isinstance(item, Tensor)}
        pieces = {name: _alias(frame.f_locals[name][-1]) for name in lengths}
        # If the body fails, nobody comes back to resume.
        state = torchscript.pause()
        yield from everything[1:]
        last = dict(frame.f_locals)
        torchscript.resume(state)
        for name, length in lengths.items():
            self._gather(last[name][length:], pieces[name], marks, steps=len(everything))
        for name, value in {**own, **ends}.items():
            if last.get(name) is not value and isinstance(last.get(name), Tensor):
                torchscript.give_value(last[name], value)

    def _gather(self, items: list[Any], piece: Tensor, marks: _Marks, *, steps: int) -> None:
        if len(items) != steps or not all(isinstance(item, Tensor) for item in items):
            raise LoopError("a step adds to a list what is not one tensor")
        for item in items[1:]:
            # As above.
            torchscript.give_value(item, piece)
        self._gathered.append(_Gathered(items=items, piece=piece, marks=marks))

    def _joining(self, function: Callable[..., Tensor], *, stacked: bool) -> Callable[..., Tensor]:
        @knowing_aliases
        def join(tensors: Any, dim: int = 0, **options: Any) -> Tensor:
            items = list(tensors)
            for gathered in self._gathered:
                first = gathered.place_in(items)
                if first is not None and torchscript.is_tracing():
                    past = first + len(gathered.items)
                    whole = _join(items[:past], first, gathered, dim, stacked=stacked)
                    rest = [item.unsqueeze(dim) if stacked else item for item in items[past:]]
                    return torch.cat([whole, *rest], dim) if rest else whole
            return function(tensors, dim, **options)

        return join


# Functions that join tensors, and whether along a new axis.
_JOINING: Mapping[Any, bool] = {
    torch.cat: False,
    torch.concat: False,
    torch.concatenate: False,
    torch.stack: True,
}


class _Marks(NamedTuple):
    """What a step ended with in place of what it was given, in the order of its markers."""

    ends: list[Tensor]
    starts: list[Tensor]
    loop: int
    places: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gathered:
    """What the steps of a loop added to a list.

    Attributes:
        items: One of each step.
        piece: The recorded step's.
        marks: What the step ended with besides.
    """

    items: list[Tensor]
    piece: Tensor
    marks: _Marks

    def place_in(self, items: list[Any]) -> int | None:
        """Where in a list they stand one after another."""
        places = [place for place, item in enumerate(items) if item is self.items[0]]
        for place in places:
            part = items[place : place + len(self.items)]
            if len(part) == len(self.items) and all(map(operator.is_, part, self.items)):
                return place
        return None


def _join(
    items: list[Tensor], first: int, gathered: _Gathered, axis: int, *, stacked: bool
) -> Tensor:
    """All of them in one, the first few of which no step made."""
    with torchscript.paused():
        result = (torch.stack(items, axis) if stacked else torch.cat(items, axis)).detach()
        dtype, shape = from_torch_dtype(result.dtype).value, list(result.shape)
    ends, starts, loop, places = gathered.marks
    kind = loop, places, axis % len(shape), int(stacked), dtype, shape
    joined = loop_markers.joined(gathered.piece, ends, starts, items[:first], *kind)
    torchscript.give_value(result, joined)
    return result


def _alias(item: object) -> Tensor:
    """Another tensor for the trace's value, which a later one will not replace."""
    if not isinstance(item, Tensor):
        raise LoopError("a step adds to a list what is no tensor")
    with torchscript.paused():
        result = item.detach()
    torchscript.give_value(result, item)
    return result


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


def _symbolic_joined(  # noqa: PLR0913, PLR0917 - the operator's arguments
    g: Any,
    piece: Any,
    ends: Any,
    starts: Any,
    before: Any,
    loop: int,
    places: list[int],
    axis: int,
    stacked: int,
    dtype: int,
    shape: list[int],
) -> Any:
    lists = [symbolic_helper._unpack_list(item) for item in (ends, starts, before)]  # noqa: SLF001 - as above
    kind = {"loop_i": loop, "axis_i": axis, "stacked_i": stacked, "dtype_i": dtype}
    inputs = [piece, *itertools.chain(*lists)]
    result = g.op(f"{DOMAIN}::{JOINED}", *inputs, **kind, places_i=places)
    return result.setType(piece.type().with_sizes([None] * len(shape)))


_SYMBOLICS = {
    f"{DOMAIN}::loop_index": symbolic_helper.parse_args("v", "i")(_symbolic_index),
    f"{DOMAIN}::loop_start": symbolic_helper.parse_args("v", "i", "i")(_symbolic_start),
    f"{DOMAIN}::loop_end": symbolic_helper.parse_args("v", "v", "i", "is", "i")(_symbolic_end),
    f"{DOMAIN}::loop_joined": symbolic_helper.parse_args(
        "v", "v", "v", "v", "i", "is", "i", "i", "i", "is"
    )(_symbolic_joined),
}
