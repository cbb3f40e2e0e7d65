"""Loops over sizes that are symbols, which a capture would unroll for the example's number.

One step is recorded, with a symbol for its number, and no other is run. Markers in the
capture say what goes into a step and what comes out of it; in the file, what stands
between them becomes the body of an ONNX Loop.
"""

from __future__ import annotations

import ctypes
import dis
import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any, NamedTuple

import torch
from onnx_ir.tensor_adapters import from_torch_dtype
from torch import Tensor, nn
from torch._subclasses.functional_tensor import FunctionalTensor

from strategies import loop_markers, stretches
from strategies.compositions.tables import knowing_aliases
from strategies.loop_statements import Statement, find_statement
from strategies.patching import attribute
from strategies.sizes import sources
from strategies.step_numbers import LoopError


class Loops:
    """The loops of one capture.

    Attributes:
        count: How many were kept so far.
    """

    def __init__(self) -> None:
        self.count = 0
        self._statements: dict[tuple[CodeType, int], Statement | None] = {}
        self._gathered: list[_Gathered] = []

    @contextmanager
    def kept(self, model: nn.Module) -> Iterator[None]:
        """Within it the model's loops over sizes are recorded as one step.

        Raises:
            LoopError: One of them cannot be.
        """
        open_range = stretches.ranges(functools.partial(_Range, self))
        with ExitStack() as stack:
            for module in sources(model):
                found = vars(module).get("range")
                if found is None:
                    stack.callback(delattr, module, "range")
                elif isinstance(found, type):
                    # One that lists are made of.
                    stack.callback(setattr, module, "range", found)
                else:
                    continue
                vars(module)["range"] = open_range
            for name, stacked in _JOINING.items():
                join = self._joining(getattr(torch, name), stacked=stacked)
                stack.enter_context(attribute(torch, name, join))
            yield

    def begin(self, numbers: _Range, frame: FrameType) -> Iterator[Any] | None:
        """Takes over the loop that a frame begins; None where it begins none that is known."""
        # Else the numbers are unpacked, or handed over.
        if dis.opname[frame.f_code.co_code[frame.f_lasti]] != "GET_ITER":
            return None
        key = frame.f_code, frame.f_lineno
        if key not in self._statements:
            self._statements[key] = find_statement(*key)
        statement = self._statements[key]
        return None if statement is None else self._steps(frame, statement, numbers)

    def _steps(self, frame: FrameType, statement: Statement, numbers: _Range) -> Iterator[Any]:
        apart = int(statement.begins_otherwise(frame))
        if apart:
            yield numbers.number(0)
        loop, self.count = self.count, self.count + 1
        count = numbers.count() - apart
        number = _unknown(loop_markers.open_index(count, loop))
        torch._check(number < count)  # type: ignore[no-untyped-call]  # noqa: SLF001 - documented, and has no types
        before = statement.tensors(frame)
        given = {
            name: loop_markers.start(tensor, loop, place)
            for place, (name, tensor) in enumerate(before.items())
        }
        writes = {name: _writes(tensor) for name, tensor in given.items()}
        plain, lengths = statement.plain_numbers(frame), statement.lengths(frame)
        _bind(frame, given)
        yield numbers.number(number + apart)
        after = {name: frame.f_locals.get(name) for name in before}
        plain_after = statement.plain_numbers(frame)
        if any(plain_after.get(name, ...) is not item for name, item in plain.items()):
            raise LoopError("a step changes what is no tensor")
        changed = {
            name: place
            for place, name in enumerate(before)
            if after[name] is not given[name] or _writes(given[name]) != writes[name]
        }
        marks = _Marks(
            ends=[_kept(after[name], like=given[name]) for name in changed],
            starts=[given[name] for name in changed],
            loop=loop,
            places=list(changed.values()),
        )
        self._gathered += _gathered(frame, lengths, count, marks)
        ends = {name: loop_markers.end(*marks, place) for name, place in changed.items()}
        _bind(frame, {**before, **ends})

    def _joining(self, function: Callable[..., Tensor], *, stacked: bool) -> Callable[..., Tensor]:
        @knowing_aliases
        def join(tensors: Any, dim: int = 0, **options: Any) -> Tensor:
            for gathered in self._gathered if isinstance(tensors, list | tuple) else ():
                for place, item in enumerate(tensors):
                    if item is gathered.piece:
                        whole = gathered.joined(list(tensors[:place]), dim, stacked=stacked)
                        rest = list(tensors[place + 1 :])
                        rest = [item.unsqueeze(dim) for item in rest] if stacked else rest
                        return torch.cat([whole, *rest], dim) if rest else whole
            return function(tensors, dim, **options)

        return join


