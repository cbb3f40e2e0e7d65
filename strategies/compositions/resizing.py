"""Resizing and pooling to a given size, as a product with one matrix for each axis.

Row i of an axis's matrix holds the weights with which the elements along that axis add up
to element i of the result.
"""

# mypy: allow-untyped-calls
# ruff: noqa: A002, FBT001, FBT002, PLR0913, PLR0917 - the signatures are torch's
from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)


@composes("interpolate")
def _interpolate(
    input: Tensor,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Any:
    if not antialias and mode not in {"area", "nearest-exact"}:
        return F.interpolate(input, size, scale_factor, mode, align_corners, recompute_scale_factor)
    precision = torch.float64 if input.dtype is torch.float64 else torch.float32
    matrices = []
    axes = input.dim() - 2
    for axis in range(axes):
        before, factor = input.shape[axis + 2], _of_axis(scale_factor, axis)
        after = _of_axis(size, axis)
        if after is None:
            after = _cut_off(before * factor)
        size_before = torch.as_tensor(before).to(precision)
        step = size_before / after
        if factor is not None and not recompute_scale_factor:
            step = torch.as_tensor(1 / factor, dtype=precision)
        if align_corners:
            step = (size_before - 1) / torch.as_tensor(after - 1).clamp(min=1)
        matrices.append(_MODES[mode](before, after, step.to(precision)))
    return _transformed(input, matrices)


def _adaptive_avg_pool(rank: int) -> Callable[[Tensor, Any], Any]:
    def pool(input: Tensor, output_size: Any) -> Any:
        sizes = [_of_axis(output_size, axis) for axis in range(rank)]
        if all(isinstance(size, int) and size == 1 for size in sizes):
            return getattr(F, f"adaptive_avg_pool{rank}d")(input, output_size)
        befores = list(input.shape)[-rank:]
        return _transformed(
            input,
            [
                None if size is None else _averaging(before, size)
                for before, size in zip(befores, sizes, strict=True)
            ],
        )

    pool.__name__ = f"_adaptive_avg_pool{rank}d"
    return pool


for _rank in (1, 2, 3):
    composes(f"adaptive_avg_pool{_rank}d")(_adaptive_avg_pool(_rank))


@composes("fold")
def _fold(
    input: Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> Any:
    if input.dim() == 2:
        single = _fold(input.unsqueeze(0), output_size, kernel_size, dilation, padding, stride)
        return single.squeeze(0)
    places, sizes = [], []
    for axis in (0, 1):
        size, kernel, spread, border, step = (
            _of_axis(item, axis) for item in (output_size, kernel_size, dilation, padding, stride)
        )
        padded = size + 2 * border
        count = (padded - spread * (kernel - 1) - 1) // step + 1
        offsets, starts = torch.arange(kernel) * spread, torch.arange(count) * step
        places.append(offsets.unsqueeze(-1) + starts)
        sizes.append((size, border, padded, kernel))
    rows, columns = places
    (height, top, _, kernel), (width, left, across, breadth) = sizes
    # As the input has them: kernel rows, kernel columns, block rows, block columns.
    flat = (rows.unsqueeze(1).unsqueeze(-1) * across + columns.unsqueeze(1)).flatten()
    values = input.unflatten(1, (-1, kernel * breadth)).flatten(2)
    area = torch.zeros(values.shape[0], values.shape[1], sizes[0][2] * across, dtype=input.dtype)
    summed = area.scatter_add(2, flat.expand(values.shape), values).unflatten(2, (-1, across))
    return summed.narrow(2, top, height).narrow(3, left, width)


def _cut_off(size: Any) -> Any:
    if isinstance(size, torch.SymFloat):
        return torch.sym_int(size)
    return torch.as_tensor(size).float().floor().long()


def _of_axis(given: Any, axis: int) -> Any:
    return given[axis] if isinstance(given, Sequence) else given


def _transformed(x: Tensor, matrices: Sequence[Tensor | None]) -> Any:
    for index, matrix in enumerate(matrices):
        if matrix is not None:
            axis = x.dim() - len(matrices) + index
            rows = x.transpose(axis, -1) @ matrix.t().to(x.dtype)
            x = rows.transpose(axis, -1)
    return x


def _averaging(before: Any, after: Any) -> Any:
    """Means over windows that begin and end where torch's adaptive pooling has them."""
    index, place = _grid(before, after)
    starts = torch.div(index * before, after, rounding_mode="floor")
    ends = torch.div((index + 1) * before + after - 1, after, rounding_mode="floor")
    inside = ((place >= starts) & (place < ends)).float()
    return inside / inside.sum(-1, keepdim=True)


def _nearest(before: Any, after: Any, step: Tensor) -> Any:
    index, place = _grid(before, after)
    return (torch.floor((index.to(step) + 0.5) * step).clamp(max=before - 1) == place).float()


def _filtering(
    width: float, curve: Callable[[Tensor], Tensor], before: Any, after: Any, step: Tensor
) -> Any:
    """Weights of a filter that grows wider as the result grows smaller."""
    index, place = (grid.to(step) for grid in _grid(before, after))
    stretch = step.clamp(min=1)
    center = step * (index + 0.5)
    # Whole numbers are cut off towards zero, which here only differs below the first place.
    first = torch.floor((center - width * stretch + 0.5).clamp(min=0))
    last = torch.floor(center + width * stretch + 0.5)
    weights = curve(((place - center + 0.5) / stretch).abs())
    weights = torch.where((place >= first) & (place < last), weights, torch.zeros_like(weights))
    return weights / weights.sum(-1, keepdim=True)


def _grid(before: Any, after: Any) -> tuple[Tensor, Tensor]:
    return torch.arange(after).unsqueeze(-1), torch.arange(before).unsqueeze(0)


def _triangle(distance: Tensor) -> Any:
    return (1 - distance).clamp(min=0)


def _cubic(distance: Tensor) -> Any:
    """Keys's curve with the coefficient -1/2, which torch uses for antialiasing only."""
    near = (1.5 * distance - 2.5) * distance * distance + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    outside = torch.zeros_like(distance)
    return torch.where(distance < 1, near, torch.where(distance < 2, far, outside))


# Of each axis; what is antialiased is named by how far the filter reaches and its curve.
_MODES: dict[str, Callable[[Any, Any, Tensor], Tensor]] = {
    "area": lambda before, after, _: _averaging(before, after),
    "nearest-exact": _nearest,
    "bilinear": functools.partial(_filtering, 1.0, _triangle),
    "bicubic": functools.partial(_filtering, 2.0, _cubic),
}
