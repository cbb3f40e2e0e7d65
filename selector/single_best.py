"""The one order of candidates that costs least over all models that were measured."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from selector.training import Row
    from strategies.base import Candidate


def single_best(models: Sequence[Sequence[Row]]) -> list[Candidate]:
    """The order of all candidates that costs least on all models, dynamic ones first.

    Which models the dynamic ones leave to the static ones does not depend on their order,
    so the best order of each half is found on its own, among all of them.
    """
    import numpy as np  # noqa: PLC0415 - the parent of an export needs none of it

    candidates = sorted({row.candidate for rows in models for row in rows}, key=str)
    places = {candidate: place for place, candidate in enumerate(candidates)}
    seconds = np.zeros((len(models), len(candidates)))
    right = np.zeros(seconds.shape, dtype=bool)
    for number, rows in enumerate(models):
        for row in rows:
            seconds[number, places[row.candidate]] = row.seconds or 0.0
            right[number, places[row.candidate]] = row.success
    open_models = np.ones(len(models), dtype=bool)
    order: list[int] = []
    for dynamic in (True, False):
        half = [places[item] for item in candidates if item.dynamic == dynamic]
        order += _best_half(half, seconds[open_models], right[open_models])
        open_models &= ~right[:, half].any(axis=1)
    return [candidates[place] for place in order]


def _best_half(half: Sequence[int], seconds: NDArray[Any], right: NDArray[Any]) -> tuple[int, ...]:
    """What comes next depends only on which were tried, not in which order (Bellman 1957)."""
    best: dict[frozenset[int], tuple[float, tuple[int, ...]]] = {frozenset(): (0.0, ())}
    for count in range(len(half)):
        for tried in map(frozenset, itertools.combinations(half, count)):
            unsolved = ~right[:, sorted(tried)].any(axis=1)
            spent, order = best[tried]
            for place in set(half) - tried:
                longer = (spent + float(seconds[unsolved, place].sum()), (*order, place))
                best[tried | {place}] = min(best.get(tried | {place}, longer), longer)
    return best[frozenset(half)][1]
