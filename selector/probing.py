"""Settles inputs and the axes that may vary by running the model, as few times as will do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from selector.cases import SIZES_SEED, VALUES_SEED, ExampleInputs

if TYPE_CHECKING:
    from selector.eager import Eager

Repair = Callable[[ExampleInputs, Exception], Iterator[ExampleInputs]]

MOST_RUNS = 40
DEEPEST_REPAIR = 8


def settle(
    eager: Eager, proposals: Iterable[ExampleInputs], repairs: Sequence[Repair]
) -> tuple[ExampleInputs | None, Exception | None]:
    """The first proposal that eager accepts, else the first one's error.

    Args:
        eager: The model.
        proposals: The likeliest first.
        repairs: Make better proposals from a refused one and its error. The first is
            asked at once; the others, which guess, when no proposal was accepted.
    """
    sure, *guesses = repairs
    refused: list[tuple[ExampleInputs, Exception]] = []
    tried: set[object] = set()
    found = _search(eager, proposals, sure, refused, tried)
    for guess in guesses:
        for proposal, error in tuple(refused):
            found = found or _search(eager, guess(proposal, error), sure, refused, tried)
    return found, refused[0][1] if refused else None


def _search(
    eager: Eager,
    proposals: Iterable[ExampleInputs],
    sure: Repair,
    refused: list[tuple[ExampleInputs, Exception]],
    tried: set[object],
) -> ExampleInputs | None:
    for proposal in proposals:
        queue = [(proposal, 0)]
        while queue and len(tried) < MOST_RUNS:
            current, depth = queue.pop(0)
            if _key(current) in tried:
                continue
            tried.add(_key(current))
            error = eager.refusal(current)
            if error is None:
                return current
            refused.append((current, error))
            if depth < DEEPEST_REPAIR:
                queue[:0] = [(better, depth + 1) for better in sure(current, error)]
            # Frames hold every activation of the refused run.
            error.__traceback__ = error.__context__ = error.__cause__ = None
    return None


def _key(inputs: ExampleInputs) -> object:
    kinds = tuple(
        (spec.name, inputs.shape_of(spec), spec.dtype, spec.fill, spec.low, spec.high, spec.tokens)
        for spec in inputs.specs
    )
    return kinds, tuple(inputs.constants)


def confirm(eager: Eager, inputs: ExampleInputs) -> ExampleInputs:
    """Keeps the second sizes that eager accepts, all at once where it can.

    Axes that move only together, because they must be equal, become one axis.
    """
    hopes = dict(inputs.other_sizes)
    if not hopes or _accepts(eager, inputs, hopes):
        return inputs
    alone = {axis: size for axis, size in hopes.items() if _accepts(eager, inputs, {axis: size})}
    inputs, tied = _tie(eager, inputs, [axis for axis in hopes if axis not in alone])
    accepted = alone | tied
    if len(accepted) > 1 and not _accepts(eager, inputs, accepted):
        accepted = _together(eager, inputs, accepted)
    return replace(inputs, other_sizes=accepted)


def _accepts(eager: Eager, inputs: ExampleInputs, sizes: Mapping[str, int]) -> bool:
    """Whether eager runs, and returns as many outputs as for the example.

    A list of one tensor per image, for instance, is longer with each image, and a file has as
    many outputs as it has.
    """
    full = {**inputs.sizes, **sizes}
    if eager.refusal(inputs, seed=SIZES_SEED, sizes=full) is not None:
        return False
    return eager.form(inputs, seed=SIZES_SEED, sizes=full) == eager.form(inputs)


def _together(eager: Eager, inputs: ExampleInputs, hopes: Mapping[str, int]) -> dict[str, int]:
    kept: dict[str, int] = {}
    for axis, size in hopes.items():
        if not kept or _accepts(eager, inputs, {**kept, axis: size}):
            kept[axis] = size
    return kept


def _tie(
    eager: Eager, inputs: ExampleInputs, refused: list[str]
) -> tuple[ExampleInputs, dict[str, int]]:
    tied: dict[str, int] = {}
    by_size: dict[int, list[str]] = {}
    for axis in refused:
        by_size.setdefault(inputs.sizes[axis], []).append(axis)
    for group in by_size.values():
        size = inputs.other_sizes[group[0]]
        if len(group) > 1 and _accepts(eager, inputs, dict.fromkeys(group, size)):
            inputs = _merge(inputs, group)
            tied[group[0]] = size
    return inputs, tied


def _merge(inputs: ExampleInputs, group: list[str]) -> ExampleInputs:
    name, gone = group[0], set(group[1:])
    specs = tuple(
        replace(spec, axes=tuple(name if axis in gone else axis for axis in spec.axes))
        for spec in inputs.specs
    )
    kept = {axis: size for axis, size in inputs.sizes.items() if axis not in gone}
    return replace(inputs, specs=specs, sizes=kept)


def without_refused_draws(eager: Eager, inputs: ExampleInputs) -> ExampleInputs:
    """Freezes the user's whole numbers where eager refuses others of the same range.

    Ids may hold a structure, placeholders of an image for instance, that unseen values
    would break.
    """
    if eager.refusal(inputs, seed=VALUES_SEED) is None:
        return inputs
    frozen = tuple(
        replace(spec, fill="example")
        if spec.example is not None and not spec.example.is_floating_point()
        else spec
        for spec in inputs.specs
    )
    return replace(inputs, specs=frozen)


def widen_ones(eager: Eager, inputs: ExampleInputs) -> ExampleInputs:
    """Swaps the two sizes of axes that are 1 in the user's tensors and may vary.

    Exporters take an axis of 1 for a constant, so the example had better be larger; its
    values are the user's, repeated.
    """
    ones = {axis for axis in inputs.other_sizes if inputs.sizes[axis] == 1}
    swapped = {axis: inputs.other_sizes[axis] for axis in ones}
    if not ones or not _accepts(eager, inputs, swapped):
        return inputs
    return replace(
        inputs,
        sizes={**inputs.sizes, **swapped},
        other_sizes={**inputs.other_sizes, **dict.fromkeys(ones, 1)},
    )
