"""Functions of whole matrices, by products of matrices.

They are computed in double precision, and returned in the precision of what was given.
"""

# mypy: allow-untyped-calls
# ruff: noqa: N803 - the signatures are torch's
from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)

# The exponential of a matrix of norm 2¹⁰ is that of one of norm 1, squared ten times; there
# Taylor's series of 18 terms is exact in double precision.
_SQUARINGS, _TERMS = 10, 18


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
