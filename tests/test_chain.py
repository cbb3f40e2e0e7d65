"""The order of attempts, what moves the chain on, and what it reports."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Mapping
from dataclasses import replace

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
    LoweringError,
    ModelLoadError,
    StrategyError,
    StrategyUnavailableError,
    VerificationError,
    VoidReadError,
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


VOID, REAL, HTP = (
    Candidate(strategy="usage_based", weights="void"),
    Candidate(strategy="usage_based"),
    Candidate(strategy="htp"),
)
STATIC = [replace(item, dynamic=False) for item in (VOID, REAL, HTP)]
AFTER_VOID = [
    (VoidReadError("x"), [VOID, REAL, HTP]),
    (pickle.loads(pickle.dumps(VoidReadError("x"))), [VOID, REAL, HTP]),  # noqa: S301 - our own bytes
    (CaptureError("x"), [VOID, HTP, REAL]),
    (LoweringError("x"), [VOID, HTP, REAL]),
    (VerificationError("x", report=None), [VOID, HTP, REAL]),
    (AttemptTimeoutError("x"), [VOID, HTP, REAL]),
    (StrategyUnavailableError("x"), None),
]


@pytest.mark.parametrize(("error", "order"), AFTER_VOID)
@pytest.mark.parametrize("ranked", [[VOID, REAL, HTP], [VOID, HTP, REAL]])
def test_how_a_try_without_weights_failed_says_when_its_twin_is_tried(
    error: StrategyError, order: list[Candidate] | None, ranked: list[Candidate]
) -> None:
    result = run_chain(
        [*ranked, *STATIC],
        outcomes({VOID: error, REAL: CaptureError("x"), HTP: CaptureError("x")}),
    )
    tried = [attempt.candidate for attempt in result.attempts]
    assert tried == [*(order or ranked), STATIC[0]]


def test_a_twin_that_is_not_offered_is_not_tried() -> None:
    result = run_chain([VOID, HTP], outcomes({VOID: VoidReadError("x")}))
    assert [attempt.candidate for attempt in result.attempts] == [VOID, HTP]


def test_a_try_with_weights_says_nothing_of_its_twin() -> None:
    result = run_chain([REAL, VOID, HTP], outcomes({REAL: CaptureError("x")}))
    assert [attempt.candidate for attempt in result.attempts] == [REAL, VOID]


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
