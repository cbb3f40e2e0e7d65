"""What failures say of the candidates that are left."""

from __future__ import annotations

import pickle
from dataclasses import replace

import pytest

from selector import hindsight, training
from selector.chain import Attempt
from selector.errors import (
    AttemptTimeoutError,
    CaptureError,
    LoweringError,
    StrategyError,
    StrategyUnavailableError,
    VerificationError,
    VoidReadError,
)
from selector.hindsight import Counts, Failure, Hindsight, failures_of, twins_apart
from selector.ranker import FittedRanker, Tally
from selector.ranking import rank_candidates
from strategies.base import Candidate
from tests import synthetic

VOID, REAL, HTP, FX = (
    Candidate(strategy="usage_based", weights="void"),
    Candidate(strategy="usage_based"),
    Candidate(strategy="htp"),
    Candidate(strategy="fx"),
)
STATIC = [replace(item, dynamic=False) for item in (VOID, REAL, HTP)]
AFTER_VOID = [
    (VoidReadError("x", stage="capture"), [REAL, HTP]),
    (pickle.loads(pickle.dumps(VoidReadError("x"))), [REAL, HTP]),  # noqa: S301 - our own bytes
    (CaptureError("x", stage="capture"), [HTP, REAL]),
    (LoweringError("x", stage="lower"), [HTP, REAL]),
    (VerificationError("x", report=None), [HTP, REAL]),
    (AttemptTimeoutError("x"), [HTP, REAL]),
    (StrategyUnavailableError("x"), None),
]


def attempt(candidate: Candidate, error: StrategyError | None) -> Attempt:
    return Attempt(
        number=1, candidate=candidate, outcome="failed" if error else "succeeded", seconds=1.0,
        peak_rss_bytes=1, error=error,
    )  # fmt: skip


@pytest.mark.parametrize(("error", "order"), AFTER_VOID)
@pytest.mark.parametrize("waiting", [[REAL, HTP], [HTP, REAL]])
def test_how_a_try_without_weights_failed_says_when_its_twin_is_tried(
    error: StrategyError, order: list[Candidate] | None, waiting: list[Candidate]
) -> None:
    failed = failures_of([attempt(VOID, error)])
    assert twins_apart([*waiting, *STATIC], failed) == [*(order or waiting), *STATIC]


def test_only_the_twin_of_a_try_without_weights_moves() -> None:
    read = failures_of([attempt(VOID, VoidReadError("x"))])
    assert twins_apart([HTP], read) == [HTP]
    assert twins_apart([HTP, VOID], failures_of([attempt(REAL, CaptureError("x"))])) == [HTP, VOID]
    assert failures_of([attempt(VOID, None)]) == []


def test_the_static_order_keeps_twins_apart_too() -> None:
    failed = [Failure(candidate=VOID, kind="LoweringError")]
    ranking = rank_candidates(None, [REAL, HTP], failed=failed)
    assert ranking.candidates == (HTP, REAL)


# Learned

ALIKE = {
    "usage_based[dynamic]||fx[dynamic]": Counts(30, 30),
    "usage_based[dynamic]|failed|fx[dynamic]": Counts(12, 30),
    "usage_based[dynamic]|capture|fx[dynamic]": Counts(0, 28),
    "usage_based[dynamic]|lower|fx[dynamic]": Counts(10, 10),
    "usage_based[dynamic]|verify|fx[dynamic]": Counts(12, 0),
}


@pytest.mark.parametrize(
    ("kind", "least", "greatest"),
    [("capture", 0.0, 0.1), ("lower", 0.5, 0.5), ("verify", 0.5, 0.5), ("save", 0.1, 0.4)],
)
def test_a_kind_of_failure_counts_as_it_did_before(
    kind: str, least: float, greatest: float
) -> None:
    table = Hindsight(counts=ALIKE)
    failure = Failure(candidate=REAL, kind=kind)
    revised = table.revised(0.5, FX, [(failure, 1.0)])
    assert least - 1e-9 <= revised <= greatest + 1e-9
    assert table.revised(0.5, HTP, [(failure, 1.0)]) == pytest.approx(0.5)


def test_an_expected_failure_says_less() -> None:
    table = Hindsight(counts=ALIKE)
    failure = Failure(candidate=REAL, kind="capture")
    surprising, expected = (table.revised(0.5, FX, [(failure, chance)]) for chance in (0.9, 0.05))
    assert surprising < 0.1
    assert expected == pytest.approx(0.5, abs=0.1)


def test_pairs_are_counted_model_by_model() -> None:
    rows, _ = training.rows_of(synthetic.records(per_family=3))
    learned = hindsight.learn(rows)
    diffing = sum(row.candidate == REAL and not row.success for row in rows)
    any_ending = learned.counts[f"{REAL}||{HTP}"]
    failing = learned.counts[f"{REAL}|VerificationError|{HTP}"]
    assert any_ending.right + any_ending.wrong == len({row.model for row in rows})
    assert failing.right + failing.wrong == diffing
    assert f"{HTP}|lower|{REAL}" not in learned.counts


def test_what_is_left_is_ranked_anew_after_a_failure() -> None:
    fitted = FittedRanker(
        hindsight=Hindsight(
            counts={f"{REAL}||{FX}": Counts(20, 20), f"{REAL}|capture|{FX}": Counts(0, 20)}
        ),
        tallies={str(item): Tally(45, 50) for item in (REAL, HTP, FX)},
        medians={"success_seconds": {"htp": 1.3, "fx": 1.0}},
    )
    features = synthetic.model_features()
    assert rank_candidates(features, [HTP, FX], ranker=fitted).candidates == (FX, HTP)
    ranking = rank_candidates(
        features, [HTP, FX], ranker=fitted, failed=[Failure(candidate=REAL, kind="capture")]
    )
    assert ranking.candidates == (HTP, FX)
