"""Keeping LSTM and GRU whole while recording, which would otherwise unroll them over time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class KeepRecurrent(TorchFunctionMode):
    """Replaces calls of `torch.lstm` and `torch.gru` by operators that record as one node."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Redirects the two functions, unless they are called with packed sequences."""
        del types
        replacement = _REPLACEMENTS.get(getattr(func, "__name__", ""))
        # A packed sequence comes with its batch sizes, which moves the weights one place on.
        if replacement is not None and not kwargs and not isinstance(args[3], list | tuple):
            state = args[1]
            # One whose output is projected has states of two widths, and is composed.
            if isinstance(state, Tensor) or state[0].shape[-1] == state[1].shape[-1]:
                return replacement(*args)
        return func(*args, **(kwargs or {}))


def lstm(sequence: Tensor, state: list[Tensor], *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """`torch.lstm` on padded sequences."""
    return torch.lstm(sequence, state, *rest)


def gru(sequence: Tensor, state: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    """`torch.gru` on padded sequences."""
    return torch.gru(sequence, state, *rest)


def _fake_lstm(sequence: Tensor, state: list[Tensor], *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    every = _every_step(sequence, state[0], bidirectional=rest[_BIDIRECTIONAL])
    return every, torch.empty_like(state[0]), torch.empty_like(state[1])


def _fake_gru(sequence: Tensor, state: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    every = _every_step(sequence, state, bidirectional=rest[_BIDIRECTIONAL])
    return every, torch.empty_like(state)


def _every_step(sequence: Tensor, state: Tensor, *, bidirectional: bool) -> Tensor:
    """The output of every step has the state's width, once per direction."""
    width = state.shape[-1] * (2 if bidirectional else 1)
    return sequence.new_empty([*sequence.shape[:-1], width])


# Where `bidirectional` stands among the arguments after the state.
_BIDIRECTIONAL = 5
_ARGUMENTS = (
    "Tensor[] weights, bool has_biases, int num_layers, float dropout, bool train, "
    "bool bidirectional, bool batch_first"
)


def _define(
    name: str, schema: str, function: Callable[..., Any], fake: Callable[..., Any]
) -> Callable[..., Any]:
    operator: Callable[..., Any] = torch.library.custom_op(
        f"autoexport::{name}", function, mutates_args=(), schema=schema
    )
    operator.register_fake(fake)  # type: ignore[attr-defined]  # custom_op is not annotated
    return operator


_REPLACEMENTS: dict[str, Callable[..., Any]] = {
    "lstm": _define(
        "lstm",
        f"(Tensor sequence, Tensor[] state, {_ARGUMENTS}) -> (Tensor, Tensor, Tensor)",
        lstm,
        _fake_lstm,
    ),
    "gru": _define(
        "gru", f"(Tensor sequence, Tensor state, {_ARGUMENTS}) -> (Tensor, Tensor)", gru, _fake_gru
    ),
}
