"""Baselines to data set to fitted ranker to its score card."""

from __future__ import annotations

import hashlib
import math
import os
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selector import baseline, experience, hindsight, ranker_files
from selector.errors import AttemptTimeoutError, RankerError
from selector.features import ModelFeatures
from selector.ranker import (
    FittedRanker,
    Tally,
    matrix,
    timed_matrix,
    twin_with_weights,
)
from selector.scoring import Scores, score_ranker
from strategies.base import Candidate

# With fewer rows an estimator says less than rates and medians do.
FEWEST_ROWS = 24
FOLDS = 5
SEED = 0
# Of the clock: how often what was stopped is estimated anew, and the least error believed.
TURNS = 5
LEAST_SPREAD = 0.1


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


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCard:
    """What a ranker was fitted on and how good it is; stored beside the artefact.

    Attributes:
        path: The artefact.
        records: Rows used.
        models: Different models among them.
        candidates: Different candidates among them.
        success_rate: Share of rows that are successes.
        scores: From folds that keep each architecture family together.
        training: Name and SHA-256 of every baseline.
        notes: Records and models that were left out, and why.
        created: Date and time, UTC.
    """

    path: Path
    records: int
    models: int
    candidates: int
    success_rate: float
    scores: Scores
    training: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...]
    created: str


def retrain(
    baselines: Sequence[str | os.PathLike[str]] = (),
    output: str | os.PathLike[str] | None = None,
    *,
    with_experience: bool = False,
) -> ScoreCard:
    """Fits the ranker anew and stores it, with its card beside it.

    Args:
        baselines: Files in this format or in the seed's; by default the shipped one.
        output: Where the artefact goes, a `.joblib` file; by default it becomes the user's
            own ranker, which exports use instead of the shipped one.
        with_experience: Whether to learn from the user's own exports too, see `experience`.

    Raises:
        InvalidRequestError: A baseline cannot be read, or the output cannot be written.
        RankerError: No record can be used.
    """
    paths = [Path(path) for path in baselines] or [ranker_files.shipped_baseline()]
    sources = [baseline.read(path) for path in paths]
    if with_experience:
        sources.append(experience.read())
        paths += [experience.journal_path()] if sources[-1].records else []
    merged = baseline.merge(sources)
    rows, left_out = rows_of(merged.records)
    if not rows:
        reasons = "; ".join([*merged.notes, *left_out]) or "there are no records"
        raise RankerError(f"nothing to fit the ranker on: {reasons}")
    ranker = fit(rows)
    target = ranker_files.user_path() if output is None else Path(output)
    card = ScoreCard(
        path=target,
        records=len(rows),
        models=len({row.model for row in rows}),
        candidates=len({row.candidate for row in rows}),
        success_rate=sum(row.success for row in rows) / len(rows),
        scores=score_ranker(rows, fit),
        training=tuple(
            {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in paths
        ),
        notes=(*merged.notes, *left_out),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    described = {name: value for name, value in asdict(card).items() if name != "path"}
    ranker_files.store(ranker, target, _finite(described))
    return card


def rows_of(records: Iterable[baseline.Record]) -> tuple[list[Row], tuple[str, ...]]:
    """The usable records as rows in a fixed order, and what was left out."""
    rows: list[Row] = []
    unknown: set[str] = set()
    for record in records:
        features = record.model_features()
        if features is None:
            unknown.add(record.model)
        else:
            rows.append(_row(record, features))
    rows.sort(key=lambda row: (row.model, str(row.candidate)))
    notes = [f"{len(unknown)} models without features are left out"] if unknown else []
    return rows, tuple(notes)


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
        failure=None if record.success else hindsight.failure_kind(record.stage, record.error_type),
        timed_out=record.error_type == AttemptTimeoutError.__name__,
        seconds=sum(times) if times else None,
        qualities={name: value for name, value in qualities.items() if value is not None}
        if record.success
        else {},
    )


def fit(rows: Sequence[Row]) -> FittedRanker:
    """Fits probability, seconds and latency; the same rows give the same ranker."""
    # What a file is like does not depend on whether it was captured with weights.
    files = [replace(row, candidate=twin_with_weights(row.candidate)) for row in rows]
    clock, spread = _fit_clock(rows)
    return FittedRanker(
        classifier=_fit_classifier(rows),
        clock=clock,
        clock_spread=spread,
        latency=_fit_latency(files),
        hindsight=hindsight.learn(rows),
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
    )


def _fit_classifier(rows: Sequence[Row]) -> Any:
    """A forest whose probabilities are calibrated on families that it did not see.

    Its probabilities are mapped by Platt's sigmoid (Platt 1999), fitted on predictions for
    the left-out folds: isotonic regression needs more data than a baseline has.
    """
    if len(rows) < FEWEST_ROWS or len({row.success for row in rows}) < 2:
        return None
    import numpy as np  # noqa: PLC0415 - scikit-learn takes seconds, and only fitting needs it
    from sklearn.calibration import CalibratedClassifierCV  # noqa: PLC0415 - as above
    from sklearn.ensemble import RandomForestClassifier  # noqa: PLC0415 - as above

    values = np.vstack([matrix(row.features, [row.candidate]) for row in rows])
    targets = np.asarray([row.success for row in rows], dtype=int)
    forest = RandomForestClassifier(
        n_estimators=100, min_samples_leaf=3, max_features=0.5, random_state=SEED
    )
    folds = _calibration_folds(rows, targets)
    if folds is None:
        return forest.fit(values, targets)
    calibrated = CalibratedClassifierCV(forest, method="sigmoid", cv=folds, ensemble=False)
    return calibrated.fit(values, targets)


def _calibration_folds(rows: Sequence[Row], targets: Any) -> list[tuple[Any, Any]] | None:
    """Folds by family, or by model with a single family; None where one lacks an outcome."""
    from sklearn.model_selection import GroupKFold  # noqa: PLC0415 - as above

    families = [row.features.family for row in rows]
    groups = families if len(set(families)) > 1 else [row.model for row in rows]
    count = min(FOLDS, len(set(groups)))
    if count < 2:
        return None
    folds = list(GroupKFold(n_splits=count).split(targets, targets, groups))
    complete = all(len(set(targets[train].tolist())) == 2 for train, _ in folds)
    return folds if complete else None


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


def _finite(value: Any) -> Any:
    """JSON has no NaN: what could not be computed is null."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
