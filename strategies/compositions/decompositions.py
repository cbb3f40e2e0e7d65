"""Functions of whole matrices, by products of matrices.

They are computed in double precision, and returned in the precision of what was given.
"""

# mypy: allow-untyped-calls
# ruff: noqa: N803 - the signatures are torch's
from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from strategies import whole
from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)

# The exponential of a matrix of norm 2¹⁰ is that of one of norm 1, squared ten times; there
# Taylor's series of 18 terms is exact in double precision.
_SQUARINGS, _TERMS = 10, 18
# Jacobi's rotations converge quadratically; G. Golub and C. Van Loan, "Matrix Computations",
# 8.5.
_SWEEPS = 8


class Eigen(NamedTuple):
    """As `torch.linalg.eigh` names what it returns."""

    eigenvalues: Any
    eigenvectors: Any


@composes("matrix_exp")
def _matrix_exp(A: Tensor) -> Any:
    small = A.double() / 2**_SQUARINGS
    one = torch.eye(int(A.shape[-1]), dtype=torch.float64)
    found = one + small / _TERMS
    for order in range(_TERMS - 1, 0, -1):
        found = one + small @ found / order
    for _ in range(_SQUARINGS):
        found = found @ found
    return found.to(A.dtype)


@composes("eigh")
def _eigh(A: Tensor, UPLO: str = "L") -> Any:
    """Vectors are determined but for their sign, as torch's are."""
    size = A.shape[-1]
    x = A.double()
    half = x.triu() if UPLO.upper() == "U" else x.tril()
    one = torch.eye(size, dtype=torch.float64)
    x = half + half.transpose(-2, -1) - half * one
    rounds = torch.arange(_SWEEPS * (size + size % 2))
    turned, vectors = whole.ITERATIONS["rotate"].operator(x, torch.zeros_like(x) + one, rounds)
    values, order = torch.sort((turned * one).sum(-1), dim=-1)
    # The vectors are columns.
    chosen = torch.gather(vectors, -1, order.unsqueeze(-2).expand_as(vectors))
    return Eigen(values.to(A.dtype), chosen.to(A.dtype))


@composes("eigvalsh")
def _eigvalsh(A: Tensor, UPLO: str = "L") -> Any:
    return _eigh(A, UPLO)[0]


@composes("svdvals")
def _svdvals(A: Tensor) -> Any:
    """Roots of the eigenvalues of the product of the matrix with itself turned."""
    x = A.double()
    known = [axis for axis in (-2, -1) if not isinstance(A.shape[axis], torch.SymInt)]
    axis = min(known or (-1,), key=lambda axis: int(A.shape[axis]) if known else 0)
    turned = x.transpose(-2, -1)
    values = _eigh(turned @ x if axis == -1 else x @ turned)[0].flip(-1).clamp(min=0).sqrt()
    # The other axis may be shorter.
    return values[..., : A.shape[-2]][..., : A.shape[-1]].to(A.dtype)


@composes("diag")
def _diag(x: Tensor, diagonal: int = 0) -> Any:
    return torch.diag_embed(x, diagonal) if x.dim() == 1 else torch.diagonal(x, diagonal)
