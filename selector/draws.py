"""The random numbers that forward draws in eager PyTorch, noted in order."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from selector.eager import to_array

if TYPE_CHECKING:
    from selector.comparison import Array

NORMAL, UNIFORM = "normally distributed", "evenly distributed"
aten = torch.ops.aten


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One tensor of random numbers.

    Attributes:
        kind: `NORMAL` with mean 0 and deviation 1, or `UNIFORM` between 0 and 1.
        values: In double precision.
    """

    kind: str
    values: Array


class UnknownDrawError(Exception):
    """Forward draws random numbers by an operator that is not among those noted here."""


class Noting(TorchDispatchMode):
    """Notes what forward draws while it runs.

    All is brought down to numbers with mean 0 and deviation 1 and to numbers between 0 and 1,
    which are all that ONNX files draw. What such numbers do not follow from (choices, orders,
    whole numbers) is drawn anew and composed of them, as it is in what is exported.
    """

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[Draw] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        if func.overloadpacket in _COMPOSED:
            return _COMPOSED[func.overloadpacket](self, *args, **kwargs)
        standard = _STANDARD.get(func.overloadpacket)
        state = torch.get_rng_state()
        result = func(*args, **kwargs)
        if standard is not None:
            self._note(*standard(result.double(), *args))
        elif not torch.equal(state, torch.get_rng_state()):
            raise UnknownDrawError(f"forward draws random numbers by {func}")
        return result

    def uniform(self, size: Any, **kwargs: Any) -> Any:
        """Draws numbers between 0 and 1, and notes them."""
        drawn = torch.rand(size, **kwargs)
        self._note(UNIFORM, drawn)
        return drawn

    def _note(self, kind: str, values: torch.Tensor) -> None:
        self.draws.append(Draw(kind=kind, values=to_array(values.double())))


# Drawn by torch, and traced back. What has no width is the same whatever was drawn.

Drawn = torch.Tensor
Standard = tuple[str, torch.Tensor]


def _rand(drawn: Drawn, *_: object) -> Standard:
    return UNIFORM, drawn


def _randn(drawn: Drawn, *_: object) -> Standard:
    return NORMAL, drawn


def _between(drawn: Drawn, _: object, low: float = 0.0, high: float = 1.0) -> Standard:
    return UNIFORM, ((drawn - low) / (high - low)).nan_to_num(0.5)


def _scattered(drawn: Drawn, mean: Any = 0.0, deviation: Any = 1.0, *_: object) -> Standard:
    return NORMAL, ((drawn - mean) / deviation).nan_to_num(0.0)


def _filled(drawn: Drawn, _: object, mean: float = 0.0, deviation: float = 1.0) -> Standard:
    return _scattered(drawn, mean, deviation)


def _exponential(drawn: Drawn, _: object, rate: float = 1.0) -> Standard:
    return UNIFORM, (-rate * drawn).exp()


_STANDARD: Mapping[Any, Callable[..., Standard]] = {
    aten.rand: _rand,
    aten.rand_like: _rand,
    aten.randn: _randn,
    aten.randn_like: _randn,
    aten.uniform: _between,
    aten.uniform_: _between,
    aten.normal: _scattered,
    aten.normal_: _filled,
    aten.exponential: _exponential,
    aten.exponential_: _exponential,
}

# Drawn here.


def _bernoulli(
    noting: Noting, tensor: torch.Tensor, p: Any = None, *, generator: Any = None
) -> Any:
    chances = tensor if p is None else p
    return (noting.uniform(tensor.shape, generator=generator) < chances).to(tensor.dtype)


def _bernoulli_(
    noting: Noting, tensor: torch.Tensor, p: Any = 0.5, *, generator: Any = None
) -> Any:
    return tensor.copy_(noting.uniform(tensor.shape, generator=generator) < p)


def _whole(
    noting: Noting, *given: Any, generator: Any = None, dtype: Any = None, **_: object
) -> Any:
    *bounds, size = given
    low, high = bounds if len(bounds) > 1 else (0, *bounds)
    drawn = noting.uniform(size, generator=generator) * (high - low) + low
    return drawn.floor().to(dtype or torch.int64)


def _order(
    noting: Noting, length: int, *, generator: Any = None, dtype: Any = None, **_: object
) -> Any:
    return noting.uniform((length,), generator=generator).argsort().to(dtype or torch.int64)


def _choice(
    noting: Noting,
    weights: torch.Tensor,
    count: int,
    replacement: bool = False,  # noqa: FBT001, FBT002 - torch's argument
    *,
    generator: Any = None,
) -> Any:
    *rows, choices = weights.shape
    if replacement:
        size = (*rows, count, choices)
        times = -noting.uniform(size, generator=generator).log()
        return (weights.unsqueeze(-2) / times).argmax(-1)
    times = -noting.uniform(weights.shape, generator=generator).log()
    return (weights / times).topk(count).indices


_COMPOSED: Mapping[Any, Callable[..., Any]] = {
    aten.bernoulli: _bernoulli,
    aten.bernoulli_: _bernoulli_,
    aten.randint: _whole,
    aten.randperm: _order,
    aten.multinomial: _choice,
}
