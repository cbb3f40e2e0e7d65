"""Random choices and orders, made of random numbers as ONNX draws them."""

# mypy: allow-untyped-calls
# ruff: noqa: FBT001, FBT002 - the signatures are torch's
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from strategies.compositions.tables import Table, composing

TABLE: Table = {}
composes = composing(TABLE)


def _of_no_generator(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function without the generator, which lowerings do not know, where none was given."""

    def call(*args: Any, generator: Any = None, **kwargs: Any) -> Any:
        return function(*args, **_given(generator), **kwargs)

    # Compositions are chosen by their names.
    call.__name__ = f"_{function.__name__}"
    return call


composes("rand")(_of_no_generator(torch.rand))
composes("randn")(_of_no_generator(torch.randn))


@composes("exponential")
def _exponential(x: Tensor, lambd: float = 1, *, generator: Any = None) -> Any:
    return -torch.rand_like(x, **_given(generator)).log() / lambd


@composes("multinomial")
def _multinomial(
    weights: Tensor, num_samples: Any, replacement: bool = False, *, generator: Any = None
) -> Any:
    """Chooses whatever's time is up first, where waiting times have the weights as rates."""
    if not replacement:
        times = _exponential(weights, generator=generator)
        return (weights / times).topk(num_samples).indices
    *rows, choices = weights.shape
    several = weights.unsqueeze(-2).expand(*rows, num_samples, choices)
    return (several / _exponential(several, generator=generator)).argmax(-1)


@composes("randint")
def _randint(
    *bounds: Any,
    low: Any = 0,
    high: Any = None,
    size: Any = None,
    generator: Any = None,
    dtype: Any = None,
    **kwargs: Any,
) -> Any:
    """Bounds may be sizes, which TorchScript's exporter takes plain numbers for."""
    given = [low, *bounds, *(item for item in (high, size) if item is not None)]
    low, high, size = given[-3:]
    drawn = torch.rand(size, **_given(generator), **kwargs) * (high - low)
    return (drawn.floor() + low).to(torch.int64 if dtype is None else dtype)


@composes("randperm")
def _randperm(n: Any, *, generator: Any = None, dtype: Any = None, **kwargs: Any) -> Any:
    order = torch.rand((n,), **_given(generator), **kwargs).argsort()
    return order if dtype is None else order.to(dtype)


def _given(generator: Any) -> dict[str, Any]:
    return {} if generator is None else {"generator": generator}
