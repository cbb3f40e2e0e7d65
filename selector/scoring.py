"""How good a ranker is on architecture families that it was not fitted on."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from selector.hindsight import Failure, by_model, twins_apart
from selector.ranking import rank_candidates, static_ranking
from strategies.base import Candidate

if TYPE_CHECKING:
    from selector.ranker import FittedRanker
    from selector.training import Row

FOLDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Out-of-family scores; None where the data do not define one.

    The costs are mean seconds per model to the first success in the order given, failed
    attempts included, over models that some candidate succeeds on and all were timed on.

    Attributes:
        folds: Number of folds; each architecture family is in one of them.
        brier: Mean squared error of the probabilities; 0.25 for a coin.
        brier_of_rates: The same for the success rate of each candidate.
        auc: Area under the ROC curve.
        models_timed: Number of models that the costs are over.
        selector_seconds: Cost of the ranker's order.
        static_seconds: Cost of the static order.
        single_best_seconds: Cost of the best order that is the same for all models (SBS).
        virtual_best_seconds: Cost of an oracle that tries one that succeeds first (VBS).
        remaining_gap: (selector - VBS) / (SBS - VBS); 0 is the oracle, 1 the single best.
    """

    folds: int = 0
    brier: float | None = None
    brier_of_rates: float | None = None
    auc: float | None = None
    models_timed: int = 0
    selector_seconds: float | None = None
    static_seconds: float | None = None
    single_best_seconds: float | None = None
    virtual_best_seconds: float | None = None
    remaining_gap: float | None = None


@dataclass(frozen=True, slots=True)
class _Costs:
    """Seconds to a verified file on one model, for each way to order."""

    selector: float
    static: float
    single_best: float
    virtual_best: float


def score_ranker(
    rows: Sequence[Row], fit: Callable[[Sequence[Row]], FittedRanker], folds: int = FOLDS
) -> Scores:
    """Fits on all families but those of a fold and scores on these, for every fold."""
    groups = _folds(rows, folds)
    if len(groups) < 2:
        return Scores()
    outcomes: list[tuple[bool, float, float]] = []
    costs: list[_Costs] = []
    for families in groups:
        train = [row for row in rows if row.features.family not in families]
        ranker = fit(train)
        rates = replace(ranker, classifier=None, clock=None)
        for of_model in by_model(row for row in rows if row.features.family in families):
            features, candidates = of_model[0].features, [row.candidate for row in of_model]
            chances = ranker.probabilities(features, candidates)
            plain = rates.probabilities(features, candidates)
            outcomes += zip([row.success for row in of_model], chances, plain, strict=True)
            if cost := _costs(of_model, ranker, rates):
                costs.append(cost)
    return _summary(len(groups), outcomes, costs)


def _folds(rows: Sequence[Row], folds: int) -> list[set[str]]:
    """Families in groups of about equally many rows, the largest families first."""
    sizes: defaultdict[str, int] = defaultdict(int)
    for row in rows:
        sizes[row.features.family] += 1
    count = min(folds, len(sizes))
    groups: list[tuple[int, set[str]]] = [(0, set()) for _ in range(count)]
    for family in sorted(sizes, key=lambda name: (-sizes[name], name)):
        size, members = min(groups, key=lambda group: group[0])
        groups[groups.index((size, members))] = size + sizes[family], members | {family}
    return [members for _, members in groups]


def _costs(rows: Sequence[Row], ranker: FittedRanker, rates: FittedRanker) -> _Costs | None:
    """What each order costs on one model, None where that is not defined."""
    right = [row for row in rows if row.success]
    if not right or any(row.seconds is None for row in rows):
        return None
    features, candidates = rows[0].features, [row.candidate for row in rows]
    # An oracle too wants dynamic axes, where they can be had.
    best = min(right, key=lambda row: (not row.candidate.dynamic, row.seconds))

    def cost(order: Callable[[Sequence[Candidate], Sequence[Failure]], list[Candidate]]) -> float:
        return seconds_to_success(rows, order)

    def ranked(by: FittedRanker) -> Callable[..., list[Candidate]]:
        return lambda waiting, failed: [
            item.candidate
            for item in rank_candidates(features, waiting, ranker=by, failed=failed).order
        ]

    static = static_ranking(features, _registered(candidates), "").order
    return _Costs(
        selector=cost(ranked(ranker)),
        static=cost(fixed([item.candidate for item in static])),
        single_best=cost(fixed(ranked(rates)(candidates, ()))),
        virtual_best=best.seconds or 0.0,
    )


def fixed(order: Sequence[Candidate]) -> Callable[..., list[Candidate]]:
    """An order that changes after a failure only as that of twins does."""

    def left(waiting: Sequence[Candidate], failed: Sequence[Failure]) -> list[Candidate]:
        return twins_apart([item for item in order if item in waiting], failed)

    return left


def _registered(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Candidates in the order of the registry."""
    from strategies.registry import BUILTIN  # noqa: PLC0415 - keeps the module's imports one way

    names = [*BUILTIN, *sorted({item.strategy for item in candidates} - BUILTIN.keys())]
    return sorted(candidates, key=lambda item: (not item.dynamic, names.index(item.strategy)))


def seconds_to_success(
    rows: Sequence[Row],
    order: Callable[[Sequence[Candidate], Sequence[Failure]], list[Candidate]],
) -> float:
    """What the chain would spend on one model, which orders anew after each failure.

    Args:
        rows: Of the model, each with its seconds.
        order: Of candidates that are left, after what failed so far.
    """
    by_candidate = {row.candidate: row for row in rows}
    waiting, failed, total = list(by_candidate), list[Failure](), 0.0
    while waiting:
        row = by_candidate[order(waiting, failed)[0]]
        waiting.remove(row.candidate)
        total += row.seconds or 0.0
        if row.failure is None:
            break
        failed.append(Failure(candidate=row.candidate, kind=row.failure))
    return total


def _summary(
    folds: int, outcomes: Sequence[tuple[bool, float, float]], costs: Sequence[_Costs]
) -> Scores:
    selector, static, best, oracle = (
        math.fsum(getattr(cost, name) for cost in costs) / len(costs) if costs else None
        for name in ("selector", "static", "single_best", "virtual_best")
    )
    gap = None
    if selector is not None and best is not None and oracle is not None and best > oracle:
        gap = (selector - oracle) / (best - oracle)
    return Scores(
        folds=folds,
        brier=_brier((success, chance) for success, chance, _ in outcomes),
        brier_of_rates=_brier((success, rate) for success, _, rate in outcomes),
        auc=_auc(outcomes),
        models_timed=len(costs),
        selector_seconds=selector,
        static_seconds=static,
        single_best_seconds=best,
        virtual_best_seconds=oracle,
        remaining_gap=gap,
    )


def _brier(outcomes: Iterable[tuple[bool, float]]) -> float:
    errors = [(chance - success) ** 2 for success, chance in outcomes]
    return math.fsum(errors) / len(errors)


def _auc(outcomes: Sequence[tuple[bool, float, float]]) -> float | None:
    if len({success for success, _, _ in outcomes}) < 2:
        return None
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - scikit-learn takes seconds

    return float(roc_auc_score([row[0] for row in outcomes], [row[1] for row in outcomes]))
