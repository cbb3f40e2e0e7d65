"""What a loop may go over: something that has the row of any number, given as a tensor.

A list of sizes or a tuple of pieces has as many elements as the example. Those here are the
same to whom they are handed, and also know the tensor that their elements are of.
"""

from __future__ import annotations

import builtins
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from strategies import stretches
from strategies.patching import attribute
from strategies.step_numbers import in_key
from strategies.torchscript import is_tracing


class Rows(ABC):
    """Something with a row for each number from 0."""

    @abstractmethod
    def count(self) -> Tensor:
        """How many rows there are, a traced number."""

    @abstractmethod
    def row(self, number: Tensor) -> Any:
        """The row of a traced number."""

    @abstractmethod
    def all(self) -> Sequence[Any]:
        """The example's rows."""

    def columns(self) -> Tensor | None:
        """What a row has, of all rows at once; None where rows are no numbers."""
        return None


# Is given the rows and the frame that asks for them one by one; gives them, if that is a loop.
Begin = Callable[[Rows, FrameType], Iterator[Any] | None]
Replacements = Mapping[Any, Callable[..., Any]]


class _Numbers(Rows):
    """A range with a traced number."""

    def __init__(self, first: Any, stop: Any, step: int) -> None:
        self._first, self._stop, self._step = first, stop, step

    @property
    def ends(self) -> tuple[Any, Any, int]:
        """What the range was made of."""
        return self._first, self._stop, self._step

    def count(self) -> Tensor:
        distance = self._stop - self._first + (self._step - 1)
        return torch.clamp(torch.as_tensor(distance // self._step), min=0)

    def row(self, number: Tensor) -> Any:
        return number * self._step + self._first

    def all(self) -> Sequence[Any]:
        return builtins.range(int(self._first), int(self._stop), self._step)


class _Elements(Rows):
    """A tensor's, along its first axis."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def count(self) -> Tensor:
        return torch.as_tensor(self._tensor.shape[0])

    def row(self, number: Tensor) -> Any:
        return self._tensor[in_key(number)]

    def all(self) -> Sequence[Any]:
        return self._tensor.unbind(0)

    def columns(self) -> Tensor | None:
        return _columns(self._tensor)


class _Values(Rows):
    """A tensor's values, in lists if it has more than one axis."""

    def __init__(self, source: Tensor, values: Sequence[Any]) -> None:
        self.source = source
        self._values = values

    def count(self) -> Tensor:
        return torch.as_tensor(self.source.shape[0])

    def row(self, number: Tensor) -> Any:
        return self.source[in_key(number)].tolist()

    def all(self) -> Sequence[Any]:
        return self._values

    def columns(self) -> Tensor | None:
        return _columns(self.source)


class _Pieces(Rows):
    """A tensor's stretches of given lengths."""

    def __init__(self, whole: Tensor, lengths: Tensor, axis: int, pieces: Sequence[Any]) -> None:
        self._whole, self._lengths, self._axis = whole, lengths.long(), axis
        self._starts = self._lengths.cumsum(0) - self._lengths
        self._pieces = pieces

    def count(self) -> Tensor:
        return torch.as_tensor(self._lengths.shape[0])

    def row(self, number: Tensor) -> Any:
        start, length = self._starts[in_key(number)], self._lengths[in_key(number)]
        return self._whole.narrow(self._axis, start, length)  # type: ignore[call-overload]  # traced numbers are tensors

    def all(self) -> Sequence[Any]:
        return self._pieces


class _Tuples(Rows):
    """Several rows of one number, or the number itself where there is one in their place."""

    def __init__(self, parts: Sequence[Rows | int]) -> None:
        self._parts = parts

    def count(self) -> Tensor:
        return next(part for part in self._parts if isinstance(part, Rows)).count()

    def row(self, number: Tensor) -> Any:
        return tuple(
            part.row(number) if isinstance(part, Rows) else number + part for part in self._parts
        )

    def all(self) -> Sequence[Any]:
        longest = max(len(part.all()) for part in self._parts if isinstance(part, Rows))
        parts = [
            part.all() if isinstance(part, Rows) else builtins.range(part, part + longest)
            for part in self._parts
        ]
        return list(builtins.zip(*parts, strict=False))


class _Known(list[Any]):
    """Elements that are known to be rows; whoever loops over them may be given others."""

    def __init__(self, elements: Iterable[Any], rows: Rows, begin: Begin) -> None:
        super().__init__(elements)
        self.rows = rows
        self._begin = begin

    def __iter__(self) -> Iterator[Any]:
        found = self._begin(self.rows, sys._getframe(1))  # noqa: SLF001 - the documented way
        return super().__iter__() if found is None else found


@contextmanager
def seen(model: nn.Module, begin: Begin) -> Iterator[None]:
    """Within it loops in the model's code over rows of tensors begin with a call of `begin`.

    What the built-in functions answer has no tensors in it. So their names stand for other
    functions, in the modules of Python that the model's classes are from.
    """
    names = {type(part).__module__ for part in model.modules()} & sys.modules.keys()
    functions = _built_in(begin)
    plain: Any = vars(Tensor)["__iter__"]

    def elements(tensor: Tensor) -> Iterator[Any]:
        rows = _rows(tensor) if is_tracing() else None
        found = begin(rows, sys._getframe(1)) if rows is not None else None  # noqa: SLF001 - as above
        result: Iterator[Any] = plain(tensor) if found is None else found
        return result

    with ExitStack() as stack:
        for source in sorted(names):
            module = sys.modules[source]
            for name in () if source.startswith("torch.") else functions:
                if name not in vars(module):
                    vars(module)[name] = functions[name]
                    stack.callback(delattr, module, name)
        stack.enter_context(attribute(Tensor, "__iter__", elements))
        stack.enter_context(stretches.instead(model, {"list": stretches.lists(_ends)}))
        yield


def around(
    replacements: Replacements, begin: Begin, numbers: Callable[[object], Tensor | None]
) -> Replacements:
    """The same replacements of torch's functions, whose lists and pieces are known to be rows.

    Args:
        replacements: What is done instead of the functions.
        begin: Is asked where a loop begins.
        numbers: Says which tensor has the numbers of a list that is not known to be rows.
    """

    def tolist(tensor: Tensor) -> Any:
        values = replacements[Tensor.tolist](tensor)
        if not is_tracing() or not isinstance(values, list):
            return values
        return _Known(values, _Values(tensor, values), begin)

    def split(tensor: Tensor, split_size: Any, dim: int = 0) -> Any:
        rows = getattr(split_size, "rows", None)
        sizes = rows.source if isinstance(rows, _Values) else numbers(split_size)
        pieces = replacements[torch.split](tensor, split_size, dim)
        if not is_tracing() or sizes is None or sizes.dim() != 1:
            return pieces
        return _Known(pieces, _Pieces(tensor, sizes, dim, pieces), begin)

    return {**replacements, Tensor.tolist: tolist, torch.split: split, Tensor.split: split}


def _columns(tensor: Tensor) -> Tensor | None:
    is_open = 0 < tensor.dim() <= 2 and not tensor.is_floating_point()
    return tensor.t() if is_open else None


def _ends(item: object) -> tuple[Any, Any, int] | None:
    """Those of a range with a traced number."""
    rows = item.rows if isinstance(item, _Known) else None
    return rows.ends if isinstance(rows, _Numbers) else None


def _rows(item: object) -> Rows | None:
    if isinstance(item, _Known):
        return item.rows
    is_open = isinstance(item, Tensor) and item.dim() > 0 and not isinstance(item, nn.Parameter)
    return _Elements(item) if is_open else None  # type: ignore[arg-type]  # a tensor, as was asked


def _built_in(begin: Begin) -> dict[str, Any]:
    class Range(type):
        def __call__(cls, *args: Any) -> Any:
            plain = builtins.range(*args)
            if not is_tracing() or not any(isinstance(item, Tensor) for item in args):
                return plain
            first, stop, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
            is_open = type(step) is int and step > 0
            return _Known(plain, _Numbers(first, stop, step), begin) if is_open else plain

        def __instancecheck__(cls, item: object) -> bool:
            return isinstance(item, builtins.range)

    def zipped(*items: Any, strict: bool = False) -> Any:
        parts = [_rows(item) for item in items] if is_tracing() else []
        rows = [part for part in parts if part is not None]
        if len(rows) < max(len(items), 1):
            return builtins.zip(*items, strict=strict)
        return _Known(builtins.zip(*items, strict=strict), _Tuples(rows), begin)

    def enumerated(items: Any, start: int = 0) -> Any:
        rows = _rows(items) if is_tracing() else None
        if rows is None or type(start) is not int:
            return builtins.enumerate(items, start)
        return _Known(builtins.enumerate(items, start), _Tuples([start, rows]), begin)

    return {"range": Range("range", (), {}), "zip": zipped, "enumerate": enumerated}
