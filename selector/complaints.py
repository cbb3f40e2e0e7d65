"""Reads from an eager error which input it is about, and what shape that should have had."""

from __future__ import annotations

import linecache
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import selector
import strategies
from selector.shape_docs import DocumentedShape, documented_symbols

RAISED_BELOW = 4
NOT_OWN = tuple(str(Path(module.__file__ or "").parent) for module in (torch, strategies, selector))

Shapes = Mapping[str, tuple[int, ...]]

UNPACKED = re.compile(r"values to unpack \(expected (\d+)")
UNPACKING = re.compile(r"^\s*(\w+(?:, \w+)+) = \w+\.(?:shape|size\(\))", re.MULTILINE)
CONVOLVED = re.compile(r"or (\d)D \(batched\) input to \w+, but got input of size: \[([\d, ]+)\]")
CHANNELS = re.compile(r"expected input\[([\d, ]+)\] to have (\d+) channels")
NORMALISED = re.compile(
    r"shape \[(?:\*, )?(\d+)\], but got input of size ?(?:torch\.Size\()?\[([\d, ]+)"
)
# Of the real operator, and of the one that stands for it where there are no weights.
MULTIPLIED = re.compile(r"cannot be multiplied \((\d+)x(\d+) and (\d+)x\d+\)")
REDUCED = re.compile(r"same reduction dim, but got \[(\d+), (\d+)\] X \[(\d+), \d+\]")
UNEQUAL = re.compile(
    r"tensor a \((\d+)\) must match .* tensor b \((\d+)\) at non-singleton dimension (\d)"
)
MASKED = re.compile(r"shape of the mask \[([\d, ]+)\].* of the indexed tensor \[([\d, ]+)\]")
INVALID = re.compile(r"Invalid channel dimensions")
RESHAPED = re.compile(r"shape '\[-1, ([\d, ]+)\]' is invalid for input of size (\d+)")
DIMENSION = re.compile(
    r"Dimension out of range \(expected to be in range of \[.*\], but got (\d+)\)"
)
DOCUMENTED = re.compile(r"of shape (\(\w+(?:, ?\w+)+\))")


@dataclass(frozen=True, slots=True, kw_only=True)
class Complaint:
    """What an input should have been.

    Attributes:
        name: The input.
        rank: Number of axes, or None where any will do.
        sizes: Sizes of axes, by index from the front or, negative, from the back.
        like: Another input, whose axes it should begin with.
        shape: The whole shape where the message writes it out, else None.
    """

    name: str
    rank: int | None = None
    sizes: Mapping[int, int] = field(default_factory=dict)
    like: str | None = None
    shape: DocumentedShape | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where an error passed through.

    Attributes:
        file: The source file.
        source: The statement, and what stands above it where it raises.
        values: The variables around it.
    """

    file: str
    source: str
    values: Mapping[str, Any]

    @property
    def own(self) -> bool:
        """Whether this is the model's code, not torch's nor what runs it without weights."""
        return not self.file.startswith(NOT_OWN)


def places(error: BaseException) -> list[Place]:
    """The statements that an error passed through, the innermost first."""
    found: list[Place] = []
    step = error.__traceback__
    while step is not None:
        code = step.tb_frame.f_code
        start, end = next(islice(code.co_positions(), step.tb_lasti // 2, None))[:2]
        start = start or step.tb_lineno
        if linecache.getline(code.co_filename, start).lstrip().startswith("raise"):
            # What it depends on stands above it.
            start = max(start - RAISED_BELOW, code.co_firstlineno)
        lines = (linecache.getline(code.co_filename, n) for n in range(start, (end or start) + 1))
        values = step.tb_frame.f_locals
        found.append(Place(file=code.co_filename, source="".join(lines), values=values))
        step = step.tb_next
    return found[::-1]


def complaints(error: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    """What the error says about inputs of these shapes, under forward's parameter names."""
    text = str(error)
    for pattern, read in READERS.items():
        found = pattern.search(text)
        if found:
            yield from read(found, error, shapes)


