"""Distances in memory, which a trace would freeze, and what is read by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strategies.compositions.tables import Table
from strategies.torchscript import is_tracing

TABLE: Table = {}


def _order(x: Tensor) -> list[int]:
    """Axes as they lie in memory, the outermost first."""
    strides = x.stride()
    return sorted(range(x.dim()), key=lambda axis: strides[axis], reverse=True)


def _stride(x: Tensor, dim: int | None = None) -> Any:
    """From the sizes, where elements lie side by side."""
    found: list[Any] = list(x.stride())
    if is_tracing():
        step: Any = 1
        steps = list(found)
        for axis in reversed(_order(x)):
            steps[axis] = step
            step = x.shape[axis] * step
        if all(int(mine) == theirs for mine, theirs in zip(steps, found, strict=True)):
            found = steps
    return tuple(found) if dim is None else found[dim]


def _as_strided(
    x: Tensor, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any = None
) -> Any:
    """Reads memory, whatever the shape: what lies side by side, at computed places."""
    flat = x.permute(_order(x)).flatten()
    places = torch.as_tensor(0 if storage_offset is None else storage_offset)
    for count, step in zip(size, stride, strict=True):
        places = places.unsqueeze(-1) + torch.arange(count) * step
    return flat[places]


TABLE[torch.as_strided] = TABLE[Tensor.as_strided] = _as_strided
TABLE[Tensor.stride] = _stride
