"""Subscripts with a loop's number in them, while one step is recorded for all of them.

The number is a symbol of no known value, of which torch's own subscripts ask too much.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

Item = Any


def read(tensor: Tensor, key: Item) -> Tensor:
    """`tensor[key]`."""
    items = _items(tensor, key)
    if items is None:
        return tensor[key]
    view, stretch = _view(tensor, items)
    return view if stretch is None else view.index_select(*stretch)


def write(tensor: Tensor, key: Item, value: Any) -> None:
    """`tensor[key] = value`."""
    items = _items(tensor, key)
    if items is None:
        tensor[key] = value
        return
    view, stretch = _view(tensor, items)
    if stretch is None:
        view.copy_(value) if isinstance(value, Tensor) else view.fill_(value)
        return
    axis, positions = stretch
    where: Any = (*[slice(None)] * axis, positions)
    view[where] = value


# In the place of torch's own.
SUBSCRIPTS: Mapping[Any, Callable[..., Any]] = {
    Tensor.__getitem__: read,
    Tensor.__setitem__: write,
}


def is_open(number: object) -> bool:
    """Whether a loop's number takes part in a number."""
    return isinstance(number, torch.SymInt) and bool(free_unbacked_symbols(number))


def _items(tensor: Tensor, key: Item) -> Sequence[Item] | None:
    """One for each axis; None where the key is for torch."""
    items = list(key) if isinstance(key, tuple) else [key]
    numbers = [
        number
        for item in items
        for number in ((item.start, item.stop) if isinstance(item, slice) else (item,))
    ]
    if not any(map(is_open, numbers)):
        return None
    for place, item in enumerate(items):
        if item is ...:
            given = sum(other is not None for other in items) - 1
            items[place : place + 1] = [slice(None)] * (tensor.dim() - given)
            break
    known = int | torch.SymInt | slice | None
    return items if all(isinstance(item, known) for item in items) else None


def _view(tensor: Tensor, items: Sequence[Item]) -> tuple[Tensor, tuple[int, Tensor] | None]:
    """What the key shows, but for a stretch that the number begins: its axis and positions."""
    axis, stretch = 0, None
    for item in items:
        if item is None:
            tensor = tensor.unsqueeze(axis)
        elif not isinstance(item, slice):
            tensor = tensor.select(axis, item)
            continue
        elif stretch is None and (length := _length(item)) is not None:
            positions = torch.arange(length, device=tensor.device) + item.start
            stretch = axis, positions
        elif item != slice(None):
            tensor = torch.ops.aten.slice(tensor, axis, item.start, item.stop, item.step or 1)
        axis += 1
    return tensor, stretch


def _length(item: slice) -> Any:
    """The length of a stretch that a loop's number begins, if it is the same at every step."""
    if not is_open(item.start) or item.stop is None or item.step not in {None, 1}:
        return None
    length = item.stop - item.start
    return None if is_open(length) else length
