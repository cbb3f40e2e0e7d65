"""Functions that move, select and place elements, composed of ones that the exporter lowers."""

# mypy: allow-untyped-calls
# ruff: noqa: A002, FBT001, FBT002, N803, PLR0913, PLR0917 - the signatures are torch's
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strategies.compositions.elementwise import _floor_divide
from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)


@composes("unfold")
def _unfold(tensor: Tensor, dimension: int, size: int, step: int) -> Any:
    axis = dimension % tensor.dim()
    count = (tensor.shape[axis] - size) // step + 1
    starts, offsets = torch.arange(count) * step, torch.arange(size)
    places = starts.unsqueeze(-1) + offsets
    windows = tensor.index_select(axis, places.flatten()).unflatten(axis, (-1, size))
    return windows.movedim(axis + 1, -1)


# torch.nn.functional.unfold is another function.
del TABLE[torch.nn.functional.unfold]


@composes("unique_consecutive")
def _unique_consecutive(
    x: Tensor,
    return_inverse: bool = False,
    return_counts: bool = False,
    dim: int | None = None,
) -> Any:
    rows = x.flatten() if dim is None else x.movedim(dim, 0)
    differs = rows[1:] != rows[:-1]
    if differs.dim() > 1:
        differs = differs.flatten(1).any(-1)
    first = torch.cat([torch.ones_like(rows[:1].flatten()[:1], dtype=torch.bool), differs])
    starts = first.nonzero().flatten()
    values = rows.index_select(0, starts)
    found = [values if dim is None else values.movedim(0, dim)]
    if return_inverse:
        inverse = first.long().cumsum(0) - 1
        found.append(inverse.reshape(x.shape) if dim is None else inverse)
    if return_counts:
        ends = torch.cat([starts[1:], torch.ones_like(first).long().sum().unsqueeze(0)])
        found.append(ends - starts)
    return found[0] if len(found) == 1 else tuple(found)


@composes("isin")
def _isin(
    elements: Any, test_elements: Any, *, assume_unique: bool = False, invert: bool = False
) -> Any:
    del assume_unique
    elements, tested = torch.as_tensor(elements), torch.as_tensor(test_elements)
    found = (elements.unsqueeze(-1) == tested.flatten()).any(-1)
    return ~found if invert else found


@composes("take_along_dim")
def _take_along_dim(x: Tensor, indices: Tensor, dim: int | None = None) -> Any:
    if dim is None:
        return x.flatten().gather(0, indices.flatten())
    axis = dim % x.dim()
    shape = list(
        torch.broadcast_shapes(*([*t.shape[:axis], 1, *t.shape[axis + 1 :]] for t in (x, indices)))
    )
    shape[axis] = -1
    return x.expand(shape).gather(axis, indices.expand(shape))


