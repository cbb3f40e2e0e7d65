"""Parts of a tensor that are put together again, in whatever number they are.

A trace has as many parts as the example; what they make together has none of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)

_MARK = "_autoexport_piece"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Of what a tensor is a part: a stretch of the first axis, or one element of it.

    Attributes:
        whole: What was taken apart.
        place: Index among all parts.
        count: Number of parts.
        is_element: Whether the axis is gone.
        is_flat: Whether, since, all axes but the last have become one.
    """

    whole: Tensor
    place: int
    count: int
    is_element: bool = False
    is_flat: bool = False

    def joined(self) -> Tensor:
        """What all parts are along the first axis."""
        if self.is_flat:
            return self.whole.flatten(0, -2)
        return self.whole.flatten(0, 1) if self.is_element else self.whole.clone()


def _marked(pieces: Sequence[Tensor], whole: Tensor, *, is_element: bool = False) -> Any:
    for place, piece in enumerate(pieces):
        setattr(piece, _MARK, _Piece(whole, place, len(pieces), is_element))
    return tuple(pieces)


def _together(tensors: Any) -> _Piece | None:
    """Any one of all parts of one tensor in their order, if that is what these are."""
    marks = [getattr(tensor, _MARK, None) for tensor in tensors]
    first = marks[0] if marks else None
    if not isinstance(first, _Piece) or len(marks) != first.count:
        return None
    for place, mark in enumerate(marks):
        if not isinstance(mark, _Piece) or mark.whole is not first.whole or mark.place != place:
            return None
        if (mark.is_element, mark.is_flat) != (first.is_element, first.is_flat):
            return None
    return first


@composes("split", "split_with_sizes")
def _split(x: Tensor, split_size: Any, dim: int = 0) -> Any:
    """Pieces of traced sizes, which the exporter would freeze; their number is frozen.

    The exporter takes the last of even pieces to be as long as the others.
    """
    if isinstance(split_size, Sequence) and any(isinstance(size, Tensor) for size in split_size):
        starts = [sum(split_size[:index]) for index in range(len(split_size))]
        pieces = [
            x.narrow(dim, start, size) for start, size in zip(starts, split_size, strict=True)
        ]
        return _marked(pieces, x) if dim % x.dim() == 0 else tuple(pieces)
    shorter = isinstance(split_size, int) and int(x.shape[dim]) % split_size
    if isinstance(split_size, Tensor) or shorter:
        count = -(-int(x.shape[dim]) // int(split_size))
        last = x.shape[dim] - split_size * (count - 1)
        return _split(x, [*[split_size] * (count - 1), last], dim)
    return torch.split(x, split_size, dim)


@composes("unbind")
def _unbind(x: Tensor, dim: int = 0) -> Any:
    elements = torch.unbind(x, dim)
    return _marked(elements, x, is_element=True) if dim % x.dim() == 0 else elements


@composes("reshape")
def _reshape(x: Tensor, *shape: Any, **options: Any) -> Any:
    """Keeps a stretch a part where all its axes but the last become one."""
    result = x.reshape(*shape, **options)
    part = getattr(x, _MARK, None)
    if isinstance(part, _Piece) and not part.is_element and result.dim() == 2 and x.dim() > 1:
        same_width = int(result.shape[-1]) == int(x.shape[-1])
        if same_width:
            setattr(result, _MARK, replace(part, is_flat=True))
    return result


@composes("cat", "concat", "concatenate")
def _cat(tensors: Any, dim: int = 0, **options: Any) -> Any:
    part = _together(tensors)
    if part is None or dim % tensors[0].dim() != 0 or options:
        return torch.cat(tensors, dim, **options)
    return part.joined()


@composes("stack")
def _stack(tensors: Any, dim: int = 0, **options: Any) -> Any:
    part = _together(tensors)
    if part is None or not part.is_element or dim != 0 or options:
        return torch.stack(tensors, dim, **options)
    return part.whole.clone()
