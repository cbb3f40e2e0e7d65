"""The recipe for a model's inputs, from which any number of cases can be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# Seeds of the cases that inputs are tried out on, and that files are held against.
EXAMPLE_SEED, VALUES_SEED, SIZES_SEED = 0, 1, 2
STYLES = ("example", "unpadded", "positive", "negative", "large", "small")

FILLS = {
    "tokens": "ids inside the vocabulary, see `TokenRules`",
    "mask": "ones, then zeros on the right where a row is padded",
    "observed": "mostly ones, the first of every row among them",
    "integers": "whole numbers from `low` up to, not including, `high`",
    "counts": "small whole numbers that forward may loop over, same bounds",
    "normal": "normally distributed around `low` with the deviation `high`",
    "uniform": "evenly distributed between `low` and `high`",
    "boxes": "x0, y0, x1, y1 with x0 <= x1 and y0 <= y1, between `low` and `high`",
    "grid": "rows and columns of patches, multiples of `low`, and a leading 1 where there is "
    "room; a patch of a strip is `high` wide",
    "places": "column and row of every patch of such a grid",
    "sides": "height and width of the images",
    "span": "zeros, and ones where the ids have placeholders",
    "positions": "0, 1, 2 and so on along the last axis, from another start per row",
    "constant": "`low` everywhere",
    "example": "the user's values, unchanged in every case",
}


# Axes of patches: of all images together, of each one, and the pixels of a strip of them all.
TOTAL_PATCHES, PATCHES, STRIP = "total_patches", "num_patches", "strip_width"


def patches_of_a_row(rows: int, sizes: Mapping[str, int]) -> int:
    """How many patches, or columns of a strip of patches, each of as many images has.

    Raises:
        ValueError: All patches together do not divide evenly.
    """
    total = sizes.get(TOTAL_PATCHES, sizes.get(STRIP))
    if total is None:
        return sizes.get(PATCHES, 0)
    if total % rows:
        msg = f"{total} patches do not make {rows} equal images"
        raise ValueError(msg)
    return total // rows


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeDtype:
    """Stands for an input whose values are to be made up.

    Attributes:
        shape: Size of every axis.
        dtype: torch's name without the prefix, or None for what the input usually has.
    """

    shape: tuple[int, ...]
    dtype: str | None = None

    def __init__(self, shape: tuple[int, ...], dtype: str | None = None) -> None:
        object.__setattr__(self, "shape", tuple(shape))
        object.__setattr__(self, "dtype", dtype)


@dataclass(frozen=True, slots=True, kw_only=True)
class Placeholder:
    """An id that stands for a piece of an image or a sound.

    Attributes:
        token: The id.
        count: How many of them a row holds, where that does not follow the sizes.
        patches: How many patches of a row's image one of them stands for; 0 where the
            count is fixed.
    """

    token: int
    count: int = 0
    patches: int = 0

    def in_row(self, rows: int, sizes: Mapping[str, int]) -> int:
        """How many of them each of as many rows holds."""
        return patches_of_a_row(rows, sizes) // self.patches if self.patches else self.count


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenRules:
    """Which ids may stand where in rows of tokens.

    Attributes:
        avoid: Ids with a meaning of their own, which are not drawn.
        start: Id of every row's first token, or None.
        end: Id of every row's last real token, or None.
        pad: Id behind the last real token, or None for ordinary ids.
        padded: Whether a mask is among the inputs that declares padding.
        placeholders: Ids that stand for pieces of other inputs, one after the other.
    """

    avoid: tuple[int, ...] = ()
    start: int | None = None
    end: int | None = None
    pad: int | None = None
    padded: bool = False
    placeholders: tuple[Placeholder, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSpec:
    """How to make one input tensor.

    Attributes:
        name: Forward's parameter name.
        axes: One entry per axis: a fixed size, or the name of an axis in
            `ExampleInputs.sizes`.
        dtype: torch's name without the prefix: `float32`, `int64`, `bool`.
        fill: The kind of values, see `FILLS`.
        low: Smallest value, or the mean of normally distributed ones.
        high: One past the largest whole number, the upper bound of floats, or the
            deviation of normally distributed ones.
        tokens: Rules of rows of tokens; None for other kinds of values.
        example: Values the user gave, which the example case uses as they are and
            from which unseen ones are derived; None where made up.
    """

    name: str
    axes: tuple[int | str, ...]
    dtype: str
    fill: str
    low: float = 0
    high: float = 1
    tokens: TokenRules | None = None
    example: torch.Tensor | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExampleInputs:
    """A recipe for a model's inputs, from which any number of cases can be drawn.

    Attributes:
        specs: One per input, in forward's order.
        sizes: Size of every named axis in the example case; each at least 2 and no two
            alike where the model lets us choose, so that no two axes are confused.
        other_sizes: A second size that eager accepts for every axis that may vary. An
            axis of `sizes` that is missing here is fixed.
        constants: Python values bound to further parameters, `use_cache=False` and such.
        notes: What the user should know about how the inputs came about.
    """

    specs: tuple[InputSpec, ...]
    sizes: Mapping[str, int]
    other_sizes: Mapping[str, int]
    constants: Mapping[str, object] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Forward's parameter name of every input, in forward's order."""
        return tuple(spec.name for spec in self.specs)

    def shape_of(self, spec: InputSpec) -> tuple[int, ...]:
        """The shape that an input has in the example case."""
        return tuple(self.sizes[axis] if isinstance(axis, str) else axis for axis in spec.axes)

    @property
    def dynamic_axes(self) -> dict[str, dict[int, str]]:
        """For each input that has any, its axes that may vary, index to name."""
        varying = {
            spec.name: {
                index: axis
                for index, axis in enumerate(spec.axes)
                if isinstance(axis, str) and axis in self.other_sizes
            }
            for spec in self.specs
        }
        return {name: axes for name, axes in varying.items() if axes}

    def make(
        self, *, seed: int = 0, sizes: Mapping[str, int] | None = None, style: str = "example"
    ) -> dict[str, torch.Tensor]:
        """Draws a case, the same for the same arguments.

        Args:
            seed: Other seeds give other values; 0 gives what the user passed, as it is.
            sizes: Sizes of named axes that differ from the example's.
            style: One of `STYLES`: "unpadded" masks nothing; "positive", "negative",
                "large" and "small" drive branches on values both ways.

        Returns:
            Tensors under forward's parameter names, in forward's order.
        """
        from selector import values  # noqa: PLC0415 - imports torch, which --help must not

        return values.draw_case(self.specs, {**self.sizes, **(sizes or {})}, seed=seed, style=style)
