"""Lists of numbers as long as a size says, which forward makes by `list(range(size))`.

A real list has as many elements as the example. Here its first number, its length and the
distance of its numbers are kept, and what forward makes of such lists is computed from them.
"""

from __future__ import annotations

import builtins
import inspect
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Stretch(Sequence[Any]):
    """Numbers at one distance behind some others.

    Args:
        head: Those before it.
        first: The first of the stretch, a number, a symbol or a traced number.
        count: How many it has, likewise; not negative.
        step: Their distance.
    """

    def __init__(self, head: Sequence[Any], first: Any, count: Any, step: int) -> None:
        self._head = tuple(head)
        self._first, self._count, self._step = first, count, step

    @property
    def size(self) -> Any:
        """How many numbers there are; `len` would make it a plain number."""
        return self._count + len(self._head)

    def tensor(self, **options: Any) -> Tensor:
        """What `torch.tensor` makes of the numbers."""
        dtype = options.setdefault("dtype", torch.int64)
        numbers = torch.arange(self._count, **options) * self._step + self._first
        parts = [torch.tensor([item], **options) for item in self._head]
        return torch.cat([*parts, numbers.to(dtype)])

    def __len__(self) -> int:
        return len(self._head) + int(self._count)

    def __iter__(self) -> Iterator[Any]:
        yield from self._head
        for index in builtins.range(int(self._count)):
            yield self._first + index * self._step

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            part = self._part(index)
            return list(self)[index] if part is None else part
        behind = index - len(self._head)
        if index < 0:
            # Of the stretch, which no size makes shorter than what forward asks it for.
            return self._first + (self._count + index) * self._step
        return self._head[index] if behind < 0 else self._first + behind * self._step

    def __add__(self, other: object) -> list[Any]:
        return [*self, *other] if isinstance(other, list) else NotImplemented

    def __radd__(self, other: object) -> Stretch:
        if not isinstance(other, list):
            return NotImplemented
        return Stretch((*other, *self._head), self._first, self._count, self._step)

    def _part(self, taken: slice) -> Stretch | None:
        """A part of it that ends before or at the end; None if that is not all that is asked."""
        start, stop, step = taken.start or 0, taken.stop or 0, taken.step or 1
        plain = all(type(item) is int for item in (start, stop, step))
        if not plain or stop > 0 or taken.stop == 0:
            return None
        if step == -1 and not self._head and start == stop == 0:
            last = self._first + (self._count - 1) * self._step
            return Stretch((), last, self._count, -self._step)
        left = self._head[start:]
        skipped = start - len(self._head) + len(left)
        if start < 0 or step < 1 or (left and step > 1):
            return None
        count = (_at_least_zero(self._count - skipped + stop) + (step - 1)) // step
        return Stretch(left, self._first + skipped * self._step, count, self._step * step)


def numbers(first: Any, stop: Any, step: int) -> Stretch:
    """Those of a range, one of whose ends is open.

    Args:
        first: As `range` takes it.
        stop: As `range` takes it.
        step: Positive.
    """
    return Stretch((), first, _at_least_zero((stop - first + (step - 1)) // step), step)


def _at_least_zero(number: Any) -> Any:
    if isinstance(number, Tensor):
        return torch.clamp(number, min=0)
    return torch.sym_max(number, 0)  # type: ignore[no-untyped-call]  # torch has no types here


class OpenRange:
    """A range with a symbol, whose numbers are plain ones for whoever asks for them."""

    def __init__(self, first: Any, stop: Any, step: int) -> None:
        self.ends = first, stop, step

    def __iter__(self) -> Iterator[int]:
        return iter(builtins.range(*self.ends))

    def __len__(self) -> int:
        return len(builtins.range(*self.ends))

    def __getitem__(self, index: Any) -> Any:
        return builtins.range(*self.ends)[index]


@contextmanager
def kept_open(model: nn.Module) -> Iterator[None]:
    """Within it `list` of a range with a symbol is a stretch, in the model's code."""
    with instead(model, {"range": ranges(OpenRange), "list": lists(_ends)}):
        yield


@contextmanager
def instead(model: nn.Module, names: dict[str, Any]) -> Iterator[None]:
    """Within it built-in names stand for others where the model's code makes such lists."""
    sources = {kind.__module__ for part in model.modules() for kind in type(part).__mro__}
    with ExitStack() as stack:
        for source in sorted(sources & sys.modules.keys()):
            module = sys.modules[source]
            for name in names.keys() - vars(module).keys() if _makes_lists(module) else ():
                vars(module)[name] = names[name]
                stack.callback(delattr, module, name)
        yield


def lists(ends: Callable[[object], tuple[Any, Any, int] | None]) -> type:
    """What stands for `list`: of a range with an open end it makes a stretch.

    Args:
        ends: Says where an open range begins and ends, and its step; None for all else.
    """

    class Kind(type):
        def __call__(cls, *args: Any) -> Any:
            found = ends(args[0]) if args else None
            return builtins.list(*args) if found is None else numbers(*found)

        def __instancecheck__(cls, item: object) -> bool:
            return isinstance(item, builtins.list | Stretch)

    return Kind("list", (builtins.list,), {})


def _ends(item: object) -> tuple[Any, Any, int] | None:
    return item.ends if isinstance(item, OpenRange) else None


def ranges(made: Callable[[Any, Any, int], Any]) -> type:
    """What stands for `range`.

    Args:
        made: Is given where a range with a symbol begins and ends, and its step, and makes it.
    """

    class Kind(type):
        def __call__(cls, *args: Any) -> Any:
            first, stop, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
            is_open = any(isinstance(item, torch.SymInt) for item in (first, stop))
            if not is_open or type(step) is not int or step < 1:
                return builtins.range(*args)
            return made(first, stop, step)

        def __instancecheck__(cls, item: object) -> bool:
            return isinstance(item, builtins.range)

    return Kind("range", (), {})


def _makes_lists(module: Any) -> bool:
    if module.__name__.partition(".")[0] == "torch":
        return False
    try:
        return "list(range(" in inspect.getsource(module)
    except (OSError, TypeError):
        return False
