"""Special functions that ONNX lacks, by approximations as exact as single precision is.

They are computed in double precision, in which terms may cancel each other; there all but
the inverse of the error function are exact to twelve digits.
"""

# mypy: allow-untyped-calls
from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)

# M. Giles, "Approximating the erfinv function", GPU Computing Gems (Jade Edition), 2011,
# the polynomials for single precision, highest power first.
_CENTRE = (
    *(2.81022636e-08, 3.43273939e-07, -3.5233877e-06, -4.39150654e-06, 0.00021858087),
    *(-0.00125372503, -0.00417768164, 0.246640727, 1.50140941),
)
_TAIL = (
    *(-0.000200214257, 0.000100950558, 0.00134934322, -0.00367342844, 0.00573950773),
    *(-0.0076224613, 0.00943887047, 1.00167406, 2.83297682),
)
# C. Lanczos's approximation of the gamma function with P. Godfrey's coefficients (g = 7).
_LANCZOS = (
    *(0.99999999999980993, 676.5203681218851, -1259.1392167224028, 771.32342877765313),
    *(-176.61502916214059, 12.507343278686905, -0.13857109526572012, 9.9843695780195716e-6),
    1.5056327351493116e-7,
)
# NIST Digital Library of Mathematical Functions, 5.11.2: of 1/x², 1/x⁴ and so on.
_DIGAMMA = (-1 / 12, 1 / 120, -1 / 252, 1 / 240, -1 / 132, 691 / 32760)


def _in_double(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Any]:
    def call(x: Tensor) -> Any:
        kind = x.dtype if x.is_floating_point() else torch.get_default_dtype()
        return function(x.to(torch.float64)).to(kind)

    call.__name__ = function.__name__
    return call


@composes("erfinv")
@_in_double
def _erfinv(x: Tensor) -> Any:
    logarithm = -torch.log((1 - x) * (1 + x))
    tail = torch.sqrt(logarithm.clamp(min=5)) - 3
    found = x * torch.where(
        logarithm < 5, _polynomial(_CENTRE, logarithm - 2.5), _polynomial(_TAIL, tail)
    )
    return torch.where(x.abs() == 1, x / torch.zeros_like(x), found)


@composes("lgamma", "gammaln")
@_in_double
def _lgamma(x: Tensor) -> Any:
    mirrored = x < 0.5
    place = torch.where(mirrored, -x, x - 1)
    terms = torch.full_like(x, _LANCZOS[0])
    for index, factor in enumerate(_LANCZOS[1:], start=1):
        terms = terms + factor / (place + index)
    base = place + 7.5
    found = (place + 0.5) * torch.log(base) - base + torch.log(terms)
    found = found + math.log(2 * math.pi) / 2
    sine = torch.sin(math.pi * (x - torch.floor(x)))
    reflected = math.log(math.pi) - torch.log(sine) - found
    return torch.where(mirrored, reflected, found)


@composes("digamma", "psi")
@_in_double
def _digamma(x: Tensor) -> Any:
    mirrored = x < 0.5
    place = torch.where(mirrored, 1 - x, x)
    before = sum(1 / (place + step) for step in range(10))
    far = place + 10
    square = 1 / (far * far)
    found = torch.log(far) - 0.5 / far + square * _polynomial(_DIGAMMA[::-1], square) - before
    part = x - torch.floor(x)
    reflected = found - math.pi * torch.cos(math.pi * part) / torch.sin(math.pi * part)
    # Zero alone of the poles has a sign.
    reflected = torch.where((part == 0) & (x < 0), torch.full_like(x, math.nan), reflected)
    return torch.where(mirrored, reflected, found)


@composes("i0")
@_in_double
def _i0(x: Tensor) -> Any:
    """By its power series, and far from zero by the asymptotic one (DLMF 10.25.2, 10.40.1)."""
    size = x.abs()
    square = size.clamp(max=15.0) ** 2 / 4
    near = torch.ones_like(square)
    for index in range(45, 0, -1):
        near = near * square / index**2 + 1
    inverse = 1 / (8 * size.clamp(min=15.0))
    far = torch.ones_like(inverse)
    for index in range(18, 0, -1):
        far = far * inverse * ((2 * index - 1) ** 2 / index) + 1
    growth = torch.exp(size) / torch.sqrt(2 * math.pi * size.clamp(min=15.0))
    return torch.where(size < 15, near, growth * far)


def _polynomial(factors: Sequence[float], x: Tensor) -> Any:
    value = torch.full_like(x, factors[0])
    for factor in factors[1:]:
        value = value * x + factor
    return value
