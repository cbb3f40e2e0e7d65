"""Complex numbers as pairs of real tensors, which ONNX has operators for.

Where a function would give a complex tensor, its composition gives a `Pair`; functions of
torch that get one come here, by way of `__torch_function__`.
"""

# ruff: noqa: A002 - the signatures are torch's
from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)


class Pair:
    """A complex tensor: its real and its imaginary part.

    Functions without a rule here are taken to do the same to both parts, as those do that
    move, select or add up elements.
    """

    def __init__(self, real: Tensor, imag: Tensor) -> None:
        self.real = real
        self.imag = imag

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        name = func.__name__
        if name in _ASKED:
            return func(args[0].real, *args[1:], **(kwargs or {}))
        rule = _RULES.get(name)
        if rule is not None:
            return rule(*args, **(kwargs or {}))
        return _part_by_part(func, args, kwargs or {})

    @property
    def dtype(self) -> torch.dtype:
        """The complex dtype."""
        return torch.complex128 if self.real.dtype is torch.float64 else torch.complex64

    @property
    def mH(self) -> Any:  # noqa: N802 - torch's name
        """The conjugate of the transposed matrices."""
        return self.mT.conj()

    H = mH

    def __getattr__(self, name: str) -> Any:
        method = getattr(Tensor, name)
        if not callable(method):
            return _joined(getattr(self.real, name), getattr(self.imag, name))
        return lambda *args, **kwargs: self.__torch_function__(method, (), (self, *args), kwargs)

    def __getitem__(self, key: Any) -> Any:
        return Pair(self.real[key], self.imag[key])

    def __mul__(self, other: Any) -> Any:
        return _multiply(self, other)

    __rmul__ = __mul__

    def __add__(self, other: Any) -> Any:
        return _add(self, other)

    __radd__ = __add__

    def __neg__(self) -> Any:
        return Pair(-self.real, -self.imag)

    def __sub__(self, other: Any) -> Any:
        return _add(self, -other)

    def __rsub__(self, other: Any) -> Any:
        return _add(-self, other)

    def __truediv__(self, other: Any) -> Any:
        return _divide(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return _divide(other, self)

    def __matmul__(self, other: Any) -> Any:
        return by_parts(torch.matmul)(self, other)


def _part_by_part(func: Any, args: Any, kwargs: Any) -> Any:
    def of(part: str) -> Any:
        chosen = pytree.tree_map_only(Pair, lambda pair: getattr(pair, part), (args, kwargs))
        return func(*chosen[0], **chosen[1])

    return _joined(of("real"), of("imag"))


def _joined(real: Any, imag: Any) -> Any:
    if isinstance(real, Tensor):
        return Pair(real, imag)
    if type(real) in {list, tuple}:
        return [_joined(*pair) for pair in zip(real, imag, strict=True)]
    return real


def parts(x: Any) -> tuple[Any, Any]:
    """The real and the imaginary part; None where there is no such."""
    return (x.real, x.imag) if isinstance(x, Pair | complex) else (x, None)


def by_parts(product: Callable[..., Any]) -> Callable[..., Any]:
    """A product of two factors, at least one of them complex, from products of their parts."""

    def multiply(first: Any, second: Any) -> Any:
        (a, b), (c, d) = parts(first), parts(second)
        if b is None:
            return Pair(product(a, c), product(a, d))
        if d is None:
            return Pair(product(a, c), product(b, c))
        return Pair(product(a, c) - product(b, d), product(a, d) + product(b, c))

    return multiply


_multiply = by_parts(lambda first, second: first * second)


def _divide(first: Any, second: Any) -> Any:
    real, imag = parts(second)
    if imag is None:
        return Pair(first.real / real, first.imag / real)
    size = real * real + imag * imag
    return _multiply(first, Pair(real / size, -imag / size))


def _add(first: Any, second: Any, *, alpha: Any = 1) -> Any:
    (a, b), (c, d) = parts(first), parts(second)
    if b is None or d is None:
        # A part of zeros, which has the shape of the sum all the same.
        zeros = torch.zeros_like(a + c)
        b, d = (zeros if part is None else part for part in (b, d))
    return Pair(a + alpha * c, b + alpha * d)


def _together(func: Callable[..., Tensor]) -> Callable[..., Any]:
    """For functions of a list of tensors, some of which may be real."""

    def join(tensors: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        pairs = [parts(item) for item in tensors]
        real = func([first for first, _ in pairs], *args, **kwargs)
        imag = [torch.zeros_like(a) if b is None else b for a, b in pairs]
        return Pair(real, func(imag, *args, **kwargs))

    return join


def _absolute(x: Pair) -> Tensor:
    return torch.sqrt(x.real * x.real + x.imag * x.imag)


def _exponential(x: Pair) -> Any:
    return _polar(torch.exp(x.real), x.imag)


# What is asked of a tensor's shape; both parts answer alike.
_ASKED = frozenset({"size", "dim", "numel", "ndimension", "stride", "is_contiguous", "__len__"})
_RULES: dict[str, Callable[..., Any]] = {
    "is_complex": lambda _: True,
    "is_floating_point": lambda _: False,
    "view_as_real": lambda x: torch.stack([x.real, x.imag], -1),
    "real": lambda x: x.real,
    "imag": lambda x: x.imag,
    "abs": _absolute,
    "angle": lambda x: torch.atan2(x.imag, x.real),
    "adjoint": lambda x: x.mH,
    "conj": lambda x: Pair(x.real, -x.imag),
    "exp": _exponential,
    "mul": _multiply,
    "multiply": _multiply,
    "matmul": by_parts(torch.matmul),
    "bmm": by_parts(torch.bmm),
    "einsum": lambda how, *x: by_parts(lambda a, b: torch.einsum(how, a, b))(*x),
    "div": _divide,
    "true_divide": _divide,
    "add": _add,
    "sub": lambda first, second: _add(first, second, alpha=-1),
    "rsub": lambda first, second: _add(second, first, alpha=-1),
    "cat": _together(torch.cat),
    "stack": _together(torch.stack),
}


@composes("polar")
def _polar(abs: Tensor, angle: Tensor) -> Any:
    return Pair(abs * torch.cos(angle), abs * torch.sin(angle))


@composes("complex")
def _complex(real: Tensor, imag: Tensor) -> Any:
    return Pair(real, imag)


@composes("view_as_complex")
def _view_as_complex(x: Tensor) -> Any:
    return Pair(x[..., 0], x[..., 1])
