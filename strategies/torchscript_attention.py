"""Projections of torch's own attention, which a trace freezes at the example's length."""

from __future__ import annotations

from contextlib import AbstractContextManager

from torch import Tensor
from torch.nn import functional

from strategies.patching import attribute


def projected_apart() -> AbstractContextManager[None]:
    """Within it they are cut apart along their last axis.

    torch cuts them along a new axis, which it then moves and squeezes, and the exporter takes
    the sizes of what it has squeezed for those of the example.
    """
    return attribute(functional, "_in_projection_packed", _project)


def _project(
    q: Tensor, k: Tensor, v: Tensor, w: Tensor, b: Tensor | None = None
) -> tuple[Tensor, ...]:
    if q is k is v:
        # They are viewed in other shapes next.
        return tuple(part.contiguous() for part in functional.linear(q, w, b).chunk(3, -1))
    weights = w.chunk(3)
    biases = [None] * 3 if b is None else b.chunk(3)
    return tuple(map(functional.linear, (q, k, v), weights, biases))
