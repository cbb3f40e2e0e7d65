"""Custom autograd functions without their gradients, for the time of a capture."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch


@contextmanager
def without_gradients() -> Iterator[None]:
    """Within it, what a custom function computes is recorded, not a call of the function.

    A trace has no operators for such calls, and the exporter loses modules called in one.
    """
    apply = torch.autograd.Function.__dict__["apply"]
    torch.autograd.Function.apply = classmethod(_forward)  # type: ignore[assignment,method-assign]  # put back below
    try:
        yield
    finally:
        torch.autograd.Function.apply = apply  # type: ignore[method-assign]  # as it was


def _forward(function: Any, *args: Any, **kwargs: Any) -> Any:
    with torch.no_grad():
        if function.setup_context is not torch.autograd.Function.setup_context:
            return function.forward(*args, **kwargs)
        return function.forward(_Context(needs_input_grad=(False,) * len(args)), *args, **kwargs)


class _Context(SimpleNamespace):
    """Takes what a function leaves for its gradients, and does nothing with it."""

    def save_for_backward(self, *tensors: torch.Tensor) -> None:
        self.saved_tensors = tensors

    def _ignore(self, *_: Any) -> None:
        """Matters for gradients only."""

    save_for_forward = mark_dirty = mark_non_differentiable = set_materialize_grads = _ignore
