"""Baselines to data set to fitted ranker."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from selector import baseline, hindsight
from selector.chances import fit_chances
from selector.errors import AttemptTimeoutError, StrategyError, StrategyUnavailableError
from selector.features import ModelFeatures
from selector.ranker import (
    FittedRanker,
    Tally,
    matrix,
    timed_matrix,
)
from selector.single_best import single_best
from strategies.base import Candidate

# With fewer rows an estimator says less than rates and medians do.
FEWEST_ROWS = 24
FOLDS = 5
# Of the clock: how often what was stopped is estimated anew, and the least error believed.
TURNS = 5
LEAST_SPREAD = 0.1
# Seconds of an attempt with weights for one of its twin without: the median over the 419 pairs
# of the baseline, of which both were right in every one.
TWIN_SECONDS = 0.93


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One candidate on one model, as the fit sees it.

    Attributes:
        model: What identifies the model: its name, config and seed.
        features: Of the model.
        candidate: What was tried.
        success: Whether a verified file came out.
        failure: How it failed, see `hindsight.Failure.kind`; None for a success.
        timed_out: Whether it was stopped, so that its seconds are a lower bound.
        seconds: Wall seconds of the attempt, verification included, or None.
        qualities: What was measured of the file: `latency` in seconds, `size` in bytes beyond
            the parameters per operator, `coverage` as the share of nodes that is not traced.
    """

    model: str
    features: ModelFeatures
    candidate: Candidate
    success: bool
    failure: str | None
    timed_out: bool
    seconds: float | None
    qualities: Mapping[str, float]


def rows_of(records: Iterable[baseline.Record]) -> tuple[list[Row], tuple[str, ...]]:
    """The usable records as rows in a fixed order, and what was left out."""
    rows: list[Row] = []
    unknown: set[str] = set()
    for record in records:
        # What was not to be had on this model is not offered for one like it.
        if record.error_type == StrategyUnavailableError.__name__:
            continue
        features = record.model_features()
        if features is None:
            unknown.add(record.model)
        else:
            rows.append(_row(record, features))
    rows += _twins_left_out(rows)
    rows.sort(key=lambda row: (row.model, str(row.candidate)))
    notes = [f"{len(unknown)} models without features are left out"] if unknown else []
    return rows, tuple(notes)


def _twins_left_out(rows: Sequence[Row]) -> list[Row]:
    """Rows of the twins with weights that a collection left out, as without them it was right.

    Without these rows a candidate with weights would seem to be tried on hard models alone, and
    an order that begins with it to cost nothing on the others.
    """
    measured = {(row.model, row.candidate) for row in rows}
    return [
        replace(
            row,
            candidate=row.candidate.with_weights(),
            seconds=None if row.seconds is None else TWIN_SECONDS * row.seconds,
        )
        for row in rows
        if row.success and (row.model, row.candidate.with_weights()) not in measured
    ]


def _row(record: baseline.Record, features: ModelFeatures) -> Row:
    times = [item for item in (record.export_seconds, record.verify_seconds) if item is not None]
    size = None
    if record.file_bytes is not None and features.operators:
        extra = record.file_bytes - features.parameter_bytes
        size = extra / sum(features.operators.values())
    qualities = {
        "latency": record.ort_latency_seconds,
        "size": size,
        "coverage": None if record.traced_share is None else 1 - record.traced_share,
    }
    return Row(
        model=f"{record.model} {record.config_digest} {record.seed}",
        features=features,
        candidate=record.candidate.candidate(),
        success=record.success,
        failure=None if record.success else record.error_type or StrategyError.__name__,
        timed_out=record.error_type == AttemptTimeoutError.__name__,
        seconds=sum(times) if times else None,
        qualities={name: value for name, value in qualities.items() if value is not None}
        if record.success
        else {},
    )