class _Range(stretches.OpenRange):
    """A range with a symbol in it; a loop over it may be given one number for all."""

    def __init__(self, loops: Loops, first: Any, stop: Any, step: int) -> None:
        super().__init__(first, stop, step)
        self._loops = loops

    def count(self) -> Any:
        first, stop, step = self.ends
        return torch.sym_max((stop - first + (step - 1)) // step, 0)  # type: ignore[no-untyped-call]  # has no types

    def number(self, index: Any) -> Any:
        """That of a step."""
        first, _, step = self.ends
        return index * step + first

    def __iter__(self) -> Iterator[Any]:
        found = self._loops.begin(self, sys._getframe(1))  # noqa: SLF001 - the documented way
        return super().__iter__() if found is None else found


# The functions of torch that join tensors, and whether along a new axis.
_JOINING: Mapping[str, bool] = {
    "cat": False,
    "concat": False,
    "concatenate": False,
    "stack": True,
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
        piece: The recorded step's.
        count: How many there are.
        marks: What the step ended with besides.
    """

    piece: Tensor
    count: Any
    marks: _Marks

    def joined(self, before: list[Tensor], axis: int, *, stacked: bool) -> Tensor:
        """All of them in one, behind those that stood in the list before."""
        shape: list[Any] = list(self.piece.shape)
        axis %= len(shape) + stacked
        if stacked:
            shape.insert(axis, self.count + len(before))
        else:
            shape[axis] = self.count * shape[axis] + sum(item.shape[axis] for item in before)
        ends, starts, loop, places = self.marks
        kind = loop, places, axis, int(stacked), from_torch_dtype(self.piece.dtype).value, shape
        result: Tensor = loop_markers.joined(self.piece, ends, starts, before, *kind)
        return result


def _unknown(number: Any) -> Any:
    """The same symbol, which nothing takes for the first step's number."""
    found: Any = number.node
    # There is a value where those of the example are computed alongside.
    found.shape_env.real_tensor_prop_unbacked_vals.pop(found.expr, None)
    return number


def _gathered(
    frame: FrameType, lengths: Mapping[str, int], count: Any, marks: _Marks
) -> list[_Gathered]:
    found = []
    for name, length in lengths.items():
        added = frame.f_locals[name][length:]
        if len(added) != 1 or not isinstance(added[0], Tensor):
            raise LoopError("a step adds to a list what is not one tensor")
        found.append(_Gathered(piece=added[0], count=count, marks=marks))
    return found


def _kept(item: object, *, like: Tensor) -> Tensor:
    """What a step ended with, which the next one is given."""
    if not isinstance(item, Tensor) or item.dtype != like.dtype or item.dim() != like.dim():
        raise LoopError("a step ends with another kind of tensor than it was given")
    return item


def _writes(tensor: Tensor) -> object:
    """Differs once the tensor was written to."""
    if isinstance(tensor, FunctionalTensor):
        return id(torch._from_functional_tensor(tensor.elem))  # noqa: SLF001 - its version does not say
    return tensor._version  # noqa: SLF001 - documented


def _bind(frame: FrameType, values: Mapping[str, object]) -> None:
    """Gives local variables of a running function other values."""
    frame.f_locals.update(values)
    # Up to Python 3.12 the mapping is a copy; from 3.13 on this does nothing.
    ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
