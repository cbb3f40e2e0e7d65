"""Loops over the experts that some token is routed to, which a capture runs over all experts.

Which experts those are depends on values, and so would the file's. An expert that gets no
token adds nothing, so all of them may have their turn; what each selects is never empty
while it is captured, so that no step is left out for want of tokens.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any

import torch
from torch import Tensor

from strategies import torchscript
from strategies.loop_statements import selects_apart
from strategies.patching import attribute


class Routing:
    """The loops of one capture over positions in a vector."""

    def __init__(self) -> None:
        self._found: list[tuple[Tensor, int]] = []
        self._known: dict[tuple[CodeType, int], bool] = {}
        self._depth = 0
        self.replacements: dict[Any, Any] = {
            torch.nonzero: self._nonzero,
            Tensor.nonzero: self._nonzero,
            Tensor.__format__: self._text,
        }

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Within it such loops run over all positions, given the replacements."""
        plain: Any = vars(Tensor)["__iter__"]

        def elements(tensor: Tensor) -> Iterator[Any]:
            found: Iterator[Any] | None = self._steps(tensor, sys._getframe(1))  # noqa: SLF001 - the documented way
            return plain(tensor) if found is None else found

        with attribute(Tensor, "__iter__", elements):
            yield

    def _steps(self, hits: Tensor, frame: FrameType | None) -> Iterator[Tensor] | None:
        counts = [count for tensor, count in self._found if tensor is hits]
        while frame is not None and frame.f_globals.get("__name__", "").startswith("strategies."):
            frame = frame.f_back
        if not counts or frame is None:
            return None
        key = frame.f_code, frame.f_lineno
        if key not in self._known:
            self._known[key] = selects_apart(*key)
        return self._numbers(counts[0], hits.device) if self._known[key] else None

    def _numbers(self, count: int, device: torch.device) -> Iterator[Tensor]:
        for number in range(count):
            self._depth += 1
            try:
                yield torch.tensor([number], device=device)
            finally:
                self._depth -= 1

    def _nonzero(self, x: Tensor, *, as_tuple: bool = False) -> Any:
        if as_tuple and not x.dim():
            return torch.nonzero(x, as_tuple=True)
        found = torch.nonzero(x)
        if self._depth:
            found = _never_empty(found)
        elif x.dim() == 1 and (count := _fixed(x)) is not None:
            self._found.append((found, count))
        return found.unbind(1) if as_tuple else found

    def _text(self, number: Tensor, spec: str) -> str:
        """Of the number of an expert, as of any, though its tensor may be a fake one."""
        plain = not self._depth or number.dim() or number.is_floating_point()
        return format(number if plain else number.item(), spec)


def _fixed(vector: Tensor) -> int | None:
    """A vector's length, unless it is a symbol; whether a trace's varies nobody knows."""
    with torchscript.paused():
        length = vector.shape[0]
    return length if type(length) is int else None


def _never_empty(positions: Tensor) -> Tensor:
    count = positions.shape[0]
    if isinstance(count, torch.SymInt):
        torch._check(count > 0)  # noqa: SLF001 - documented
        return positions
    with torchscript.paused():
        if len(positions):
            return positions
        first = positions.new_zeros(1, positions.shape[1])
    if not torchscript.is_tracing():
        return positions
    torchscript.give_value(first, positions)
    return first
