"""Functions of images, composed of ones that the exporter lowers."""

# mypy: allow-untyped-calls
# ruff: noqa: A002, FBT001 - the signatures are torch's
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import Tensor

from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)


@composes("affine_grid", "affine_grid_generator")
def _affine_grid(theta: Tensor, size: Sequence[Any], align_corners: bool | None = None) -> Any:
    """Where each map takes the pixels' places, which run from -1 to 1 along every axis."""
    axes = len(size) - 2
    ones = [1] * axes
    grid: Any = theta[:, :, -1].reshape(-1, *ones, axes)
    for index, length in enumerate(reversed(size[2:])):
        count = torch.arange(length, dtype=theta.dtype)
        last = count[-1:]
        # Pixels are points or areas; a single point stands in the middle.
        places = (2 * count - last) / (last.clamp(min=1) if align_corners else last + 1)
        along = [*ones, 1]
        along[axes - 1 - index] = -1
        grid = grid + places.reshape(along) * theta[:, :, index].reshape(-1, *ones, axes)
    return grid


def _pooling(name: str, rank: int) -> Callable[..., Any]:
    """Of a single image too, which the exporter takes for several."""
    function = getattr(F, name)

    def pool(input: Tensor, *args: Any, **options: Any) -> Any:
        if input.dim() != rank + 1:
            return function(input, *args, **options)
        found = function(input.unsqueeze(0), *args, **options)
        return found.squeeze(0) if isinstance(found, Tensor) else tuple(t.squeeze(0) for t in found)

    pool.__name__ = f"_{name}"
    return pool


@composes("max_pool1d")
def _max_pool1d(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    *options: bool,
    **named: bool,
) -> Any:
    """As one line of an image, of which torch asks for no size."""
    numbers = (
        (first, item[0] if isinstance(item, Sequence) else item)
        for first, item in (
            (1, kernel_size),
            (1, stride or kernel_size),
            (0, padding),
            (1, dilation),
        )
    )
    pool: Callable[..., Any] = F.max_pool2d
    return pool(input.unsqueeze(-2), *numbers, *options, **named).squeeze(-2)


for _rank in (2, 3):
    for _name in (f"max_pool{_rank}d", f"max_pool{_rank}d_with_indices", f"avg_pool{_rank}d"):
        composes(_name)(_pooling(_name, _rank))
