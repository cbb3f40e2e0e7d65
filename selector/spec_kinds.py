"""Specs of the commonest kinds of values, one per shape."""

from __future__ import annotations

from selector.cases import InputSpec
from selector.facts import Facts

Axes = tuple[int | str, ...]


def floats(name: str, facts: Facts, *shapes: Axes | None) -> list[InputSpec]:
    """Normally distributed floats in each of the shapes that are known."""
    return [
        InputSpec(name=name, axes=axes, dtype=facts.float_dtype, fill="normal")
        for axes in dict.fromkeys(shapes)
        if axes is not None
    ]


def whole(name: str, axes: Axes, *, low: float = 0, high: float = 2) -> list[InputSpec]:
    """Whole numbers from `low` up to, not including, `high`."""
    return [InputSpec(name=name, axes=axes, dtype="int64", fill="integers", low=low, high=high)]
