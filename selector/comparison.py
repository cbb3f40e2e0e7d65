"""Whether two arrays are the same numbers, and whether they differ only in the order of ties."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# Largest error that counts as rounding, relative to the output's magnitude. Correct float32
# exports are seen within 7e-6 at full size and 1e-6 at small ones; one wrong
# file was off by only 2e-4, as random weights mute errors. The half precisions get about ten
# of their epsilons.
TOLERANCES = {"float64": 1e-6, "float32": 1e-4, "float16": 1e-2, "bfloat16": 6e-2}
# A model that amplifies rounding gets more, in proportion, up to this; runtimes sum in
# another order and fuse (T5 is off by 3e-3 on outputs of order ten). 1e-3 is where float32
# files are called wrong whatever the model.
CEILINGS = {"float64": 1e-5, "float32": 1e-3, "float16": 1e-2, "bfloat16": 6e-2}
NOISE_MARGIN = 100.0
# Below this, an output is taken for the rounding of sums of order one: with float32's
# tolerance it makes 1e-7, about float32's epsilon.
MAGNITUDE_FLOOR = 1e-4
# Fill values such as finfo.min, -1e9 or -1e4 must not set the scale for the numbers that
# matter: what is at least this large, and this many times all the rest, is judged alone.
_FILL_ABOVE = (1e9, 1e3)
_FILL_GAP = 100.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """How far an array is from the one expected.

    Attributes:
        right: Whether every element is within the tolerance.
        max_abs_error: Largest absolute error; infinite where NaN or infinity are misplaced.
        max_rel_error: The same relative to the expected output's magnitude.
        finite: Number of finite elements that were compared.
        reason: What is wrong, or an empty string.
    """

    right: bool
    max_abs_error: float
    max_rel_error: float
    finite: int
    reason: str = ""


def tolerance_for(dtype: str, precision: str, noise: float = 0.0) -> float:
    """Tolerance for an output, by the coarser of its dtype and the model's own precision.

    Args:
        dtype: torch's name of the output's dtype.
        precision: torch's name of the coarsest floating dtype among the parameters.
        noise: How far rounding errors in the model's layers move this output, relative to
            its magnitude.
    """
    if not dtype.startswith(("float", "bfloat", "complex")):
        return 0.0
    known = [name for name in (dtype, precision) if name in TOLERANCES] or ["float32"]
    coarser = max(known, key=TOLERANCES.__getitem__)
    return min(max(TOLERANCES[coarser], NOISE_MARGIN * noise), CEILINGS[coarser])


def compare(actual: Array, expected: Array, tolerance: float) -> Difference:
    """Compares element by element: integers and bools exactly, floats within the tolerance."""
    if actual.shape != expected.shape:
        reason = f"shape {list(actual.shape)} where eager PyTorch gives {list(expected.shape)}"
        return Difference(
            right=False, max_abs_error=np.inf, max_rel_error=np.inf, finite=0, reason=reason
        )
    error, scale = _errors(actual, expected)
    largest = float(error.max(initial=0.0))
    relative = float((error / scale).max(initial=0.0))
    right = relative <= (tolerance if _inexact(expected) else 0.0)
    return Difference(
        right=right,
        max_abs_error=largest,
        max_rel_error=relative,
        finite=int(np.isfinite(expected).sum()),
        reason="" if right else _describe(error, error / scale > tolerance, tolerance, expected),
    )


def _inexact(array: Array) -> bool:
    return bool(np.issubdtype(array.dtype, np.inexact))


def _errors(actual: Array, expected: Array) -> tuple[Array, Array]:
    """Absolute error and scale of every element; misplaced NaN and infinity are infinitely off."""
    if not _inexact(expected):
        # Through Python's float, as unsigned and 64-bit differences would wrap around.
        error = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        error = np.where(actual == expected, 0.0, np.maximum(error, 1.0))
        largest = np.abs(expected.astype(np.float64)).max(initial=1.0)
        return error, np.full(expected.shape, largest)
    wide = np.complex128 if np.iscomplexobj(expected) else np.float64
    left, right = actual.astype(wide), expected.astype(wide)
    same = (left == right) | (np.isnan(left) & np.isnan(right))
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.abs(left - right)
    error = np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))
    return error, _scales(right)


def _scales(expected: Array) -> Array:
    size = np.abs(expected)
    ordinary = np.isfinite(size)
    fill = np.zeros(size.shape, dtype=bool)
    for threshold in _FILL_ABOVE:
        large = ordinary & (size >= threshold)
        rest = ordinary & ~large
        if (
            large.any()
            and rest.any()
            and size[large].min() >= _FILL_GAP * size[rest].max(initial=0.0)
        ):
            fill |= large
            ordinary = rest
    magnitude = max(float(size[ordinary].max(initial=0.0)), MAGNITUDE_FLOOR)
    return np.where(fill, size, magnitude)


def _describe(error: Array, beyond: Array, tolerance: float, expected: Array) -> str:
    if not _inexact(expected):
        return f"{int((error > 0).sum())} of {expected.size} values differ"
    misplaced = int(np.isinf(error).sum())
    if misplaced:
        return f"NaN or infinity in other places ({misplaced} of {expected.size} values)"
    worst = np.unravel_index(int(error.argmax()), error.shape)
    return (
        f"off by {error[worst]:.3g} where eager PyTorch gives {expected[worst]:.3g}; "
        f"{int(beyond.sum())} of {expected.size} values beyond the tolerance of {tolerance:g}"
    )


def compare_all(
    actual: Mapping[str, Array], expected: Mapping[str, Array], tolerances: Mapping[str, float]
) -> dict[str, tuple[Difference, bool]]:
    """For every output that is expected its difference, and whether ties had to be settled."""
    found = {
        name: compare(actual[name], array, tolerances[name]) for name, array in expected.items()
    }
    wrong = frozenset(name for name in found if not found[name].right)
    settled: dict[str, Array] = {}
    if wrong and all(actual[name].shape == array.shape for name, array in expected.items()):
        settled = settle_ties(actual, expected, tolerances, wrong)
    for name, array in settled.items():
        found[name] = compare(array, expected[name], tolerances[name])
    return {name: (found[name], name in settled) for name in found}


# Ties


def settle_ties(
    actual: Mapping[str, Array],
    expected: Mapping[str, Array],
    tolerances: Mapping[str, float],
    wrong: frozenset[str],
) -> dict[str, Array]:
    """Puts outputs that differ only in the order of tied rows into the expected order.

    The order of a top-k is arbitrary where scores tie, and so is that of everything
    gathered by its indices. It shows in an output that runs monotonically along an axis,
    the scores, and is right as it stands. Rows may be exchanged where their scores are as
    close as the scores' own errors, by one permutation for all outputs together.

    Args:
        actual: All outputs of the file.
        expected: All outputs of eager PyTorch, of the same shapes.
        tolerances: Relative tolerance of each output.
        wrong: Names of the outputs that differ as they stand.

    Returns:
        The outputs among `wrong` that ties explain, in the expected order.
    """
    settled: dict[str, Array] = {}
    for scores in _score_axes(actual, expected, tolerances):
        members = {
            name: axis
            for name in sorted(wrong - settled.keys())
            if (axis := scores.axis_in(expected[name].shape)) is not None
        }
        order = _matching(scores, members, actual, expected, tolerances) if members else None
        if order is not None:
            for name, axis in members.items():
                settled[name] = _reorder(actual[name], axis, order)
    return settled


@dataclass(frozen=True, slots=True)
class _Scores:
    """Scores sorted along their last axis, and how close two must be to count as tied."""

    values: Array
    tie: Array

    def axis_in(self, shape: tuple[int, ...]) -> int | None:
        """The axis of an output that the scores could have ordered."""
        *lead, count = self.values.shape
        if list(shape[: len(lead)]) != lead:
            return None
        return next((i for i in range(len(lead), len(shape)) if shape[i] == count), None)


def _score_axes(
    actual: Mapping[str, Array], expected: Mapping[str, Array], tolerances: Mapping[str, float]
) -> Iterator[_Scores]:
    for name, array in expected.items():
        if array.dtype.kind not in "fiu":
            continue
        for axis in range(array.ndim):
            if array.shape[axis] < 2 or not array.size:
                continue
            trailing = tuple(range(axis + 1, array.ndim))
            theirs = actual[name].max(axis=trailing).astype(np.float64)
            ours = array.max(axis=trailing).astype(np.float64)
            scores = _as_scores(theirs, ours, tolerances[name])
            if scores is not None:
                yield scores


def _as_scores(actual: Array, expected: Array, tolerance: float) -> _Scores | None:
    """None unless monotonic, right as they stand, and not all tied, which would prove nothing."""
    if not np.isfinite(expected).all() or not compare(actual, expected, tolerance).right:
        return None
    steps = np.diff(expected, axis=-1)
    if not ((steps <= 0).all() or (steps >= 0).all()):
        return None
    error = np.abs(actual - expected).max(axis=-1)
    size = np.abs(expected).max(axis=-1)
    tie = 4 * error + 16 * float(np.finfo(np.float32).eps) * size
    if (np.abs(expected[..., -1] - expected[..., 0]) <= tie).any():
        return None
    return _Scores(expected, tie)


def _matching(
    scores: _Scores,
    members: Mapping[str, int],
    actual: Mapping[str, Array],
    expected: Mapping[str, Array],
    tolerances: Mapping[str, float],
) -> Array | None:
    """For each place the row that belongs there, shaped like the scores; None if there is none."""
    order = np.empty(scores.values.shape, dtype=np.int64)
    rank = scores.values.ndim - 1
    allowed = {name: _allowed(expected[name], tolerances[name]) for name in members}
    for lead in np.ndindex(*scores.values.shape[:-1]):
        theirs = _rows(actual, members, rank, lead)
        ours = _rows(expected, members, rank, lead)
        bound = _rows(allowed, members, rank, lead)
        found = _match_rows(theirs, ours, bound, scores.values[lead], float(scores.tie[lead]))
        if found is None:
            return None
        order[lead] = found
    return order


def _allowed(expected: Array, tolerance: float) -> Array:
    if not _inexact(expected):
        return np.zeros(expected.shape)
    return _scales(expected.astype(np.float64)) * tolerance


def _rows(
    arrays: Mapping[str, Array], members: Mapping[str, int], rank: int, lead: tuple[int, ...]
) -> Array:
    parts = [np.moveaxis(arrays[name], axis, rank)[lead] for name, axis in members.items()]
    wide = [part.reshape(part.shape[0], -1).astype(np.float64) for part in parts]
    return np.concatenate(wide, axis=1)


def _match_rows(
    actual: Array, expected: Array, bound: Array, scores: Array, tie: float
) -> Array | None:
    order = np.arange(len(expected))
    stray = [i for i in order if not _alike(actual[i], expected[i], bound[i])]
    free = list(stray)
    for place in stray:
        for row in free:
            tied = abs(scores[row] - scores[place]) <= tie
            if tied and _alike(actual[row], expected[place], bound[place]):
                order[place] = row
                free.remove(row)
                break
        else:
            return None
    return order


def _alike(actual: Array, expected: Array, bound: Array) -> bool:
    same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        return bool((same | (np.abs(actual - expected) <= bound)).all())


def _reorder(array: Array, axis: int, order: Array) -> Array:
    rank = order.ndim - 1
    front = np.moveaxis(array, axis, rank)
    index = order.reshape(order.shape + (1,) * (front.ndim - order.ndim))
    return np.moveaxis(np.take_along_axis(front, index, axis=rank), rank, axis)