def fit(rows: Sequence[Row]) -> FittedRanker:
    """Fits probability, seconds and latency; the same rows give the same ranker."""
    # What a file is like does not depend on whether it was captured with weights.
    files = [replace(row, candidate=row.candidate.with_weights()) for row in rows]
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - only fitting needs it

    # The matrices are small: more threads only wait for each other.
    with threadpool_limits(limits=1):
        chances = fit_chances(rows)
        clock, spread = _fit_clock(rows)
        unrecorded, _ = _fit_clock([replace(row, features=row.features.as_read()) for row in rows])
        latency = _fit_latency(files)
    return FittedRanker(
        chances=chances,
        hindsight=hindsight.learn(rows),
        clock=clock,
        clock_unrecorded=unrecorded,
        clock_spread=spread,
        latency=latency,
        tallies=_tallies(rows),
        medians={
            "success_seconds": _medians(
                (row, row.seconds) for row in rows if row.success and row.seconds is not None
            ),
            "failure_seconds": _medians(
                (row, row.seconds) for row in rows if not row.success and row.seconds is not None
            ),
            **{
                name: _medians((row, row.qualities[name]) for row in files if name in row.qualities)
                for name in ("latency", "size", "coverage")
            },
        },
        single_best=single_best(hindsight.by_model(rows)),
    )


def _fit_clock(rows: Sequence[Row]) -> tuple[Any, float]:
    """The clock, linear in logarithms so that it extrapolates to larger models, and its spread.

    Of an attempt that was stopped a lower bound is known. It counts with the seconds that are
    expected above the bound, fitted in turns with the rest (Schmee and Hahn 1979).
    """
    timed = [row for row in rows if row.seconds]
    if len(timed) < FEWEST_ROWS:
        return None, FittedRanker().clock_spread
    import numpy as np  # noqa: PLC0415 - as above
    from scipy.stats import norm  # noqa: PLC0415 - as above

    values = np.vstack(
        [timed_matrix(row.features, [row.candidate], success=row.success) for row in timed]
    )
    bounds = np.log([row.seconds or 1.0 for row in timed])
    stopped = np.asarray([row.timed_out for row in timed])
    logarithms, clock = bounds.copy(), _linear().fit(values, bounds)
    for _ in range(TURNS if stopped.any() else 0):
        expected = clock.predict(values)
        spread = max(float(np.std((logarithms - expected)[~stopped])), LEAST_SPREAD)
        above = (bounds - expected) / spread
        hazard = np.exp(norm.logpdf(above) - norm.logsf(above))
        logarithms[stopped] = (expected + spread * hazard)[stopped]
        clock = _linear().fit(values, logarithms)
    return clock, _spread(values, logarithms, [row.features.family for row in timed])


def _spread(values: Any, logarithms: Any, families: Sequence[str]) -> float:
    """Standard deviation of the clock's error on families that it was not fitted on."""
    import numpy as np  # noqa: PLC0415 - as above
    from sklearn.model_selection import GroupKFold, cross_val_predict  # noqa: PLC0415 - as above

    count = min(FOLDS, len(set(families)))
    if count < 2:
        return FittedRanker().clock_spread
    found = cross_val_predict(
        _linear(), values, logarithms, groups=families, cv=GroupKFold(n_splits=count)
    )
    return max(float(np.std(logarithms - found)), LEAST_SPREAD)


def _fit_latency(rows: Sequence[Row]) -> Any:
    measured = [row for row in rows if row.qualities.get("latency")]
    if len(measured) < FEWEST_ROWS:
        return None
    import numpy as np  # noqa: PLC0415 - as above

    values = np.vstack([matrix(row.features, [row.candidate]) for row in measured])
    return _linear().fit(values, np.log([row.qualities["latency"] for row in measured]))


def _linear() -> Any:
    from sklearn.linear_model import Ridge  # noqa: PLC0415 - as above
    from sklearn.pipeline import make_pipeline  # noqa: PLC0415 - as above
    from sklearn.preprocessing import StandardScaler  # noqa: PLC0415 - as above

    return make_pipeline(StandardScaler(), Ridge(alpha=3.0))


def _tallies(rows: Sequence[Row]) -> dict[str, Tally]:
    counted: defaultdict[str, Tally] = defaultdict(Tally)
    for row in rows:
        names = {
            str(row.candidate),
            row.candidate.strategy,
            f"{row.features.family}/{row.candidate}",
        }
        for name in names:
            tally = counted[name]
            counted[name] = replace(tally, right=tally.right + row.success, tried=tally.tried + 1)
    return dict(counted)


def _medians(measured: Iterable[tuple[Row, float]]) -> dict[str, float]:
    """By candidate, by strategy and over all; empty where nothing was measured."""
    values: defaultdict[str, list[float]] = defaultdict(list)
    for row, value in measured:
        for name in (str(row.candidate), row.candidate.strategy, ""):
            values[name].append(value)
    return {name: statistics.median(items) for name, items in values.items()}
