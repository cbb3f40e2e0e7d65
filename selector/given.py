"""The user's own inputs: read, checked against forward, and turned into recipes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from selector.cases import InputSpec, ShapeDtype
from selector.errors import InvalidRequestError
from strategies.registry import unknown_name_message

if TYPE_CHECKING:
    from selector.facts import Facts

Given = torch.Tensor | ShapeDtype | bool | int | float | str | None

MOST_COUNT = 8


def normalise(given: object, facts: Facts) -> dict[str, Given]:
    """The user's inputs under forward's parameter names.

    Args:
        given: A mapping, one tensor, or a sequence of them for positional use.
        facts: Forward's parameters.

    Raises:
        InvalidRequestError: A name that forward lacks, or a value that is no tensor.
    """
    if given is None:
        return {}
    named = dict(given) if isinstance(given, Mapping) else _positional(given, facts)
    known = tuple(facts.parameters)
    for name in named:
        if name not in known and (known or not facts.open_ended):
            message = unknown_name_message("input", str(name), known)
            raise InvalidRequestError(f"{facts.class_name}: {message}")
    return {name: _value(name, value) for name, value in named.items()}


def _positional(given: object, facts: Facts) -> dict[str, object]:
    values = list(given) if isinstance(given, list | tuple) else [given]
    names = list(facts.parameters)
    if len(values) > len(names):
        msg = f"{len(values)} inputs given, but {facts.class_name}.forward takes {len(names)}"
        raise InvalidRequestError(msg)
    return dict(zip(names, values, strict=False))


def _value(name: str, value: Any) -> Given:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    if isinstance(value, np.ndarray | np.generic):
        return _from_numpy(name, np.asarray(value))
    if value is None or isinstance(value, ShapeDtype | bool | int | float | str):
        return value
    kind = type(value).__name__
    if isinstance(value, list | tuple | dict):
        msg = f"input {name!r} is a {kind}; nested inputs are not supported, pass one tensor"
    else:
        msg = f"input {name!r} is a {kind}; pass a torch.Tensor, a numpy array or a ShapeDtype"
    raise InvalidRequestError(msg)


def _from_numpy(name: str, array: np.ndarray[Any, Any]) -> torch.Tensor:
    try:
        return torch.from_numpy(array.copy())
    except TypeError as error:
        msg = f"input {name!r} is an array of {array.dtype}, which torch has no tensor for"
        raise InvalidRequestError(msg) from error


def specs_of_given(
    given: Mapping[str, Given], facts: Facts, ruled: Mapping[str, Sequence[InputSpec]]
) -> tuple[dict[str, InputSpec], dict[str, int]]:
    """A recipe for every tensor that the user gave, and the sizes of its named axes.

    Args:
        given: From `normalise`; values without a shape are skipped.
        facts: What is known of the module.
        ruled: What the rules say about the same names; lends names to axes of the
            same rank, and the kind of values.
    """
    shaped = {
        name: value for name, value in given.items() if isinstance(value, torch.Tensor | ShapeDtype)
    }
    leading = {next(iter(value.shape)) for value in shaped.values() if len(value.shape)}
    sizes: dict[str, int] = {}
    specs: dict[str, InputSpec] = {}
    for name, value in shaped.items():
        shape = tuple(int(size) for size in value.shape)
        like = next((s for s in ruled.get(name, ()) if len(s.axes) == len(shape)), None)
        axes = _axes(name, shape, like, sizes, share_batch=len(leading) == 1)
        specs[name] = _spec(name, value, axes, like, facts)
    return specs, sizes


def _axes(
    name: str,
    shape: tuple[int, ...],
    like: InputSpec | None,
    sizes: dict[str, int],
    *,
    share_batch: bool,
) -> tuple[int | str, ...]:
    axes: list[int | str] = []
    for index, size in enumerate(shape):
        axis: int | str = f"{name}_dim_{index}"
        if like is not None:
            axis = like.axes[index]
        elif index == 0 and share_batch:
            axis = "batch_size"
        if isinstance(axis, int):
            axes.append(size)
            continue
        if sizes.get(axis, size) != size:
            axis = f"{name}_dim_{index}"
        sizes[axis] = size
        axes.append(axis)
    return tuple(axes)


def _spec(
    name: str,
    value: torch.Tensor | ShapeDtype,
    axes: tuple[int | str, ...],
    like: InputSpec | None,
    facts: Facts,
) -> InputSpec:
    if isinstance(value, torch.Tensor):
        return _spec_like_tensor(name, value, axes, like)
    if like is not None:
        return replace(like, axes=axes, dtype=_dtype(name, value.dtype or like.dtype))
    dtype = _dtype(name, value.dtype or facts.float_dtype)
    if not axes:
        return InputSpec(name=name, axes=axes, dtype=dtype, fill="counts", high=MOST_COUNT)
    if dtype == "bool":
        return InputSpec(name=name, axes=axes, dtype=dtype, fill="integers", high=2)
    if "int" in dtype:
        high = facts.embeddings or 10
        return InputSpec(name=name, axes=axes, dtype=dtype, fill="integers", high=high)
    return InputSpec(name=name, axes=axes, dtype=dtype, fill="normal")


def _dtype(name: str, dtype: str) -> str:
    if isinstance(getattr(torch, dtype, None), torch.dtype):
        return dtype
    msg = f"input {name!r}: unknown dtype {dtype!r}; write float32, int64, bool or the like"
    raise InvalidRequestError(msg)


def _spec_like_tensor(
    name: str, value: torch.Tensor, axes: tuple[int | str, ...], like: InputSpec | None
) -> InputSpec:
    dtype = str(value.dtype).removeprefix("torch.")
    whole = not value.is_floating_point()
    if like is not None and whole == (like.dtype in ("int64", "bool")):
        return replace(like, axes=axes, dtype=dtype, example=value)
    fill, low, high = _spread(name, value)
    return InputSpec(
        name=name, axes=axes, dtype=dtype, fill=fill, low=low, high=high, example=value
    )


def _spread(name: str, value: torch.Tensor) -> tuple[str, float, float]:
    """Fill and bounds that give values like these."""
    if value.is_complex() or value.numel() == 0 or not torch.isfinite(value).all():
        return "example", 0, 0
    if value.dtype is torch.bool:
        return "mask" if "mask" in name else "integers", 0, 2
    low, high = float(value.min()), float(value.max())
    if not value.is_floating_point():
        return _spread_of_integers(name, value, low, high)
    if low >= 0:
        return "uniform", low, high
    return "normal", float(value.mean()), float(value.std(correction=0)) or 1.0


def _spread_of_integers(
    name: str, value: torch.Tensor, low: float, high: float
) -> tuple[str, float, float]:
    if value.ndim == 0 and low >= 0:
        return "counts", 0, max(2 * high, 4)
    if "mask" in name and low >= 0 and high <= 1:
        return "mask", 0, 1
    return "integers", low, high + 1
