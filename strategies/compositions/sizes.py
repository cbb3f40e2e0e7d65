"""Functions that take sizes, which may be traced, and that the exporter would freeze."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)


@composes("split", "split_with_sizes")
def _split(x: Tensor, split_size: Any, dim: int = 0) -> Any:
    """Pieces of traced sizes, which the exporter would freeze; their number is frozen."""
    if isinstance(split_size, Sequence) and any(isinstance(size, Tensor) for size in split_size):
        starts = [sum(split_size[:index]) for index in range(len(split_size))]
        return tuple(
            x.narrow(dim, start, size) for start, size in zip(starts, split_size, strict=True)
        )
    if isinstance(split_size, Tensor):
        count = -(-int(x.shape[dim]) // int(split_size))
        last = x.shape[dim] - split_size * (count - 1)
        return _split(x, [*[split_size] * (count - 1), last], dim)
    return torch.split(x, split_size, dim)


def _tensor(data: Any, **options: Any) -> Any:
    """A tensor of numbers some of which are traced, which torch.tensor would freeze."""
    if not _holds_tensors(data):
        return torch.tensor(data, **options)
    rows = [_tensor(item, **options) for item in data] if isinstance(data, Sequence) else data
    return torch.stack(rows) if isinstance(rows, list) else rows.clone().to(**options)


def _holds_tensors(data: Any) -> bool:
    if isinstance(data, list | tuple):
        return any(map(_holds_tensors, data))
    return isinstance(data, Tensor)


@composes("unflatten")
def _unflatten(x: Tensor, dim: int, sizes: Sequence[Any]) -> Any:
    axis = dim % x.dim()
    return x.view([*x.shape[:axis], *sizes, *x.shape[axis + 1 :]])


@composes("new_tensor")
def _new_tensor(like: Tensor, data: Any, **options: Any) -> Any:
    return _tensor(data, **{"dtype": like.dtype, "device": like.device, **options})


@composes("full")
def _full(size: Any, fill_value: Any, **options: Any) -> Any:
    if options.get("dtype") is None:
        options["dtype"] = torch.as_tensor(fill_value).dtype
    return torch.full(size, fill_value, **options)


TABLE[torch.tensor] = _tensor
