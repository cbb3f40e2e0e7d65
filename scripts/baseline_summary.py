"""What a baseline says about the portfolio, as numbers to be drawn or written down."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from selector.baseline import Baseline, Record
from strategies import registry
from strategies.base import REAL, Candidate

ALL = "all"
ANY = "any"
ANY_DYNAMIC = "any dynamic"
UNKNOWN_FAMILY = "unknown"
# A strategy earns its place where it is so many times as fast as the others.
MUCH_FASTER = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """So many of so many models."""

    right: int
    of: int

    @property
    def value(self) -> float:
        """Between 0 and 1."""
        return self.right / self.of


@dataclass(frozen=True, slots=True, kw_only=True)
class Lead:
    """Where a strategy does what no other does.

    Attributes:
        only: Models that it alone gets right.
        faster: Models that others get right as well, in at least `MUCH_FASTER` times the seconds.
    """

    only: tuple[str, ...]
    faster: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A baseline in numbers.

    Attributes:
        models: How many were measured.
        unmeasured: How many were wanted and could not be.
        families: The models of each, the largest first.
        candidates: Names of what was tried, with and without weights taken as one.
        success: For each family and `ALL`, and each of `candidates`, `ANY` and
            `ANY_DYNAMIC`, the models that it got right, of those that it was tried on.
        seconds: For each candidate the seconds of its right files, weights told apart.
        together: How many models exactly these strategies get right.
        together_dynamic: The same with axes that vary, of the models that have such.
        leads: What each strategy is needed for.
    """

    models: int
    unmeasured: int
    families: Mapping[str, int]
    candidates: tuple[str, ...]
    success: Mapping[tuple[str, str], Share]
    seconds: Mapping[str, tuple[float, ...]]
    together: Mapping[frozenset[str], int]
    together_dynamic: Mapping[frozenset[str], int]
    leads: Mapping[str, Lead]


def summarise(baseline: Baseline) -> Summary:
    """The numbers of a baseline.

    Raises:
        ValueError: It has no records.
    """
    by_model: dict[str, list[Record]] = {}
    for record in baseline.records:
        by_model.setdefault(record.model, []).append(record)
    if not by_model:
        raise ValueError("there are no records to summarise")
    tried = {record.candidate.candidate() for record in baseline.records}
    families = Counter(_family(records) for records in by_model.values())
    return Summary(
        models=len(by_model),
        unmeasured=len(baseline.unmeasured),
        families=dict(families.most_common()),
        candidates=tuple(dict.fromkeys(str(item.with_weights()) for item in _ordered(tried))),
        success=_success(by_model),
        seconds=_seconds(baseline.records, tried),
        together=_together(by_model.values()),
        together_dynamic=_together(
            dynamic for records in by_model.values() if (dynamic := _dynamic(records))
        ),
        leads=leads_of(by_model),
    )


def strategies_of(summary: Summary) -> tuple[str, ...]:
    """The strategies that were measured, in the registry's order."""
    return tuple(summary.leads)


def share_of(strategy: str, together: Mapping[frozenset[str], int]) -> Share:
    """Of the models in such a count, those that a strategy gets right, others or not."""
    right = sum(size for members, size in together.items() if strategy in members)
    return Share(right=right, of=sum(together.values()))


def strategy_names(records: Iterable[Record]) -> tuple[str, ...]:
    """The strategies in records, in the registry's order."""
    tried = {record.candidate.candidate() for record in records}
    return tuple(dict.fromkeys(candidate.strategy for candidate in _ordered(tried)))


def leads_of(by_model: Mapping[str, Sequence[Record]]) -> dict[str, Lead]:
    """For each strategy the models that it alone gets right, or much faster than the others."""
    names = strategy_names(record for records in by_model.values() for record in records)
    only: dict[str, list[str]] = {name: [] for name in names}
    faster: dict[str, list[str]] = {name: [] for name in names}
    for model, records in by_model.items():
        best = _best_seconds(records)
        ranked = sorted(best, key=lambda name: best[name])
        if len(ranked) == 1:
            only[ranked[0]].append(model)
        elif ranked and best[ranked[0]] * MUCH_FASTER <= best[ranked[1]] < math.inf:
            faster[ranked[0]].append(model)
    return {name: Lead(only=tuple(only[name]), faster=tuple(faster[name])) for name in names}


def _family(records: Sequence[Record]) -> str:
    features = records[0].features
    return UNKNOWN_FAMILY if features is None else str(features["family"])


def _ordered(candidates: Iterable[Candidate]) -> list[Candidate]:
    """By strategy in the registry's order, dynamic before static."""
    known = registry.names()
    return sorted(
        candidates,
        key=lambda item: (
            known.index(item.strategy) if item.strategy in known else len(known),
            item.strategy,
            not item.dynamic,
            item.scripted,
            item.weights == REAL,
        ),
    )


def _dynamic(records: Iterable[Record]) -> list[Record]:
    return [record for record in records if record.candidate.dynamic]


def _success(by_model: Mapping[str, Sequence[Record]]) -> dict[tuple[str, str], Share]:
    counts: dict[tuple[str, str], list[bool]] = {}
    for records in by_model.values():
        verdicts: dict[str, bool] = {}
        for record in records:
            columns = [str(record.candidate.candidate().with_weights()), ANY]
            for column in [*columns, ANY_DYNAMIC] if record.candidate.dynamic else columns:
                verdicts[column] = verdicts.get(column, False) or record.success
        for column, right in verdicts.items():
            for row in (_family(records), ALL):
                counts.setdefault((row, column), []).append(right)
    return {place: Share(right=sum(found), of=len(found)) for place, found in counts.items()}


def _seconds(records: Iterable[Record], tried: Iterable[Candidate]) -> dict[str, tuple[float, ...]]:
    found: dict[str, list[float]] = {str(candidate): [] for candidate in _ordered(tried)}
    for record in records:
        if record.success and record.export_seconds:
            found[str(record.candidate.candidate())].append(record.export_seconds)
    return {name: tuple(sorted(seconds)) for name, seconds in found.items() if seconds}


def _together(models: Iterable[Sequence[Record]]) -> dict[frozenset[str], int]:
    sets = Counter(
        frozenset(record.candidate.strategy for record in records if record.success)
        for records in models
    )
    return dict(sets.most_common())


def _best_seconds(records: Iterable[Record]) -> dict[str, float]:
    """For each strategy with a right file, the quickest one's; infinite where not measured."""
    best: dict[str, float] = {}
    for record in records:
        if record.success:
            name = record.candidate.strategy
            seconds = math.inf if record.export_seconds is None else record.export_seconds
            best[name] = min(best.get(name, math.inf), seconds)
    return best
