"""Functions that count, order and accumulate, composed of ones that the exporter lowers."""

# mypy: allow-untyped-calls
# ruff: noqa: A002, FBT001, FBT002 - the signatures are torch's
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)


@composes("histc")
def _histc(x: Tensor, bins: int = 100, min: float = 0, max: float = 0) -> Any:
    values = x.flatten()
    low: Any = min
    high: Any = max
    if low == high:
        low, high = values.min(), values.max()
    counted = (values >= low) & (values <= high)
    places = torch.floor((values - low) / (high - low) * bins).clamp(0, bins - 1).long()
    places = torch.where(counted, places, torch.zeros_like(places))
    return torch.zeros(bins, dtype=x.dtype).scatter_add(0, places, counted.to(x.dtype))


@composes("bincount")
def _bincount(x: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Any:
    counts = torch.ones_like(x) if weights is None else weights
    size: Any = torch.cat([x.long(), torch.tensor([minlength - 1])]).max() + 1
    return torch.zeros(size, dtype=counts.dtype).scatter_add(0, x.long(), counts)


@composes("count_nonzero")
def _count_nonzero(x: Tensor, dim: Any = None) -> Any:
    found = (x != 0).long()
    return found.sum() if dim is None else found.sum(dim)


@composes("nansum")
def _nansum(x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    known = torch.where(torch.isnan(x), torch.zeros_like(x), x)
    return known.sum(**kwargs) if dim is None else known.sum(dim, keepdim, **kwargs)


@composes("nanmean")
def _nanmean(x: Tensor, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    known = (~torch.isnan(x)).to(x.dtype)
    return _nansum(x, dim, keepdim, **kwargs) / _nansum(known, dim, keepdim)


@composes("kthvalue")
def _kthvalue(
    x: Tensor,
    k: int,
    dim: int = -1,
    keepdim: bool = False,
) -> Any:
    values, indices = torch.sort(x, dim)
    found: Any = (values.select(dim, k - 1), indices.select(dim, k - 1))
    return torch.return_types.kthvalue(
        tuple(item.unsqueeze(dim) for item in found) if keepdim else found
    )


@composes("median")
def _median(x: Tensor, dim: int | None = None, keepdim: bool = False) -> Any:
    flat = x.flatten() if dim is None else x
    axis = 0 if dim is None else dim
    found = _kthvalue(flat, (flat.shape[axis] + 1) // 2, axis, keepdim)
    return found[0] if dim is None else torch.return_types.median(tuple(found))


@composes("quantile")
def _quantile(
    x: Tensor,
    q: Any,
    dim: int | None = None,
    keepdim: bool = False,
    *,
    interpolation: str = "linear",
) -> Any:
    values = torch.sort(x.flatten() if dim is None else x.movedim(dim, -1), -1)[0]
    q = torch.as_tensor(q, dtype=x.dtype)
    place = q.flatten() * (values.shape[-1] - 1)
    below, above = (values.index_select(-1, at(place).long()) for at in (torch.floor, torch.ceil))
    share = place - torch.floor(place)
    found = {
        "linear": lambda: below + (above - below) * share,
        "lower": lambda: below,
        "higher": lambda: above,
        "midpoint": lambda: (below + above) / 2,
        "nearest": lambda: values.index_select(-1, torch.round(place).long()),
    }[interpolation]()
    if keepdim:
        found = (
            found.reshape([1] * x.dim() + [-1])
            if dim is None
            else found.unsqueeze(-2).movedim(-2, dim % x.dim())
        )
    found = found.movedim(-1, 0)
    return found.squeeze(0) if q.dim() == 0 else found


@composes("cumprod")
def _cumprod(x: Tensor, dim: int, *, dtype: torch.dtype | None = None) -> Any:
    if dtype is None and not x.is_floating_point():
        dtype = torch.int64
    last = x.to(dtype or x.dtype).movedim(dim, -1)
    return (
        torch.where(_before(last), last.unsqueeze(-2), torch.ones_like(last.unsqueeze(-2)))
        .prod(-1)
        .movedim(-1, dim)
    )


@composes("logcumsumexp")
def _logcumsumexp(x: Tensor, dim: int) -> Any:
    last = x.movedim(dim, -1)
    lowest = torch.full_like(last.unsqueeze(-2), float("-inf"))
    return torch.where(_before(last), last.unsqueeze(-2), lowest).logsumexp(-1).movedim(-1, dim)


@composes("cummax")
def _cummax(x: Tensor, dim: int) -> Any:
    return torch.return_types.cummax(_extremes(x, dim, torch.amax))


@composes("cummin")
def _cummin(x: Tensor, dim: int) -> Any:
    return torch.return_types.cummin(_extremes(x, dim, torch.amin))


def _extremes(
    x: Tensor, dim: int, extreme: Callable[[Tensor, int], Tensor]
) -> tuple[Tensor, Tensor]:
    """The largest or smallest so far, and where it stood last."""
    last = x.movedim(dim, -1)
    before, row = _before(last), last.unsqueeze(-2)
    # The element itself stands where others must not count.
    values = extreme(torch.where(before, row, last.unsqueeze(-1)), -1)
    places = torch.arange(last.shape[-1])
    hits = before & (row == values.unsqueeze(-1))
    indices = torch.where(hits, places, torch.zeros_like(places)).amax(-1)
    return values.movedim(-1, dim), indices.movedim(-1, dim)


def _before(last: Tensor) -> Any:
    """For each place on the last axis, those up to it: (n, n)."""
    places = torch.arange(last.shape[-1])
    return places.unsqueeze(-1) >= places
