"""The order of attempts, what moves the chain on, and what it reports."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping, Sequence

import pytest

from selector.chain import Attempt, Budget, run_chain
from selector.errors import (
    AllStrategiesFailedError,
    AttemptCrashedError,
    AttemptOutOfMemoryError,
    AttemptTimeoutError,
    CaptureError,
    ExportError,
    InvalidRequestError,
    ModelLoadError,
    StrategyError,
    StrategyUnavailableError,
    VerificationError,
)
from strategies.base import Candidate
from strategies.isolation import Limits, Outcome

FIRST, SECOND, THIRD = (Candidate(strategy=name) for name in ("first", "second", "third"))
FAILURES = [
    (CaptureError("x"), "failed"),
    (VerificationError("x", report=None), "wrong"),
    (StrategyUnavailableError("x"), "unavailable"),
    (AttemptTimeoutError("x"), "timeout"),
    (AttemptCrashedError("x", signal=11), "crashed"),
    (AttemptOutOfMemoryError("x"), "out_of_memory"),
]


def outcomes(
    errors: Mapping[Candidate, Exception],
) -> Callable[[Candidate, Limits], Outcome[str]]:
    def run(candidate: Candidate, limits: Limits) -> Outcome[str]:
        error = errors.get(candidate)
        return Outcome(result=None if error else str(candidate), error=error, seconds=0.5)

    return run


def test_the_first_success_ends_the_chain() -> None:
    result = run_chain([FIRST, SECOND], outcomes({}))
    assert result.candidate == FIRST
    assert [attempt.outcome for attempt in result.attempts] == ["succeeded"]


@pytest.mark.parametrize(("error", "name"), FAILURES)
def test_each_kind_of_failure_moves_on_under_its_own_name(error: StrategyError, name: str) -> None:
    seen: list[Attempt] = []
    result = run_chain([FIRST, SECOND], outcomes({FIRST: error}), on_attempt=seen.append)
    assert result.candidate == SECOND
    assert tuple(seen) == result.attempts
    assert [attempt.outcome for attempt in seen] == [name, "succeeded"]
    assert seen[0].error is error
    assert error.strategy == "first"


@pytest.mark.parametrize(
    "error", [KeyError("bug"), InvalidRequestError("no"), ModelLoadError("no")]
)
def test_anything_else_passes_through(error: Exception) -> None:
    with pytest.raises(type(error)):
        run_chain([FIRST, SECOND], outcomes({FIRST: error}))


def test_interrupt_passes_through() -> None:
    def run(candidate: Candidate, limits: Limits) -> Outcome[str]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_chain([FIRST, SECOND], run)


def test_when_all_fail_every_attempt_is_told_and_the_best_ranked_is_the_cause() -> None:
    errors = {FIRST: CaptureError("no graph"), SECOND: AttemptTimeoutError("too slow")}
    with pytest.raises(AllStrategiesFailedError) as caught:
        run_chain([FIRST, SECOND], outcomes(errors))
    assert caught.value.__cause__ is errors[FIRST]
    assert [attempt.number for attempt in caught.value.attempts] == [1, 2]
    lines = str(caught.value).splitlines()
    assert lines[0] == "no strategy gave a verified file in 2 attempts"
    assert "no graph" in lines[1]
    assert "too slow" in lines[2]


def test_a_failure_lets_the_rest_be_reconsidered() -> None:
    seen: list[list[str]] = []

    def backwards(waiting: Sequence[Candidate], attempts: Sequence[Attempt]) -> list[Candidate]:
        seen.append([attempt.outcome for attempt in attempts])
        return list(waiting)[::-1]

    result = run_chain(
        [FIRST, SECOND, THIRD], outcomes({FIRST: CaptureError("x")}), reconsider=backwards
    )
    assert result.candidate == THIRD
    assert seen == [["failed"]]


def test_a_spent_budget_ends_the_chain_and_says_what_was_not_tried() -> None:
    def run(candidate: Candidate, limits: Limits) -> Outcome[str]:
        assert limits.seconds is not None
        assert limits.seconds <= 0.2
        time.sleep(0.25)
        return Outcome(error=AttemptTimeoutError("stopped"))

    with pytest.raises(AllStrategiesFailedError, match="not tried: second") as caught:
        run_chain([FIRST, SECOND], run, budget=Budget.starting_now(0.2, None))
    assert len(caught.value.attempts) == 1


def test_an_attempt_gets_the_smaller_of_its_own_limit_and_what_is_left() -> None:
    assert Budget.starting_now(100, 3).limits().seconds == 3
    assert Budget.starting_now(2, 30).limits().seconds == pytest.approx(2, abs=0.5)
    assert Budget().limits().seconds is None
    assert Budget().limits(7).seconds == 7
    assert Budget.starting_now(100, 3).limits(7).seconds == 3


def test_each_candidate_has_its_own_limit_where_the_budget_does_not_say() -> None:
    seen: list[float | None] = []

    def run(candidate: Candidate, limits: Limits) -> Outcome[str]:
        seen.append(limits.seconds)
        return Outcome(error=CaptureError("x"), seconds=0.5)

    with pytest.raises(AllStrategiesFailedError):
        run_chain([FIRST, SECOND], run, time_limits={FIRST: 4})
    assert seen == [4, None]


def test_no_candidates_is_an_error() -> None:
    with pytest.raises(AllStrategiesFailedError, match="no candidate"):
        run_chain([], outcomes({}))


@pytest.mark.parametrize(
    "error",
    [
        *(error for error, _ in FAILURES),
        InvalidRequestError("x"),
        ModelLoadError("x"),
        AllStrategiesFailedError("x", attempts=()),
    ],
)
def test_errors_survive_pickling(error: ExportError) -> None:
    error.__cause__ = ValueError("why")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy).keys() == vars(error).keys()
    assert isinstance(copy.__cause__, ValueError)