@composes("searchsorted")
def _searchsorted(
    sorted_sequence: Tensor,
    input: Any,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Any:
    if sorter is not None:
        sorted_sequence = sorted_sequence.gather(-1, sorter)
    values = torch.as_tensor(input)
    row = sorted_sequence if sorted_sequence.dim() == 1 else sorted_sequence.unsqueeze(-2)
    value = values.unsqueeze(-1)
    below = row <= value if right or side == "right" else row < value
    return below.sum(-1).to(torch.int32 if out_int32 else torch.int64)


@composes("bucketize")
def _bucketize(
    input: Any, boundaries: Tensor, *, out_int32: bool = False, right: bool = False
) -> Any:
    return _searchsorted(boundaries, input, out_int32=out_int32, right=right)


@composes("argwhere")
def _argwhere(x: Tensor) -> Any:
    return torch.nonzero(x)


@composes("sort")
def _sort(x: Tensor, dim: Any = -1, descending: bool = False, stable: bool = False) -> Any:
    del stable  # ONNX's TopK keeps the order of what is equal.
    return torch.sort(x, dim, descending)


@composes("argsort")
def _argsort(x: Tensor, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return _sort(x, dim, descending, stable)[1]


@composes("msort")
def _msort(x: Tensor) -> Any:
    return torch.sort(x, 0)[0]


@composes("select_scatter")
def _select_scatter(x: Tensor, src: Tensor, dim: int, index: int) -> Any:
    result = x.clone()
    result.select(dim, index).copy_(src)
    return result


@composes("slice_scatter")
def _slice_scatter(
    x: Tensor, src: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> Any:
    result = x.clone()
    result[(*[slice(None)] * (dim % x.dim()), slice(start, end, step))] = src
    return result


@composes("tril_indices")
def _tril_indices(row: int, col: int, offset: int = 0, **options: Any) -> Any:
    return torch.ones(row, col).tril(offset).nonzero().t().to(options.get("dtype") or torch.int64)


@composes("triu_indices")
def _triu_indices(row: int, col: int, offset: int = 0, **options: Any) -> Any:
    return torch.ones(row, col).triu(offset).nonzero().t().to(options.get("dtype") or torch.int64)


@composes("diag_embed")
def _diag_embed(x: Tensor, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    padded = torch.nn.functional.pad(x, (0, offset) if offset > 0 else (-offset, 0))
    places = torch.arange(padded.shape[-1])
    on = places.unsqueeze(0) - places.unsqueeze(1) == offset
    square = torch.where(on, padded.unsqueeze(-1), torch.zeros_like(padded.unsqueeze(-1)))
    return square.movedim((-2, -1), (dim1, dim2))


@composes("fill_diagonal")
def _fill_diagonal(x: Tensor, fill_value: Any, wrap: bool = False) -> Any:
    first, *others = (
        torch.arange(size).reshape([-1] + [1] * (x.dim() - 1 - axis))
        for axis, size in enumerate(x.shape)
    )
    if wrap:
        # Below a tall matrix's square the diagonal begins again, a row further down.
        first = torch.remainder(first, x.shape[1] + 1)
    on = first == others[0]
    for place in others[1:]:
        on = on & (first == place)
    return torch.where(on, torch.full_like(x, fill_value), x)


@composes("roll")
def _roll(x: Tensor, shifts: Any, dims: Any = None) -> Any:
    if dims is None or dims == ():
        return _roll(x.flatten(), shifts, 0).reshape(x.shape)
    pairs = zip(
        shifts if isinstance(shifts, Sequence) else [shifts],
        dims if isinstance(dims, Sequence) else [dims],
        strict=True,
    )
    for shift, dim in pairs:
        size = x.shape[dim]
        split = (size - shift) % size
        x = torch.cat([x.narrow(dim, split, size - split), x.narrow(dim, 0, split)], dim)
    return x


@composes("repeat_interleave")
def _repeat_interleave(
    x: Tensor, repeats: Any = None, dim: int | None = None, *, output_size: Any = None
) -> Any:
    if repeats is None:
        return _repeat_interleave(torch.arange(x.shape[0]), x, output_size=output_size)
    if dim is None:
        return _repeat_interleave(x.flatten(), repeats, 0, output_size=output_size)
    axis = dim % x.dim()
    if not isinstance(repeats, Tensor) or repeats.numel() == 1:
        times = repeats.reshape(()) if isinstance(repeats, Tensor) else repeats
        sizes: list[Any] = [-1] * (x.dim() + 1)
        sizes[axis + 1] = times
        return x.unsqueeze(axis + 1).expand(sizes).flatten(axis, axis + 1)
    ends = repeats.cumsum(0)
    total: Any = ends[-1] if output_size is None else output_size
    places = torch.arange(total)
    return x.index_select(axis, (places.unsqueeze(-1) >= ends).sum(-1))


@composes("fliplr")
def _fliplr(x: Tensor) -> Any:
    return x.flip(1)


@composes("flipud")
def _flipud(x: Tensor) -> Any:
    return x.flip(0)


@composes("rot90")
def _rot90(x: Tensor, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    first, second = dims
    turned = {
        0: x.clone,
        1: lambda: x.flip(second).transpose(first, second),
        2: lambda: x.flip(first, second),
        3: lambda: x.flip(first).transpose(first, second),
    }
    return turned[k % 4]()


@composes("movedim", "moveaxis")
def _movedim(x: Tensor, source: Any, destination: Any) -> Any:
    """Whichever way axes are counted; the exporter mistakes those counted from the end."""
    pairs = zip(_axes(x, source), _axes(x, destination), strict=True)
    order = {new: old for old, new in pairs}
    others = iter([axis for axis in range(x.dim()) if axis not in order.values()])
    return torch.permute(
        x, [order[axis] if axis in order else next(others) for axis in range(x.dim())]
    )


@composes("permute")
def _permute(x: Tensor, *dims: Any) -> Any:
    order = dims[0] if isinstance(dims[0], Sequence) else dims
    return torch.permute(x, _axes(x, order))


def _axes(x: Tensor, dims: Any) -> list[int]:
    return [dim % x.dim() for dim in (dims if isinstance(dims, Sequence) else [dims])]


@composes("pad_sequence")
def _pad_sequence(
    sequences: Any,
    batch_first: bool = False,
    padding_value: float = 0.0,
    padding_side: str = "right",
) -> Any:
    sequences = list(sequences)
    longest = torch.stack([torch.as_tensor(item.shape[0]) for item in sequences]).max()
    rows = []
    for item in sequences:
        missing = longest - item.shape[0]
        ends = (0, missing) if padding_side == "right" else (missing, 0)
        padding = [*[0, 0] * (item.dim() - 1), *ends]
        rows.append(torch.nn.functional.pad(item, padding, value=padding_value))
    return torch.stack(rows, 0 if batch_first else 1)


@composes("ravel")
def _ravel(x: Tensor) -> Any:
    return x.flatten()


@composes("channel_shuffle", "native_channel_shuffle")
def _channel_shuffle(x: Tensor, groups: int) -> Any:
    return x.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


@composes("dstack")
def _dstack(tensors: Sequence[Tensor]) -> Any:
    return torch.cat([torch.atleast_3d(tensor) for tensor in tensors], 2)


@composes("column_stack")
def _column_stack(tensors: Sequence[Tensor]) -> Any:
    return torch.cat([t.reshape(-1, 1) if t.dim() < 2 else t for t in tensors], 1)


@composes("block_diag")
def _block_diag(*tensors: Tensor) -> Any:
    blocks = [t if t.dim() == 2 else t.reshape(1, -1) for t in tensors]
    width: Any = sum(block.shape[1] for block in blocks)
    rows, before = [], 0
    for block in blocks:
        end = before + block.shape[1]
        rows.append(torch.nn.functional.pad(block, (before, width - end)))
        before = end
    return torch.cat(rows)


@composes("cartesian_prod")
def _cartesian_prod(*tensors: Tensor) -> Any:
    if len(tensors) == 1:
        return tensors[0]
    return torch.stack([grid.flatten() for grid in torch.meshgrid(*tensors, indexing="ij")], -1)


@composes("vander")
def _vander(x: Tensor, N: int | None = None, increasing: bool = False) -> Any:
    powers = torch.arange(x.shape[-1] if N is None else N)
    columns = torch.pow(x.unsqueeze(-1), powers)
    return columns if increasing else columns.flip(-1)


@composes("kron")
def _kron(x: Tensor, y: Tensor) -> Any:
    rank = max(x.dim(), y.dim())
    x, y = (t.reshape([1] * (rank - t.dim()) + list(t.shape)) for t in (x, y))
    shape = [m * n for m, n in zip(x.shape, y.shape, strict=True)]
    for axis in range(rank):
        x, y = x.unsqueeze(2 * axis + 1), y.unsqueeze(2 * axis)
    return (x * y).reshape(shape)


@composes("scatter")
def _scatter(x: Tensor, dim: int, index: Tensor, src: Any = None, **kwargs: Any) -> Any:
    given = kwargs.pop("value", src)
    # A trace knows no such operator for truth values.
    return torch.scatter(x, dim, index, int(given) if isinstance(given, bool) else given, **kwargs)


@composes("index_add")
def _index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, *, alpha: Any = 1) -> Any:
    """Adds up all that falls on one index, of which the exporter takes the last."""
    sizes = [1] * x.dim()
    sizes[dim] = -1
    terms = source if isinstance(alpha, int) and alpha == 1 else source * alpha
    return x.scatter_add(dim, index.long().reshape(sizes).expand_as(terms), terms)


@composes("scatter_reduce")
def _scatter_reduce(
    x: Tensor, dim: int, index: Tensor, src: Tensor, reduce: str, *, include_self: bool = True
) -> Any:
    if not include_self:
        hit = torch.zeros_like(x).scatter(dim, index, torch.ones_like(src)) > 0
        neutral = {"sum": 0, "mean": 0, "prod": 1, "amax": _least(x), "amin": _most(x)}[reduce]
        x = torch.where(hit, torch.full_like(x, neutral), x)
    if reduce != "mean":
        return torch.scatter_reduce(x, dim, index, src, reduce)
    counts = torch.zeros_like(x).scatter_add(dim, index, torch.ones_like(src))
    total = x.scatter_add(dim, index, src)
    terms = counts + 1 if include_self else counts.clamp(min=1)
    return total / terms if x.is_floating_point() else _floor_divide(total, terms)


def _least(x: Tensor) -> float:
    return float("-inf") if x.is_floating_point() else torch.iinfo(x.dtype).min


def _most(x: Tensor) -> float:
    return float("inf") if x.is_floating_point() else torch.iinfo(x.dtype).max


@composes("one_hot")
def _one_hot(x: Tensor, num_classes: int = -1) -> Any:
    classes: Any = num_classes if num_classes != -1 else x.max() + 1
    return (x.unsqueeze(-1) == torch.arange(classes)).long()


@composes("adjoint")
def _adjoint(x: Tensor, *_: Any) -> Any:
    turned = x.transpose(-2, -1)
    return turned.conj() if x.is_complex() else turned


TABLE[Tensor.mH.__get__] = TABLE[Tensor.H.__get__] = _adjoint  # type: ignore[attr-defined]  # descriptors
TABLE[Tensor.mT.__get__] = lambda x, *_: x.transpose(-2, -1)  # type: ignore[attr-defined]  # a descriptor
