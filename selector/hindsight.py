"""What a failed attempt says of the candidates that are left."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from selector.errors import StrategyUnavailableError, VoidReadError
from strategies.base import VOID, Candidate

if TYPE_CHECKING:
    from selector.chain import Attempt
    from selector.training import Row

READ_WEIGHTS = VoidReadError.__name__
# Stands for every kind of failure.
FAILED = "failed"
# How many models weigh as much as knowing nothing.
DOUBT = 1.0
# However often two ended alike, a third model may differ.
STRONGEST = math.log(1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A candidate that did not give a right file.

    Attributes:
        candidate: What was tried.
        kind: Class of the error.
    """

    candidate: Candidate
    kind: str


def failures_of(attempts: Iterable[Attempt]) -> list[Failure]:
    """Those of attempts that failed; one that was not to be had says nothing."""
    return [
        Failure(candidate=item.candidate, kind=type(item.error).__name__)
        for item in attempts
        if item.error is not None and not isinstance(item.error, StrategyUnavailableError)
    ]


@dataclass(frozen=True, slots=True)
class Counts:
    """On how many models a candidate was right and wrong, for one ending of another."""

    right: int = 0
    wrong: int = 0

    @property
    def models(self) -> int:
        """Their number."""
        return self.right + self.wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Hindsight:
    """How the endings of two candidates on the same model go together.

    Attributes:
        counts: By failed candidate, its kind of failure (`` for any ending, `failed` for any
            failure) and the candidate in question, as one text each joined by `|`.
    """

    counts: Mapping[str, Counts] = field(default_factory=dict)

    def revised(
        self, probability: float, candidate: Candidate, failed: Sequence[tuple[Failure, float]]
    ) -> float:
        """The probability of a right file, now that others failed.

        Bayes's rule on the odds, as if the failures were independent of each other: each
        multiplies them by how much less likely that failure is where the candidate is right
        than where it is wrong; one of a kind that was not seen before counts as any failure.
        A failure that was expected says less, so its ratio is raised to the power of the
        probability that the failed one had, unless that was the candidate's own twin.

        Args:
            probability: Before.
            candidate: In question.
            failed: What failed, with the probability of a right file that it had.
        """
        logit = math.log(probability / (1 - probability))
        for failure, chance in failed:
            twins = replace(failure.candidate, weights=candidate.weights) == candidate
            logit += (1.0 if twins else chance) * self._log_ratio(failure, candidate)
        return 1 / (1 + math.exp(-logit))

    def _log_ratio(self, failure: Failure, candidate: Candidate) -> float:
        ended = self._counts(failure.candidate, "", candidate)
        failing = self._counts(failure.candidate, failure.kind, candidate)
        if not failing.models:
            failing = self._counts(failure.candidate, FAILED, candidate)
        if not failing.models:
            return 0.0
        share = failing.models / ended.models
        where_right = (failing.right + DOUBT * share) / (ended.right + DOUBT)
        where_wrong = (failing.wrong + DOUBT * share) / (ended.wrong + DOUBT)
        # A failure may be no bad sign for another candidate; a good one it is not.
        return max(-STRONGEST, min(math.log(where_right / where_wrong), 0.0))

    def _counts(self, failed: Candidate, kind: str, candidate: Candidate) -> Counts:
        return self.counts.get(_key(failed, kind, candidate), Counts())


def learn(rows: Iterable[Row]) -> Hindsight:
    """Counts endings of pairs of candidates, model by model."""
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    for of_model in by_model(rows):
        for first in of_model:
            kinds = {"", FAILED, first.failure} if first.failure else {""}
            for second in of_model:
                if second is not first:
                    names = [_key(first.candidate, kind, second.candidate) for kind in kinds]
                    (right if second.success else wrong).update(names)
    return Hindsight(
        counts={name: Counts(right[name], wrong[name]) for name in sorted({*right, *wrong})}
    )


def by_model(rows: Iterable[Row]) -> list[list[Row]]:
    """The rows of each model together."""
    models: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        models[row.model].append(row)
    return list(models.values())


def _key(failed: Candidate, kind: str, candidate: Candidate) -> str:
    return f"{failed}|{kind}|{candidate}"


def twins_apart(waiting: Sequence[Candidate], failed: Iterable[Failure]) -> list[Candidate]:
    """The order, where a candidate without weights told of its twin with them.

    Only where it failed because forward reads a weight's value can the twin do better, and is
    next. Else the two fail alike, nearly always, and the twin comes after all others that are
    as dynamic.
    """
    order = list(waiting)
    for failure in failed:
        twin = failure.candidate.with_weights()
        if failure.candidate.weights != VOID or twin not in order:
            continue
        order.remove(twin)
        alike = (at for at, item in enumerate(order, 1) if item.dynamic == twin.dynamic)
        order.insert(0 if failure.kind == READ_WEIGHTS else max(alike, default=0), twin)
    return order
