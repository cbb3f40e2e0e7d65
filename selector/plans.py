"""Which cases beside the example a model is run on, and why each of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from selector.cases import EXAMPLE_SEED, SIZES_SEED, VALUES_SEED

if TYPE_CHECKING:
    from selector.cases import ExampleInputs

EXAMPLE = "example"
OTHER_VALUES = "other values"
OTHER_SIZES = "other sizes"
LARGE_SIZES = "large sizes"
LARGER_SIZES = "larger sizes"
TWICE_SIZES = "twice the sizes"
NO_PADDING = "no padding"
# Fills of inputs that say which positions count.
MASK_FILLS = frozenset({"mask", "observed"})
# Where forward branches on values: what may lead it elsewhere, each with several seeds.
VALUE_STYLES = ("positive", "negative", "large", "small")
PADDING_SEED = 3
STYLE_SEEDS = (4, 5, 6)
# Where forward branches or loops on sizes: beyond the chunks of 64 and 128 that models take, and
# no multiple of anything. Axes of pieces, pictures and rows do not get it.
LARGE_LENGTH = 131
LENGTHS = re.compile(r"length|_dim_")
LARGE_SEED = 7
# Of an example at other sizes, which no case has.
CAPTURE_SEED = 8
LARGER_SEED = 9
# After so long no case is run that files can be judged without.
EXTRA_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How to draw one case.

    Attributes:
        label: Its name.
        seed: Of its values.
        style: One of `cases.STYLES`.
        sizes: Of every named axis; None for the example's.
        extra: Whether files can be judged without it.
    """

    label: str
    seed: int
    style: str = "example"
    sizes: Mapping[str, int] | None = None
    extra: bool = True


def unseen_plans(
    inputs: ExampleInputs, *, value_dependent: bool, size_dependent: bool, thorough: bool
) -> Iterator[Plan]:
    """What no capture sees, see `reference.compute_reference`."""
    same_size = list(same_size_plans(inputs))
    resized = list(size_plans(inputs, size_dependent=size_dependent))
    if thorough or not resized:
        yield same_size[0]
    yield from (plan for plan in resized if not plan.extra)
    if thorough or not resized:
        yield from same_size[1:]
    if value_dependent:
        for seed in STYLE_SEEDS:
            for style in VALUE_STYLES:
                yield Plan(f"{style} values, seed {seed}", seed=seed, style=style)
    yield from (plan for plan in resized if plan.extra)


def size_plans(inputs: ExampleInputs, *, size_dependent: bool) -> Iterator[Plan]:
    """Another size on every axis that varies, and a large length where forward asks for sizes."""
    if inputs.other_sizes:
        sizes = {**inputs.sizes, **inputs.other_sizes}
        yield Plan(OTHER_SIZES, seed=SIZES_SEED, sizes=sizes, extra=False)
    lengths = {
        axis: LARGE_LENGTH
        for axis, size in inputs.other_sizes.items()
        if LENGTHS.search(axis) and size < LARGE_LENGTH
    }
    if size_dependent and lengths:
        yield Plan(LARGE_SIZES, seed=LARGE_SEED, sizes={**inputs.sizes, **lengths})


def larger_plans(inputs: ExampleInputs, sizes: Mapping[str, int]) -> Iterator[Plan]:
    """As much past given sizes as those are past the example's, and twice as large.

    All other axes that vary take their other size.
    """
    grown = {axis: size for axis, size in sizes.items() if size != inputs.sizes[axis]}
    for label, less in ((LARGER_SIZES, inputs.sizes), (TWICE_SIZES, {})):
        larger = {axis: max(2 * size - less.get(axis, 0), 1) for axis, size in grown.items()}
        larger = {**inputs.sizes, **inputs.other_sizes, **larger}
        yield Plan(label, seed=LARGER_SEED, sizes=larger)


def same_size_plans(inputs: ExampleInputs) -> Iterator[Plan]:
    """What a static file is held against: other values, and none that are padding."""
    yield Plan(OTHER_VALUES, seed=VALUES_SEED, extra=False)
    if any(spec.fill in MASK_FILLS for spec in inputs.specs):
        yield Plan(NO_PADDING, seed=PADDING_SEED, style="unpadded")


EXAMPLE_PLAN = Plan(EXAMPLE, seed=EXAMPLE_SEED, extra=False)
