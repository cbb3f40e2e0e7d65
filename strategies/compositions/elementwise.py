"""Functions of single elements, composed of ones that TorchScript's exporter lowers."""

# ruff: noqa: FBT001, FBT002 - the signatures are torch's
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from strategies.compositions.tables import Composition, Table, composing, in_place

TABLE: Table = {}
composes = composing(TABLE)


@composes("expm1")
def _expm1(x: Tensor) -> Any:
    # Unlike exp(x) - 1, exact near zero.
    return torch.tanh(x / 2) * (torch.exp(x) + 1)


@composes("exp2")
def _exp2(x: Tensor) -> Any:
    return torch.pow(2.0, x)


@composes("sinc")
def _sinc(x: Tensor) -> Any:
    angle = x * torch.pi
    return torch.where(x == 0, torch.ones_like(angle), torch.sin(angle) / angle)


@composes("xlogy")
def _xlogy(x: Any, y: Any) -> Any:
    factor = x if isinstance(x, Tensor) else torch.full_like(y, x)
    other = torch.as_tensor(y)
    product = factor * torch.log(other)
    return torch.where((factor == 0) & ~torch.isnan(other), torch.zeros_like(product), product)


@composes("logaddexp")
def _logaddexp(x: Tensor, y: Tensor) -> Any:
    # Equal infinities have no difference.
    apart = torch.where(x == y, torch.zeros_like(x), x - y)
    return torch.maximum(x, y) + torch.log1p(torch.exp(-apart.abs()))


@composes("entr")
def _entr(x: Tensor) -> Any:
    return -_xlogy(x, x)


@composes("cosh")
def _cosh(x: Tensor) -> Any:
    # In halves, as exp(x) overflows before cosh(x) does.
    half = torch.exp(x.abs() / 2)
    return half / 2 * half + 0.5 / half / half


@composes("sinh")
def _sinh(x: Tensor) -> Any:
    return torch.tanh(x / 2) * (_cosh(x) + 1)


@composes("signbit")
def _signbit(x: Tensor) -> Any:
    # Of a negative zero too.
    return (x < 0) | (1 / x == float("-inf")) if x.is_floating_point() else x < 0


@composes("copysign")
def _copysign(x: Tensor, other: Any) -> Any:
    size = x.abs()
    return torch.where(_signbit(torch.as_tensor(other)), -size, size)


@composes("erfc")
def _erfc(x: Tensor) -> Any:
    return 1 - torch.erf(x)


@composes("atanh", "arctanh")
def _atanh(x: Tensor) -> Any:
    return (torch.log1p(x) - torch.log1p(-x)) / 2


@composes("asinh", "arcsinh")
def _asinh(x: Tensor) -> Any:
    size = x.abs()
    return x.sign() * torch.log1p(size + size * size / (1 + torch.sqrt(size * size + 1)))


@composes("acosh", "arccosh")
def _acosh(x: Tensor) -> Any:
    return torch.log(x + torch.sqrt(x * x - 1))


@composes("trunc", "fix")
def _trunc(x: Tensor) -> Any:
    return torch.where(x < 0, torch.ceil(x), torch.floor(x)) if x.is_floating_point() else x


@composes("frac")
def _frac(x: Tensor) -> Any:
    return x - _trunc(x)


@composes("sgn")
def _sgn(x: Tensor) -> Any:
    return torch.sign(x)


@composes("hypot")
def _hypot(x: Tensor, y: Tensor) -> Any:
    return torch.sqrt(x * x + y * y)


@composes("fmax")
def _fmax(x: Tensor, y: Tensor) -> Any:
    return torch.where(torch.isnan(y) | (x >= y), x, y)


@composes("fmin")
def _fmin(x: Tensor, y: Tensor) -> Any:
    return torch.where(torch.isnan(y) | (x <= y), x, y)


@composes("isposinf")
def _isposinf(x: Tensor) -> Any:
    return torch.isinf(x) & (x > 0)


@composes("isneginf")
def _isneginf(x: Tensor) -> Any:
    return torch.isinf(x) & (x < 0)


@composes("heaviside")
def _heaviside(x: Tensor, values: Tensor) -> Any:
    return torch.where(x == 0, values, (x > 0).to(x.dtype))