def _unpacked(found: re.Match[str], error: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    # A refusal that is looked at again later has no frames any more.
    place = next(iter(places(error)), None)
    named = UNPACKING.search(place.source) if place else None
    symbols = documented_symbols(named[1]) if named else ()
    for name in _named(error, shapes):
        yield Complaint(name=name, rank=int(found[1]))
        if len(symbols) == int(found[1]) and "_" not in symbols:
            shape = DocumentedShape(symbols=symbols, kind=None)
            yield Complaint(name=name, rank=len(symbols), shape=shape)


def _dimension(found: re.Match[str], error: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    for name in _named(error, shapes):
        yield Complaint(name=name, rank=int(found[1]) + 1)


def _unequal(found: re.Match[str], error: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    *sizes, axis = (int(number) for number in found.groups())
    for name in _named(error, shapes):
        shape = shapes[name]
        wanted = [size for size in sizes if axis < len(shape) and size != shape[axis]]
        if len(wanted) == 1 < wanted[0]:
            yield Complaint(name=name, rank=len(shape), sizes={axis: wanted[0]})


def _named(error: BaseException, shapes: Shapes) -> list[str]:
    """The inputs of the shape of a tensor that the model's innermost statement names."""
    place = next((place for place in places(error) if place.own), None)
    values = place.values if place else {}
    words = dict.fromkeys(re.findall(r"\w+", place.source if place else ""))
    return [name for word in words for name in _same(values.get(word), shapes)]


def _convolved(found: re.Match[str], _: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    for name in _of_shape(_numbers(found[2]), shapes):
        yield Complaint(name=name, rank=int(found[1]))


def _channels(found: re.Match[str], _: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    shape = _numbers(found[1])
    # The last axes may have been padded.
    begin = {name: own[:2] for name, own in shapes.items() if len(own) == len(shape)}
    for name in _of_shape(shape[:2], begin):
        yield Complaint(name=name, rank=len(shape), sizes={1: int(found[2])})


def _invalid(_: re.Match[str], error: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    """A convolution without weights tells neither shape, but has both."""
    for place in places(error):
        given, weight = place.values.get("input_tensor"), place.values.get("weight")
        groups = place.values.get("groups")
        if isinstance(given, torch.Tensor) and isinstance(weight, torch.Tensor):
            wanted = int(weight.shape[1]) * (groups if isinstance(groups, int) else 1)
            for name in _same(given, shapes):
                yield Complaint(name=name, rank=given.ndim, sizes={1: wanted})
            return


def _masked(found: re.Match[str], _: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    for mask in _of_shape(_numbers(found[1]), shapes):
        for name in _of_shape(_numbers(found[2]), shapes):
            yield Complaint(name=name, like=mask)


def _normalised(found: re.Match[str], _: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    shape = _numbers(found[2])
    for name in _of_shape(shape, shapes):
        yield Complaint(name=name, rank=len(shape), sizes={-1: int(found[1])})


def _multiplied(found: re.Match[str], _: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    rows, columns, wanted = (int(number) for number in found.groups())
    for name, shape in shapes.items():
        if shape and shape[-1] == columns and math.prod(shape[:-1]) == rows:
            yield Complaint(name=name, sizes={-1: wanted})


def _reshaped(found: re.Match[str], _: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    wanted, given = math.prod(_numbers(found[1])), int(found[2])
    for name, shape in shapes.items():
        if math.prod(shape) == given > wanted:
            yield Complaint(name=name, rank=2, sizes={-1: wanted})


def _documented(found: re.Match[str], error: BaseException, shapes: Shapes) -> Iterator[Complaint]:
    shape = DocumentedShape(symbols=documented_symbols(found[1]), kind=None)
    for place in places(error):
        for word, value in place.values.items():
            if isinstance(value, torch.Tensor) and word in shapes:
                yield Complaint(name=word, rank=len(shape.symbols), shape=shape)
                return


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _of_shape(shape: tuple[int, ...], shapes: Shapes) -> list[str]:
    return [name for name, own in shapes.items() if own == shape]


def _same(value: object, shapes: Shapes) -> list[str]:
    return _of_shape(tuple(value.shape), shapes) if isinstance(value, torch.Tensor) else []


Reader = Callable[[re.Match[str], BaseException, Shapes], Iterator[Complaint]]

READERS: dict[re.Pattern[str], Reader] = {
    UNPACKED: _unpacked,
    CONVOLVED: _convolved,
    CHANNELS: _channels,
    NORMALISED: _normalised,
    MULTIPLIED: _multiplied,
    REDUCED: _multiplied,
    INVALID: _invalid,
    UNEQUAL: _unequal,
    MASKED: _masked,
    RESHAPED: _reshaped,
    DIMENSION: _dimension,
    DOCUMENTED: _documented,
}
