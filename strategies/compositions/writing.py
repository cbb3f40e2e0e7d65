"""Writes to parts of a tensor, as the exporter gets them right and without large indices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from strategies.compositions.tables import Table
from strategies.step_numbers import StepNumber, in_key
from strategies.torchscript import give_value, is_tracing, paused

TABLE: Table = {}


def _set_item(x: Tensor, key: Any, value: Any) -> None:
    """Leaves out axes taken whole at the end, besides which the exporter mistakes masks."""
    has_steps, key = _has_steps(key), in_key(key)
    if isinstance(key, tuple):
        while len(key) > 1 and (key[-1] is Ellipsis or key[-1] == slice(None)):
            key = key[:-1]
        key = key[0] if len(key) == 1 else key
    is_mask = isinstance(key, Tensor) and key.dtype is torch.bool
    if is_mask and isinstance(value, int | float) and 0 < key.dim() <= x.dim():
        # The exporter fills as if the mask had all axes, and of the tensor that x is a view of.
        x.masked_fill_(key[(..., *[None] * (x.dim() - key.dim()))], value)
        return
    may_join = is_tracing() and not has_steps and _is_plain(x, value)
    keys = _by_axis(x, key) if may_join else []
    stretches = _stretches(x, keys)
    if not stretches:
        x[key] = value
        return
    written = _written(x, stretches, _filling(x, keys, value))
    if x._is_view():  # noqa: SLF001 - documented
        x.copy_(written)
        return
    # The exporter has no copy to one of forward's inputs.
    with paused():
        x[key] = value
    give_value(x, written)


def _has_steps(key: Any) -> bool:
    """Whether the step of a loop says where the key is, which the example's size does not."""
    parts = key if isinstance(key, tuple) else (key,)
    ends = [
        end
        for part in parts
        for end in ((part.start, part.stop) if isinstance(part, slice) else (part,))
    ]
    return any(isinstance(end, StepNumber) for end in ends)


def _is_plain(x: object, value: object) -> bool:
    return isinstance(x, Tensor) and isinstance(value, Tensor | int | float)


def _by_axis(x: Tensor, key: Any) -> list[int | slice]:
    """A number or a slice for each of the first axes; empty where there is anything else."""
    keys = list(key) if isinstance(key, tuple) else [key]
    # Without a comparison, which tensors would answer one by one.
    gaps = [place for place, item in enumerate(keys) if item is Ellipsis]
    for place in gaps[:1]:
        keys[place : place + 1] = [slice(None)] * (x.dim() - len(keys) + 1)
    return keys if all(type(item) in {int, slice} for item in keys) else []


def _stretches(x: Tensor, keys: Sequence[int | slice]) -> list[tuple[int, slice]]:
    """The axes that are taken in part, and from where to where; empty if none are to be had.

    The exporter writes by an index for each element, which takes several times the memory
    of the tensor.
    """
    found: list[tuple[int, slice]] = []
    for axis, item in enumerate(keys):
        part = slice(item, item + 1 or None) if isinstance(item, int) else item
        start, stop, step = part.indices(int(x.shape[axis]))
        if stop <= start:
            return []
        is_whole = part.stop is None and step == 1 and _is_first(part.start)
        if isinstance(item, int) or not is_whole:
            found.append((axis, part))
    return found


def _is_first(start: object) -> bool:
    return start is None or (type(start) is int and start == 0)


def _filling(x: Tensor, keys: Sequence[int | slice], value: Tensor | float) -> Tensor:
    """What is written, in the shape of where it goes, axes taken at one place included."""
    region = x[tuple(keys)]
    given = torch.as_tensor(value, dtype=x.dtype)
    if given.dim() > region.dim():
        given = given.flatten(0, given.dim() - region.dim())
    given = given.expand_as(region)
    for axis, item in enumerate(keys):
        given = given.unsqueeze(axis) if isinstance(item, int) else given
    return given


def _written(x: Tensor, stretches: Sequence[tuple[int, slice]], filling: Tensor) -> Tensor:
    """The tensor with one of its parts exchanged, put together of what is around that."""
    if not stretches:
        return filling
    (axis, part), *others = stretches

    def along(place: slice) -> Tensor:
        return x[(*[slice(None)] * axis, place)]

    pieces = [_written(along(part), others, filling)]
    if part.step not in {None, 1}:
        pieces = [_every(part.step, axis, pieces[0], along(slice(part.start, part.stop)))]
    if not _is_first(part.start):
        pieces.insert(0, along(slice(None, part.start)))
    if part.stop is not None:
        pieces.append(along(slice(part.stop, None)))
    return torch.cat(pieces, axis)


def _every(step: int, axis: int, filling: Tensor, around: Tensor) -> Tensor:
    """What is around, with the first of so many elements along the axis exchanged, and the next."""
    length = around.shape[axis]
    spread = filling.unsqueeze(axis + 1).repeat_interleave(step, axis + 1).flatten(axis, axis + 1)
    places = torch.arange(length, device=around.device) % step == 0
    places = places[(..., *[None] * (around.dim() - axis - 1))]
    return torch.where(places, spread.narrow(axis, 0, length), around)


def _copying(write: Callable[..., Tensor], compute: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Writes to a view by a copy, as the exporter loses this write to one."""

    def written(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if is_tracing() and x._is_view():  # noqa: SLF001 - documented
            return x.copy_(compute(x, *args, **kwargs))
        return write(x, *args, **kwargs)

    return written


def _index_put(
    x: Tensor,
    indices: list[Tensor | None] | tuple[Tensor | None, ...],
    values: Tensor,
    accumulate: bool = False,  # noqa: FBT001, FBT002 - the signature is torch's
) -> Tensor:
    """Adds up what goes to one place, of which the exporter keeps one."""
    places = [item for item in indices if item is not None and item.dtype is not torch.bool]
    if not accumulate or len(places) < len(indices):
        return torch.index_put(x, indices, values, accumulate)
    count = len(places)
    flat = torch.zeros_like(places[0])
    for axis, place in enumerate(places):
        length = x.shape[axis]
        flat = flat * length + torch.where(place < 0, place + length, place)
    rows = x.flatten(0, count - 1)
    added = values.expand(*flat.shape, *x.shape[count:]).reshape(-1, *x.shape[count:])
    return rows.index_add(0, flat.flatten(), added.to(x.dtype)).reshape(x.shape)


def _put_in_place(
    x: Tensor,
    indices: list[Tensor | None] | tuple[Tensor | None, ...],
    values: Tensor,
    accumulate: bool = False,  # noqa: FBT001, FBT002 - as above
) -> Tensor:
    """By a copy to a view too, to which the exporter loses this write."""
    if accumulate or (is_tracing() and x._is_view()):  # noqa: SLF001 - documented
        return x.copy_(_index_put(x, indices, values, accumulate))
    return x.index_put_(indices, values)


TABLE[Tensor.__setitem__] = _set_item
TABLE[Tensor.addcmul_] = _copying(Tensor.addcmul_, Tensor.addcmul)
TABLE[Tensor.addcdiv_] = _copying(Tensor.addcdiv_, Tensor.addcdiv)
TABLE[Tensor.index_put_] = _put_in_place
TABLE[Tensor.index_put] = TABLE[torch.index_put] = _index_put
