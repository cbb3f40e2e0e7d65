"""The fallback chain: candidates in order until one gives a verified file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Generic, TypeVar

import tenacity

from selector.errors import (
    AllStrategiesFailedError,
    AttemptCrashedError,
    AttemptOutOfMemoryError,
    AttemptTimeoutError,
    StrategyError,
    StrategyUnavailableError,
    VerificationError,
)
from strategies.base import Candidate
from strategies.isolation import Limits, Outcome

Value = TypeVar("Value")

SUCCEEDED = "succeeded"
OUTCOMES: tuple[tuple[type[StrategyError], str], ...] = (
    (StrategyUnavailableError, "unavailable"),
    (AttemptTimeoutError, "timeout"),
    (AttemptCrashedError, "crashed"),
    (AttemptOutOfMemoryError, "out_of_memory"),
    (VerificationError, "wrong"),
    (StrategyError, "failed"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """The record of one candidate's try.

    Attributes:
        number: Counted from 1.
        candidate: What was tried.
        outcome: `succeeded`, `failed` (capture or lowering), `wrong` (the file is not
            right), `unavailable`, `timeout`, `crashed` or `out_of_memory`.
        seconds: Wall seconds, verification included.
        peak_rss_bytes: Largest resident memory of its process.
        error: Why it did not succeed.
    """

    number: int
    candidate: Candidate
    outcome: str
    seconds: float
    peak_rss_bytes: int
    error: StrategyError | None = None

    def __str__(self) -> str:
        reason = f" - {self.error}" if self.error else ""
        return f"{self.number}. {self.candidate}: {self.outcome} ({self.seconds:.1f} s){reason}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """What happens right now.

    Attributes:
        stage: `source`, `load`, `study`, `export` or `attempt`.
        message: One line for a person.
        attempt: The record of the attempt that just ended, at stage `attempt`.
    """

    stage: str
    message: str
    attempt: Attempt | None = None


ProgressCallback = Callable[[Progress], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainResult(Generic[Value]):
    """What the first successful candidate gave, and everything that was tried for it."""

    value: Value
    candidate: Candidate
    attempts: tuple[Attempt, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How long the chain and each attempt may take, in wall seconds; None for no limit."""

    deadline: float | None = None
    attempt_seconds: float | None = None

    @classmethod
    def starting_now(cls, total: float | None, attempt: float | None) -> Budget:
        """A budget whose clock starts with this call."""
        deadline = None if total is None else time.monotonic() + total
        return cls(deadline=deadline, attempt_seconds=attempt)

    @property
    def spent(self) -> bool:
        """Whether no time is left."""
        return self.deadline is not None and time.monotonic() >= self.deadline

    def limits(self, usual: float | None = None) -> Limits:
        """What the next attempt may use, which usually is so many seconds."""
        own = usual if self.attempt_seconds is None else self.attempt_seconds
        seconds = [] if own is None else [own]
        if self.deadline is not None:
            seconds.append(max(self.deadline - time.monotonic(), 0.1))
        return Limits(seconds=min(seconds, default=None))


def _as_is(waiting: Sequence[Candidate], _: Sequence[Attempt]) -> Sequence[Candidate]:
    return waiting


def run_chain(  # noqa: PLR0913 - what to try, how, how long, and who is told
    candidates: Sequence[Candidate],
    run: Callable[[Candidate, Limits], Outcome[Value]],
    *,
    budget: Budget | None = None,
    time_limits: Mapping[Candidate, float] = MappingProxyType({}),
    on_attempt: Callable[[Attempt], None] = lambda _: None,
    reconsider: Callable[[Sequence[Candidate], Sequence[Attempt]], Sequence[Candidate]] = _as_is,
) -> ChainResult[Value]:
    """Tries one candidate after the other until one succeeds.

    Only the `StrategyError` family moves the chain on; any other error is a bug, or the
    user's wish to stop, and passes through.

    Args:
        candidates: In order of preference.
        run: Makes one attempt, in a process of its own.
        budget: How long it may take.
        time_limits: Seconds after which an attempt is stopped, where the budget does not say.
        on_attempt: Called with the record of every finished attempt.
        reconsider: After a failure, the order of those that are left, from them and from what
            was tried.

    Raises:
        AllStrategiesFailedError: None succeeded, or the time was up first.
    """
    budget = budget or Budget()
    attempts: list[Attempt] = []
    waiting = list(candidates)

    def attempt_next() -> ChainResult[Value]:
        candidate = waiting.pop(0)
        outcome = run(candidate, budget.limits(time_limits.get(candidate)))
        record = record_attempt(len(attempts) + 1, candidate, outcome)
        attempts.append(record)
        on_attempt(record)
        if record.error and waiting:
            waiting[:] = reconsider(waiting, attempts)
        return ChainResult(value=outcome.value(), candidate=candidate, attempts=tuple(attempts))

    def nothing_left(_: tenacity.RetryCallState) -> bool:
        return not waiting or budget.spent

    if not waiting:
        raise AllStrategiesFailedError("there is no candidate to try", attempts=())
    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(StrategyError), stop=nothing_left, reraise=True
    )
    try:
        return retrying(attempt_next)
    except StrategyError:
        raise _failure(attempts, waiting) from attempts[0].error


def outcome_name(error: Exception | None) -> str:
    """The word for how an attempt ended; re-raises what is not a strategy's failure."""
    if error is None:
        return SUCCEEDED
    for kind, name in OUTCOMES:
        if isinstance(error, kind):
            return name
    raise error


def record_attempt(number: int, candidate: Candidate, outcome: Outcome[Value]) -> Attempt:
    """The record of an attempt; re-raises what is not a strategy's failure."""
    name = outcome_name(outcome.error)
    error = outcome.error if isinstance(outcome.error, StrategyError) else None
    if error is not None:
        error.located(candidate.strategy)
    return Attempt(
        number=number,
        candidate=candidate,
        outcome=name,
        seconds=outcome.seconds,
        peak_rss_bytes=outcome.peak_rss_bytes,
        error=error,
    )


def _failure(attempts: list[Attempt], waiting: list[Candidate]) -> AllStrategiesFailedError:
    count = f"{len(attempts)} attempt{'s' if len(attempts) > 1 else ''}"
    if waiting:
        untried = ", ".join(str(candidate) for candidate in waiting)
        head = f"the time budget was spent after {count}; not tried: {untried}"
    else:
        head = f"no strategy gave a verified file in {count}"
    lines = "".join(f"\n  {attempt}" for attempt in attempts)
    return AllStrategiesFailedError(f"{head}{lines}", attempts=tuple(attempts))
