"""`retrain`: a ranker from baselines, its score card, and whether it replaces the one in use."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from selector import baseline, experience, ranker_files
from selector.errors import InvalidRequestError, RankerError
from selector.scoring import (
    CHAMPION,
    RANKER,
    Interval,
    Scores,
    Validation,
    cross_validate,
    difference,
    score,
)
from selector.training import Row, fit, rows_of


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreCard:
    """What a ranker was fitted on and how good it is; stored beside the artefact.

    Attributes:
        path: The artefact.
        records: Rows used.
        models: Different models among them.
        candidates: Different candidates among them.
        success_rate: Share of rows that are successes.
        scores: Each architecture family held out in turn.
        against_champion: Seconds per model that it costs more than the one in use, on held-out
            families; None where there was nothing to compare.
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
    against_champion: Interval | None
    training: tuple[Mapping[str, str], ...]
    notes: tuple[str, ...]
    created: str


def retrain(
    baselines: Sequence[str | os.PathLike[str]] = (),
    output: str | os.PathLike[str] | None = None,
    *,
    with_experience: bool = False,
    force: bool = False,
) -> ScoreCard:
    """Fits the ranker anew and stores it, with its card beside it.

    Without an output it becomes the user's own, which exports use instead of the shipped one.
    That it does only where it is not worse than the one in use: both are fitted without one
    architecture family at a time and tried on that one, and the difference must not be more
    than chance explains.

    Args:
        baselines: Files in this format or in the seed's; by default the shipped one.
        output: Where the artefact goes, a `.joblib` file.
        with_experience: Whether to learn from the user's own exports too, see `experience`.
        force: Whether to install it even if it is worse.

    Raises:
        InvalidRequestError: A baseline cannot be read, or the output cannot be written.
        RankerError: No record can be used, or the ranker in use is better.
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
    champion = _champion(rows) if output is None else []
    validation = cross_validate(rows, fit, champion=champion)
    card = ScoreCard(
        path=ranker_files.user_path() if output is None else Path(output),
        records=len(rows),
        models=len({row.model for row in rows}),
        candidates=len({row.candidate for row in rows}),
        success_rate=sum(row.success for row in rows) / len(rows),
        scores=score(validation),
        against_champion=_against(validation),
        training=tuple(
            {"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
            for path in paths
        ),
        notes=(*merged.notes, *left_out),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if not force:
        _check_not_worse(card.against_champion)
    described = {name: value for name, value in asdict(card).items() if name != "path"}
    ranker_files.store(fit(rows), card.path, _finite(described))
    if output is None:
        baseline.write(merged, ranker_files.user_baseline())
    return card


def _champion(challenger: Sequence[Row]) -> list[Row]:
    """What the ranker in use was fitted on; nothing where that is not known, or the same."""
    try:
        path = ranker_files.user_baseline()
        if not path.exists():
            path = ranker_files.shipped_baseline()
        rows, _ = rows_of(baseline.read(path).records)
    except (InvalidRequestError, RankerError):
        return []
    return rows if rows != list(challenger) else []


def _against(validation: Validation | None) -> Interval | None:
    if validation is None or CHAMPION not in validation.spent:
        return None
    return difference(validation, RANKER, CHAMPION)


def _check_not_worse(difference: Interval | None) -> None:
    if difference is not None and difference.low > 0:
        raise RankerError(
            f"the new ranker costs {difference.mean:.2f} s more per model than the one in use "
            f"(95 %: {difference.low:.2f} to {difference.high:.2f} s), so it was not installed; "
            "--force installs it, -o FILE writes it elsewhere"
        )


def _finite(value: Any) -> Any:
    """JSON has no NaN: what could not be computed is null."""
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
