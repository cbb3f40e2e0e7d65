"""Tensors cut into pieces of sizes that only values tell, and put together again unseen.

Vision models cut the features of all images apart by the images' sizes, and join them
where the text wants them. Reading the sizes fixes how many images there are; here they
are read only where something asks for one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, TypeVar, overload

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch._subclasses.functional_tensor import FunctionalTensor

from strategies.compositions.tables import knowing_aliases
from strategies.patching import attribute

Item = TypeVar("Item")


class _Later(Sequence[Item]):
    """A sequence that is computed when something looks into it."""

    def __init__(self, compute: Callable[[], Sequence[Item]]) -> None:
        self._compute = compute
        self._items: Sequence[Item] | None = None

    def items(self) -> Sequence[Item]:
        if self._items is None:
            self._items = self._compute()
        return self._items

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Sequence[Item]:
        return self.items()[index]

    def __len__(self) -> int:
        return len(self.items())

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items())


class _Pieces(_Later[Tensor]):
    """What a tensor was cut into along an axis."""

    def __init__(self, whole: Tensor, axis: int, cut: Callable[[], Sequence[Tensor]]) -> None:
        super().__init__(cut)
        self.whole = whole
        self.axis = axis

    def __iter__(self) -> Iterator[Any]:
        """One for all, if they are as many as a symbol says and rows of the first axis."""
        return iter([_Each(self.whole)]) if self.axis == 0 else super().__iter__()


class _Each:
    """Any one of the pieces along a tensor's first axis.

    It has what keeps the pieces in their order and together the whole.
    """

    def __init__(self, whole: Tensor) -> None:
        self.whole = whole

    @property
    def shape(self) -> _Shape:
        return _Shape(self.whole.shape)

    def reshape(self, *shape: Any) -> _Each:
        """Has several axes become the first, and all others stay."""
        others = shape[1:]
        stays = len(others) < self.whole.ndim and others == self.whole.shape[-len(others) :]
        if not others or shape[0] != -1 or not stays:
            msg = f"pieces of as yet unknown number are given the shape {shape}"
            raise NotImplementedError(msg)
        return _Each(self.whole.reshape(*shape))


class _Shape(tuple[Any, ...]):
    """The sizes of any one piece, whose first nobody knows."""

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice) or index % len(self) == 0:
            msg = "the length of pieces of as yet unknown number is asked for"
            raise NotImplementedError(msg)
        return super().__getitem__(index)


@contextmanager
def kept_together() -> Iterator[None]:
    """Within it a list of values, as many as a symbol says, is read when looked into."""
    with ExitStack() as stack:
        for owner, name, replace in _REPLACED:
            stack.enter_context(attribute(owner, name, replace(getattr(owner, name))))
        yield


def _tolist(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def tolist(tensor: Tensor) -> Any:
        if tensor.ndim != 1 or not isinstance(tensor.shape[0], torch.SymInt):
            return original(tensor)
        return _Later(lambda: original(tensor))

    return tolist


def _split(original: Callable[..., Any]) -> Callable[..., Any]:
    def split(tensor: Tensor, *args: Any, **keywords: Any) -> Any:
        sections, axis = _sections(*args, **keywords)
        if not isinstance(sections, _Later):
            return original(tensor, *args, **keywords)
        return _Pieces(tensor, axis, lambda: original(tensor, list(sections), axis))

    return split


def _sections(*given: Any, dim: int = 0, **by_name: Any) -> tuple[Any, int]:
    """The sizes, which torch has three names for, and the axis."""
    sections, axis = (*given, *by_name.values(), dim)[:2]
    return sections, axis


def _cat(original: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @knowing_aliases
    def cat(tensors: Any, dim: int = 0, **keywords: Any) -> Tensor:
        if isinstance(tensors, list) and len(tensors) == 1 and isinstance(tensors[0], _Each):
            return original([tensors[0].whole], dim, **keywords)
        if not isinstance(tensors, _Pieces):
            return original(tensors, dim, **keywords)
        if keywords or dim != tensors.axis:
            return original(list(tensors.items()), dim, **keywords)
        return tensors.whole

    return cat


_REPLACED: Sequence[tuple[Any, str, Callable[..., Any]]] = (
    (FakeTensor, "tolist", _tolist),
    (FunctionalTensor, "tolist", _tolist),
    (Tensor, "split", _split),
    (torch, "split", _split),
    (torch, "cat", _cat),
)
