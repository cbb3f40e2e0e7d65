"""What a module under test calls and does not have in its own file."""

from __future__ import annotations

from torch import Tensor


def at_most_one(x: Tensor) -> Tensor:
    """Scales what is larger."""
    if x.abs().max() > 1:
        return x / x.abs().max()
    return x