@composes("ldexp")
def _ldexp(x: Tensor, exponent: Tensor) -> Any:
    return x * torch.pow(2.0, exponent)


@composes("addcdiv")
def _addcdiv(x: Tensor, over: Tensor, under: Tensor, *, value: float = 1) -> Any:
    return x + value * (over / under)


@composes("threshold")
def _threshold(x: Tensor, threshold: float, value: float, inplace: bool = False) -> Any:
    kept = torch.where(x > threshold, x, torch.full_like(x, value))
    return x.copy_(kept) if inplace else kept


@composes("floor_divide", "__floordiv__")
def _floor_divide(x: Any, y: Any) -> Any:
    result: Tensor
    if not (_whole(x) and _whole(y)):
        result = torch.div(x, y, rounding_mode="floor")
    elif isinstance(x, Tensor) and x.dim() == 0:
        # A size is never negative, and this is the form that exporters fold.
        result = torch.floor_divide(x, y)
    else:
        # The exporter divides whole numbers towards zero; so let the division come out even.
        result = torch.div(x - torch.remainder(x, y), y, rounding_mode="trunc")
    return result


@composes("bitwise_or", "__or__")
def _bitwise_or(x: Any, y: Any) -> Any:
    if _boolean(x) and _boolean(y):
        return torch.logical_or(x, torch.as_tensor(y))
    return x + y - torch.bitwise_and(x, y)


@composes("bitwise_xor", "__xor__")
def _bitwise_xor(x: Any, y: Any) -> Any:
    if _boolean(x) and _boolean(y):
        return torch.logical_xor(x, torch.as_tensor(y))
    return x + y - 2 * torch.bitwise_and(x, y)


@composes("bitwise_right_shift", "__rshift__")
def _right_shift(x: Any, y: Any) -> Any:
    """The exporter divides by the power of two, which rounds negative numbers up."""
    return _floor_divide(x, 2**y)


TABLE[Tensor.__irshift__] = in_place(_right_shift)


@composes("bitwise_not", "__invert__")
def _bitwise_not(x: Tensor) -> Any:
    return torch.logical_not(x) if x.dtype is torch.bool else -x - 1


def _filling(name: str) -> Composition:
    """The function with truth values as numbers, of which a trace knows no such operator."""
    function = getattr(torch, name)

    def fill(*args: Any, **options: Any) -> Any:
        numbers = [int(item) if isinstance(item, bool) else item for item in args]
        for key in ("value", "fill_value"):
            if isinstance(options.get(key), bool):
                options[key] = int(options[key])
        return function(*numbers, **options)

    return fill


for _name in ("full_like", "index_fill"):
    composes(_name)(_filling(_name))


@composes("masked_fill")
def _masked_fill(x: Tensor, mask: Tensor, value: Any) -> Any:
    if x.dtype is torch.bool and isinstance(value, Tensor):
        return _where(mask, value.bool(), x)
    if x.dtype is torch.bool:
        return torch.logical_or(x, mask) if value else torch.logical_and(x, ~mask)
    return _filling("masked_fill")(x, mask, value)


def _where(condition: Tensor, *values: Any, **options: Any) -> Any:
    """ONNX Runtime chooses between no truth values; without any, positions are asked for."""
    if not values and not options and condition.dim():
        return condition.nonzero(as_tuple=True)
    if len(values) == 2 and all(map(_boolean, values)):
        first, second = map(torch.as_tensor, values)
        return torch.logical_or(
            torch.logical_and(condition, first), torch.logical_and(~condition, second)
        )
    return torch.where(condition, *values, **options)


TABLE[torch.where] = _where
TABLE[Tensor.where] = lambda x, condition, other: _where(condition, x, other)


def _boolean(x: Any) -> bool:
    return x.dtype is torch.bool if isinstance(x, Tensor) else isinstance(x, bool)


def _whole(x: Any) -> bool:
    return not x.is_floating_point() if isinstance(x, Tensor) else isinstance(x, int)


@composes("rrelu")
def _rrelu(
    x: Tensor,
    lower: float = 1 / 8,
    upper: float = 1 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Any:
    """Of a slope that is drawn in training alone."""
    if training:
        return torch.nn.functional.rrelu(x, lower, upper, training, inplace)
    return torch.nn.functional.leaky_relu(x, (lower + upper) / 2, inplace)
