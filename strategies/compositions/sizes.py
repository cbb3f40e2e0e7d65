"""Functions that take sizes, which may be traced, and that the exporter would freeze."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strategies.compositions.tables import Table, composing
from strategies.stretches import Stretch
from strategies.torchscript import is_tracing

TABLE: Table = {}
composes = composing(TABLE)


@composes("item")
def _item(x: Tensor) -> Any:
    """Under a trace a whole number remains a tensor, as sizes are, so that it is not frozen."""
    return x.reshape(()).long() if _stays(x) else x.item()


@composes("tolist")
def _tolist(x: Tensor) -> Any:
    if not _stays(x):
        return x.tolist()
    return [_tolist(row) for row in x.unbind(0)] if x.dim() > 0 else x.long()


def _stays(x: Tensor) -> bool:
    return is_tracing() and x.dtype in {torch.int32, torch.int64}


def _tensor(data: Any, **options: Any) -> Any:
    """A tensor of numbers some of which are traced, or symbols; torch.tensor would freeze them."""
    if isinstance(data, Stretch):
        return data.tensor(**options)
    if not _holds(data, (Tensor, *_SYMBOLS)):
        return torch.tensor(data, **options)
    if isinstance(data, _SYMBOLS):
        kind = torch.int64 if isinstance(data, torch.SymInt) else torch.get_default_dtype()
        symbol: Any = data
        return torch.scalar_tensor(symbol, **{"dtype": kind, **options})
    rows = [_tensor(item, **options) for item in data] if isinstance(data, Sequence) else data
    return torch.stack(rows) if isinstance(rows, list) else rows.clone().to(**options)


_SYMBOLS = (torch.SymInt, torch.SymFloat)


def _as_tensor(data: Any, **options: Any) -> Any:
    return (
        torch.as_tensor(data, **options) if isinstance(data, Tensor) else _tensor(data, **options)
    )


def _holds(data: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(data, list | tuple):
        return any(_holds(item, kinds) for item in data)
    return isinstance(data, kinds)


@composes("squeeze")
def _squeeze(x: Tensor, dim: Any = None) -> Any:
    """Takes out what has size one now; the exporter would ask again, with an If, at every run."""
    dims = range(x.dim()) if dim is None else [dim] if isinstance(dim, int) else dim
    if x.dim() > 0:
        for axis in sorted({item % x.dim() for item in dims}, reverse=True):
            if x.shape[axis] == 1:
                x = x.select(axis, 0)
    return x


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


@composes("linspace")
def _linspace(start: Any, end: Any, steps: Any, **options: Any) -> Any:
    """From both ends as torch does; and one step only, for which the exporter divides by zero."""
    dtype = options.get("dtype") or torch.get_default_dtype()
    places = torch.arange(steps)
    step = (end - start) / torch.as_tensor(steps - 1, dtype=dtype).clamp(min=1)
    up, down = (start + step * places, end - step * (steps - 1 - places))
    return torch.where(places * 2 < steps, up, down).to(dtype)


@composes("eye")
def _eye(n: Any, m: Any = None, **options: Any) -> Any:
    """Of every dtype; ONNX Runtime makes none of truth values."""
    rows, columns = torch.arange(n).unsqueeze(-1), torch.arange(n if m is None else m)
    return (rows == columns).to(options.get("dtype") or torch.get_default_dtype())


TABLE[torch.tensor] = _tensor
TABLE[torch.as_tensor] = _as_tensor
