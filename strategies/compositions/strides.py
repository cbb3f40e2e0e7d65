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
    """Reads memory, whatever the shape: what lies side by side, at computed places.

    The axes that are the tensor's own, before and after the others, are read whole.
    """
    source = x.permute(_order(x))
    first, last = _own_axes(source, size, stride, storage_offset)
    rest = len(size) - last
    block: Any = 1
    for length in source.shape[source.dim() - last :]:
        block = length * block
    places = torch.as_tensor(0 if storage_offset is None else storage_offset)
    for count, step in zip(size[first:rest], stride[first:rest], strict=True):
        places = places.unsqueeze(-1) + torch.arange(count) * _quotient(step, block)
    flat = source.flatten(first, source.dim() - 1 - last)
    key: tuple[Any, ...] = (*[slice(None)] * first, places)
    return flat[key]


def _own_axes(
    source: Tensor, size: Sequence[Any], stride: Sequence[Any], storage_offset: Any
) -> tuple[int, int]:
    """How many axes at the beginning and at the end are as the tensor has them."""
    asked = [(int(count), int(step)) for count, step in zip(size, stride, strict=True)]
    own = list(zip(map(int, source.shape), source.stride(), strict=True))
    if not source.is_contiguous() or (storage_offset is not None and int(storage_offset) != 0):
        return 0, 0
    most = min(len(asked), len(own)) - 1
    first = next((n for n in range(most) if asked[n] != own[n]), most)
    ends = range(most - first)
    last = next((n for n in ends if asked[-1 - n] != own[-1 - n]), len(ends))
    # Between them, every step has to be one of whole blocks.
    while any(step % own[len(own) - 1 - last][1] for _, step in asked[first : len(asked) - last]):
        last -= 1
    return first, last


def _quotient(number: Any, divisor: Any) -> Any:
    return number if type(divisor) is int and divisor == 1 else number // divisor


TABLE[torch.as_strided] = TABLE[Tensor.as_strided] = _as_strided
TABLE[Tensor.stride] = _stride
