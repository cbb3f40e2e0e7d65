"""Ways to order candidates, and what an order costs on models that were measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from selector.hindsight import Failure, twins_apart
from selector.ranking import rank_candidates, static_ranking
from strategies.registry import BUILTIN

if TYPE_CHECKING:
    from selector.features import ModelFeatures
    from selector.ranker import FittedRanker
    from selector.training import Row
    from strategies.base import Candidate

# Of candidates that are left, after what failed so far.
Order = Callable[[Sequence["Candidate"], Sequence[Failure]], Sequence["Candidate"]]


@dataclass(frozen=True, slots=True)
class Spent:
    """What the chain would spend on one model.

    Attributes:
        seconds: Wall seconds of all attempts.
        attempts: Their number.
        solved: Whether the last one gave a verified file.
        first_right: Whether the first one did.
        lost_axes: Whether a static file came first though a dynamic one was to be had. Then
            the model is not solved by it, and the chain is charged for going on.
    """

    seconds: float
    attempts: int
    solved: bool
    first_right: bool
    lost_axes: bool = False


def spend(rows: Sequence[Row], order: Order) -> Spent:
    """What the chain would spend on one model, which orders anew after each failure.

    Args:
        rows: Of the model, each with its seconds.
        order: The way to order; what it leaves out is not tried.
    """
    by_candidate = {row.candidate: row for row in rows}
    dynamic = any(row.success and row.candidate.dynamic for row in rows)
    waiting, failed = list(by_candidate), list[Failure]()
    tried: list[Row] = []
    solved = lost = False
    while waiting and not solved and (ordered := order(waiting, failed)):
        row = by_candidate[ordered[0]]
        waiting.remove(row.candidate)
        tried.append(row)
        if row.failure is not None:
            failed.append(Failure(candidate=row.candidate, kind=row.failure))
        elif dynamic and not row.candidate.dynamic:
            lost = True
        else:
            solved = True
    return Spent(
        seconds=sum(row.seconds or 0.0 for row in tried),
        attempts=len(tried),
        solved=solved,
        first_right=solved and len(tried) == 1,
        lost_axes=lost,
    )


def learned(ranker: FittedRanker, features: ModelFeatures, objective: str = "time") -> Order:
    """By a fitted ranker, which is told what was recorded of a model as `advice.Advice` does."""
    rank = partial(rank_candidates, objective=objective, ranker=ranker, explain=False)

    def order(waiting: Sequence[Candidate], failed: Sequence[Failure]) -> Sequence[Candidate]:
        if not failed and features.source_suffices:
            ranking = rank(features.as_read(), waiting)
            if ranking.sure:
                return ranking.candidates
        return rank(features, waiting, failed=failed).candidates

    return order


def fixed(order: Sequence[Candidate]) -> Order:
    """One that changes after a failure only as that of twins does."""
    return lambda waiting, failed: twins_apart([item for item in order if item in waiting], failed)


def static(features: ModelFeatures, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The order without a ranker."""
    names = [*BUILTIN, *sorted({item.strategy for item in candidates} - BUILTIN.keys())]
    registered = sorted(candidates, key=lambda item: names.index(item.strategy))
    return [item.candidate for item in static_ranking(features, registered, "").order]


def virtual_best(rows: Sequence[Row]) -> list[Candidate]:
    """An oracle's: the fastest one that is right, dynamic ones first."""
    right = [row for row in rows if row.success]
    best = min(right, key=lambda row: (not row.candidate.dynamic, row.seconds or 0.0))
    return [best.candidate]
