"""How good a ranker is on models that it was not fitted on."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from selector.hindsight import by_model
from selector.orders import (
    Order,
    Spent,
    fixed,
    learned,
    spend,
    static,
    virtual_best,
)
from selector.ranker import timed_matrix
from selector.single_best import single_best

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from selector.features import ModelFeatures
    from selector.ranker import FittedRanker
    from selector.training import Row
    from strategies.base import Candidate

Model = Sequence["Row"]
# Models to hold out, group by group: from all models and a seed to positions in them.
Splitter = Callable[[Sequence[Model], int], list[list[int]]]
# A way to order the candidates of a model, with a seed for what is drawn.
Contender = Callable[[Model, int], Order]
Fit = Callable[[Sequence["Row"]], "FittedRanker"]
# Of each model its candidates.
_Asked = Sequence[tuple["ModelFeatures", Sequence["Candidate"]]]

RANKER, STATIC, SINGLE_BEST, VIRTUAL_BEST = "ranker", "static order", "single best", "virtual best"
BY_ATTEMPTS = f"{RANKER}, by attempts"
CHAMPION = "ranker in use"
SEEDS = 10
BINS = 10
RESAMPLES = 2000
COVERED = (2.5, 97.5)
# What is not solved is charged ten times this limit (PAR10).
TIME_LIMIT, PENALTY = 120.0, 10.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over models and seeds, with its 95 % interval by resampling models and seeds."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyScore:
    """What a way to order costs, in means per model.

    Attributes:
        seconds: To a verified file, failed attempts included.
        par10: The same, where what is not solved costs ten times the limit.
        attempts: Number of attempts.
        first_right: Share of models on which the first choice succeeds.
        lost_axes: Share of models that get a static file though a dynamic one was to be had;
            what that costs is counted as if the chain had gone on.
        remaining_gap: (it - VBS) / (SBS - VBS) in seconds; 0 is the oracle, 1 the single best;
            None where it does not solve every model.
    """

    seconds: Interval
    par10: Interval
    attempts: Interval
    first_right: Interval
    lost_axes: Interval
    remaining_gap: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """Held-out scores; None where the data do not define one.

    The costs are over models that some candidate succeeds on and all were timed on. The
    single best (SBS) is the order that costs least on these very models, and the virtual
    best (VBS) an oracle that tries one that succeeds first.

    Attributes:
        seeds: How often everything was fitted and split anew.
        models: Number of models that the costs are over.
        brier: Mean squared error of the probabilities; 0.25 for a coin.
        brier_of_rates: The same for the success rate of each candidate.
        auc: Area under the ROC curve.
        calibration_error: Expected calibration error of the probabilities in 10 bins (ECE).
        remaining_gap: The ranker's, see `PolicyScore`.
        policies: By name.
    """

    seeds: int = 0
    models: int = 0
    brier: float | None = None
    brier_of_rates: float | None = None
    auc: float | None = None
    calibration_error: float | None = None
    remaining_gap: Interval | None = None
    policies: Mapping[str, PolicyScore] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Validation:
    """What held-out models cost, model by model.

    Attributes:
        models: Rows of each that the costs are over.
        spent: By policy, for each seed what each model cost.
        predictions: Of the ranker, for every row and seed: family, candidate, success,
            probability, and the success rate of the candidate on the other models.
    """

    models: tuple[Model, ...]
    spent: Mapping[str, Sequence[Sequence[Spent]]]
    predictions: tuple[tuple[Row, float, float], ...]


def leave_one_family_out(models: Sequence[Model], _: int = 0) -> list[list[int]]:
    """Each architecture family is held out once."""
    families: defaultdict[str, list[int]] = defaultdict(list)
    for place, rows in enumerate(models):
        families[rows[0].features.family].append(place)
    return [families[name] for name in sorted(families)]


def random_fifths(models: Sequence[Model], seed: int) -> list[list[int]]:
    """Each random fifth of the models is held out once."""
    places = list(range(len(models)))
    random.Random(seed).shuffle(places)  # noqa: S311 - a split, not a secret
    return [part for start in range(5) if (part := places[start::5])]


def cross_validate(  # noqa: PLR0913 - what is tried, how, and against what
    rows: Iterable[Row],
    fit: Fit,
    split: Splitter = leave_one_family_out,
    *,
    seeds: int = SEEDS,
    champion: Sequence[Row] = (),
    contenders: Mapping[str, Contender] = MappingProxyType({}),
) -> Validation | None:
    """Fits on all models but those of a group and tries the ranker on these, for every group.

    Args:
        rows: Of all models that are tried; the ranker is fitted on them.
        fit: Rows to a ranker; the same rows to the same one.
        split: Which groups of models are held out.
        seeds: How often, each time with another seed for the split and the contenders.
        contenders: Further ways to order, for which nothing is fitted.
        champion: What another ranker is fitted on in the same way; its models are tried too.

    Returns:
        None where nothing is left to fit on, or nothing to try.
    """
    rows = list(rows)
    known = {(row.model, row.candidate) for row in rows}
    models = by_model(
        [*rows, *(row for row in champion if (row.model, row.candidate) not in known)]
    )
    groups = split(models, 0)
    if len(groups) < 2:
        return None
    whole_families = split is leave_one_family_out
    sources = {RANKER: rows, CHAMPION: list(champion)} if champion else {RANKER: rows}
    spent: defaultdict[str, list[dict[int, Spent]]] = defaultdict(list)
    predictions: list[tuple[Row, float, float]] = []
    # The fit draws nothing, so a group that comes again fares as it did before.
    known_groups: dict[tuple[int, ...], _Fared] = {}
    for seed in range(seeds):
        of_seed: defaultdict[str, dict[int, Spent]] = defaultdict(dict)
        for group in map(tuple, split(models, seed)):
            if group not in known_groups:
                held_out = {place: models[place] for place in group}
                rankers = {
                    name: fit(_without(source, [*held_out.values()], whole_families))
                    for name, source in sources.items()
                }
                known_groups[group] = _fared(held_out, rankers)
            fared = known_groups[group]
            for name, found in fared.spent.items():
                of_seed[name] |= found
            predictions += fared.predictions
        for name, found in of_seed.items():
            spent[name].append(found)
    timed = [place for place, model in enumerate(models) if _is_timed(model)]
    if not timed:
        return None
    chosen = [models[place] for place in timed]
    unlearned = {**_standard(chosen), **contenders}
    return Validation(
        models=tuple(chosen),
        spent={
            **{
                name: [[found[place] for place in timed] for found in by_seed]
                for name, by_seed in spent.items()
            },
            **{
                name: [[spend(rows, order(rows, seed)) for rows in chosen] for seed in range(seeds)]
                for name, order in unlearned.items()
            },
        },
        predictions=tuple(predictions),
    )


@dataclass(frozen=True, slots=True)
class _Fared:
    """How a group of models fared, by policy and place, and what was predicted of it."""

    spent: Mapping[str, Mapping[int, Spent]]
    predictions: Sequence[tuple[Row, float, float]]


def _fared(held_out: Mapping[int, Model], rankers: Mapping[str, FittedRanker]) -> _Fared:
    spent: defaultdict[str, dict[int, Spent]] = defaultdict(dict)
    models = list(held_out.values())
    quick = {name: remembering(ranker, models) for name, ranker in rankers.items()}
    for place, rows in held_out.items():
        if _is_timed(rows):
            for name, order in _orders(rows, quick).items():
                spent[name][place] = spend(rows, order)
    return _Fared(spent, list(_predictions(quick[RANKER], models)))


def _is_timed(rows: Model) -> bool:
    """Whether the cost of every order is known, and one ends well."""
    return any(row.success for row in rows) and all(row.seconds is not None for row in rows)


def _without(rows: Sequence[Row], held_out: Sequence[Model], whole_families: bool) -> list[Row]:  # noqa: FBT001 - private, and named at its one call
    models = {model[0].model for model in held_out}
    families = {model[0].features.family for model in held_out} if whole_families else set()
    return [row for row in rows if row.model not in models and row.features.family not in families]


def _orders(rows: Model, rankers: Mapping[str, FittedRanker]) -> dict[str, Order]:
    features = rows[0].features
    orders = {name: learned(ranker, features) for name, ranker in rankers.items()}
    return {**orders, BY_ATTEMPTS: learned(rankers[RANKER], features, "attempts")}


def _standard(models: Sequence[Model]) -> dict[str, Contender]:
    best = fixed(single_best(models))
    return {
        SINGLE_BEST: lambda _, __: best,
        STATIC: lambda rows, _: fixed(static(rows[0].features, [row.candidate for row in rows])),
        VIRTUAL_BEST: lambda rows, _: fixed(virtual_best(rows)),
    }


class _Remembering:
    """An estimator that was asked everything at once, as single questions take long."""

    def __init__(self, estimator: Any, questions: NDArray[Any]) -> None:
        predict = getattr(estimator, "predict_proba", estimator.predict)
        answers = predict(questions)
        self._answers = {
            row.tobytes(): answer for row, answer in zip(questions, answers, strict=True)
        }

    def predict(self, rows: NDArray[Any]) -> NDArray[Any]:
        import numpy as np  # noqa: PLC0415 - the parent of an export needs none of it

        return np.asarray([self._answers[bytes(row)] for row in rows])

    predict_proba = predict


def remembering(ranker: FittedRanker, models: Sequence[Model]) -> FittedRanker:
    """The same ranker for these models only, much faster."""
    import numpy as np  # noqa: PLC0415 - the parent of an export needs none of it

    asked = [(rows[0].features, [row.candidate for row in rows]) for rows in models]

    def quick(clock: Any, asked: _Asked) -> Any:
        if clock is None:
            return None
        questions = [
            timed_matrix(features, candidates, success=success)
            for features, candidates in asked
            for success in (True, False)
        ]
        return _Remembering(clock, np.vstack(questions))

    unrecorded = [(features.as_read(), candidates) for features, candidates in asked]
    return replace(
        ranker,
        clock=quick(ranker.clock, asked),
        clock_unrecorded=quick(ranker.clock_unrecorded, unrecorded),
    )


def _predictions(
    ranker: FittedRanker, models: Iterable[Model]
) -> Iterable[tuple[Row, float, float]]:
    for rows in models:
        candidates = [row.candidate for row in rows]
        chances = ranker.probabilities(rows[0].features, candidates)
        rates = [ranker.rate(candidate) for candidate in candidates]
        yield from zip(rows, chances, rates, strict=True)


# Summing up


def score(validation: Validation | None) -> Scores:
    """Means with their intervals."""
    if validation is None:
        return Scores()
    outcomes = [(row.success, chance) for row, chance, _ in validation.predictions]
    policies = {name: _policy(validation, name) for name in validation.spent}
    return Scores(
        seeds=len(validation.spent[RANKER]),
        models=len(validation.models),
        brier=_brier(outcomes),
        brier_of_rates=_brier((row.success, rate) for row, _, rate in validation.predictions),
        auc=_auc(outcomes),
        calibration_error=calibration_error(outcomes),
        remaining_gap=policies[RANKER].remaining_gap,
        policies=policies,
    )


def difference(validation: Validation, first: str, second: str) -> Interval:
    """How many seconds more the first policy costs per model than the second."""
    return _interval(_seconds(validation, first) - _seconds(validation, second))


def calibration_error(outcomes: Sequence[tuple[bool, float]]) -> float:
    """Mean distance of probability and success rate over bins of equal width (Guo et al. 2017)."""
    bins: defaultdict[int, list[tuple[bool, float]]] = defaultdict(list)
    for success, chance in outcomes:
        bins[min(int(chance * BINS), BINS - 1)].append((success, chance))
    return sum(
        abs(sum(success for success, _ in held) - math.fsum(chance for _, chance in held))
        for held in bins.values()
    ) / max(len(outcomes), 1)


def _policy(validation: Validation, name: str) -> PolicyScore:
    import numpy as np  # noqa: PLC0415 - the parent of an export needs none of it

    spent = validation.spent[name]
    seconds = _seconds(validation, name)
    solved = _flags(spent, "solved")
    attempts = np.array([[item.attempts for item in of_seed] for of_seed in spent])
    return PolicyScore(
        seconds=_interval(seconds),
        par10=_interval(np.where(solved, seconds, PENALTY * TIME_LIMIT)),
        attempts=_interval(attempts),
        first_right=_interval(_flags(spent, "first_right")),
        lost_axes=_interval(_flags(spent, "lost_axes")),
        remaining_gap=_gap(
            seconds, _seconds(validation, SINGLE_BEST), _seconds(validation, VIRTUAL_BEST)
        )
        if solved.all()
        else None,
    )


def _flags(spent: Sequence[Sequence[Spent]], name: str) -> NDArray[Any]:
    """(seeds, models)."""
    import numpy as np  # noqa: PLC0415 - as above

    return np.array([[getattr(item, name) for item in of_seed] for of_seed in spent])


def _seconds(validation: Validation, name: str) -> NDArray[Any]:
    """(seeds, models)."""
    import numpy as np  # noqa: PLC0415 - as above

    return np.array([[item.seconds for item in of_seed] for of_seed in validation.spent[name]])


def _resampled(*values: NDArray[Any]) -> list[NDArray[Any]]:
    """Means of each over the same resampled models, each time for one seed."""
    import numpy as np  # noqa: PLC0415 - as above

    draw = np.random.default_rng(0)
    seeds, models = values[0].shape
    picked = draw.integers(models, size=(RESAMPLES, models))
    seed = draw.integers(seeds, size=(RESAMPLES, 1))
    return [item[seed, picked].mean(axis=1) for item in values]


def _interval(values: NDArray[Any]) -> Interval:
    (means,) = _resampled(values)
    return _covering(float(values.mean()), means)


def _covering(mean: float, means: NDArray[Any]) -> Interval:
    import numpy as np  # noqa: PLC0415 - as above

    low, high = np.percentile(means, COVERED)
    return Interval(mean, float(low), float(high))


def _gap(mine: NDArray[Any], single: NDArray[Any], virtual: NDArray[Any]) -> Interval | None:
    import numpy as np  # noqa: PLC0415 - as above

    if not single.mean() > virtual.mean():
        return None
    own, best, oracle = _resampled(mine, single, virtual)
    defined = best > oracle
    gaps = (own[defined] - oracle[defined]) / (best[defined] - oracle[defined])
    gap = (mine.mean() - virtual.mean()) / (single.mean() - virtual.mean())
    return _covering(float(gap), np.asarray(gaps))


def _brier(outcomes: Iterable[tuple[bool, float]]) -> float:
    errors = [(chance - success) ** 2 for success, chance in outcomes]
    return math.fsum(errors) / len(errors)


def _auc(outcomes: Sequence[tuple[bool, float]]) -> float | None:
    if len({success for success, _ in outcomes}) < 2:
        return None
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415 - scikit-learn takes seconds

    return float(roc_auc_score([row[0] for row in outcomes], [row[1] for row in outcomes]))
