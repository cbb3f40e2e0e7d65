"""What torch refuses to trace, although a trace of it is right."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from torch import nn
from torch.nn.utils import parametrize, stateless

from strategies.patching import attribute


@contextmanager
def lifted() -> Iterator[None]:
    """Within it modules are called with other weights, and parametrizations are not cached.

    A cache only saves that a weight is computed again.
    """
    with (
        attribute(stateless, "_functional_call", _with_other_weights),
        attribute(parametrize, "cached", nullcontext),
    ):
        yield


def _with_other_weights(  # noqa: PLR0913 - the signature is torch's
    module: nn.Module,
    weights: dict[str, Any],
    args: Any = None,
    kwargs: dict[str, Any] | None = None,
    *,
    tie_weights: bool = True,
    strict: bool = False,
) -> Any:
    """As torch calls it where nothing is traced."""
    positional = () if args is None else args if isinstance(args, tuple) else (args,)
    with stateless._reparametrize_module(  # noqa: SLF001 - guarded in `internals`
        module, weights, tie_weights=tie_weights, strict=strict
    ):
        return module(*positional, **(kwargs or {}))
