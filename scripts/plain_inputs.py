"""How plain modules are listed: a class, what it is run with, and which axes of that vary."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# The size of a named axis, and a second one at which the module runs as well.
SIZES: dict[str, tuple[int, int]] = {
    "batch": (2, 3),
    "height": (16, 24),
    "width": (24, 32),
    "length": (40, 56),
    "steps": (7, 10),
    "targets": (5, 8),
    "points": (9, 14),
    "items": (6, 11),
    "edges": (12, 20),
}
SEED = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """An input tensor whose values are drawn.

    Attributes:
        axes: Sizes, and names of `SIZES` for axes that may vary: "batch 3 height width".
        dtype: Of the tensor.
        low: Smallest value, or None for normally distributed ones.
        high: One past the largest whole number, the bound of others.
    """

    axes: str
    dtype: torch.dtype = torch.float32
    low: float | None = None
    high: float = 1.0

    def make(self, name: str, *, second: bool) -> Tensor:
        """The tensor, the same for the same name and size."""
        sizes = [SIZES[axis][second] if axis in SIZES else int(axis) for axis in self.axes.split()]
        generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        if self.low is None:
            kind = self.dtype if self.dtype.is_complex else torch.float32
            return torch.randn(sizes, generator=generator, dtype=kind).to(self.dtype)
        if not self.dtype.is_floating_point:
            drawn = torch.randint(int(self.low), int(self.high), sizes, generator=generator)
            return drawn.to(self.dtype)
        noise = torch.rand(sizes, generator=generator)
        return (self.low + (self.high - self.low) * noise).to(self.dtype)

    @property
    def varying(self) -> dict[int, str]:
        """Index and name of the axes that may vary."""
        return {index: axis for index, axis in enumerate(self.axes.split()) if axis in SIZES}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """A module and what it is run with.

    Attributes:
        build: Its class, or what makes it.
        inputs: Forward's parameter names to what is drawn, or to a Python value.
    """

    build: Callable[[], nn.Module]
    inputs: Mapping[str, Draw | float | str | None]

    def __call__(self) -> tuple[nn.Module, dict[str, Any]]:
        """The module in eval mode with seeded weights, and its inputs."""
        with torch.random.fork_rng():
            torch.manual_seed(SEED)
            module = self.build().eval().requires_grad_(requires_grad=False)
        return module, self.draw()

    def draw(self, *, second: bool = False) -> dict[str, Any]:
        """The inputs, at the second size of every axis that varies if asked."""
        return {
            name: given.make(name, second=second) if isinstance(given, Draw) else given
            for name, given in self.inputs.items()
        }

    @property
    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """For each input that has any, its axes that may vary, index to name."""
        drawn = {name: given for name, given in self.inputs.items() if isinstance(given, Draw)}
        return {name: given.varying for name, given in drawn.items() if given.varying}


def floats(axes: str, dtype: torch.dtype = torch.float32) -> Draw:
    """Normally distributed numbers."""
    return Draw(axes=axes, dtype=dtype)


def within(axes: str, low: float, high: float) -> Draw:
    """Evenly distributed numbers of a range."""
    return Draw(axes=axes, low=low, high=high)


def whole(axes: str, high: int, *, low: int = 0, dtype: torch.dtype = torch.int64) -> Draw:
    """Whole numbers from `low` up to, and without, `high`."""
    return Draw(axes=axes, dtype=dtype, low=low, high=high)


def truths(axes: str) -> Draw:
    """True and false."""
    return Draw(axes=axes, dtype=torch.bool, low=0, high=2)


def count(value: int) -> Draw:
    """A whole number in a tensor without axes."""
    return Draw(axes="", dtype=torch.int64, low=value, high=value + 1)
