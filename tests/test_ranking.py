"""Orders of candidates, learned and static, and the reasons given."""

from __future__ import annotations

from dataclasses import replace

import pytest

from selector import training
from selector.errors import InvalidRequestError
from selector.features import ModelFeatures
from selector.hindsight import Failure
from selector.ranker import FittedRanker, Tally
from selector.ranking import OBJECTIVES, Ranking, rank_candidates, static_ranking
from strategies.base import Candidate
from strategies.registry import portfolio
from tests import synthetic

PLAIN = synthetic.model_features()
BRANCHING = synthetic.model_features("plain", branches=True)
DIFFING = synthetic.model_features(diffs=True)


@pytest.fixture(scope="module")
def fitted() -> FittedRanker:
    return training.fit(training.rows_of(synthetic.records(per_family=15))[0])


def shown(ranking: Ranking) -> list[str]:
    return [str(item.candidate) for item in ranking.order]


# Learned


def test_time_ascends_by_expected_seconds_over_probability(fitted: FittedRanker) -> None:
    ranking = rank_candidates(PLAIN, portfolio(), ranker=fitted)
    assert ranking.trained
    assert ranking.note is None
    assert shown(ranking)[:3] == [
        "usage_based[dynamic,void]",
        "usage_based[dynamic]",
        "htp[dynamic]",
    ]
    for item in ranking.order:
        assert item.expected_seconds is not None
        assert item.success_probability is not None
        assert item.score == pytest.approx(item.expected_seconds / item.success_probability)
    scores = [item.score or 0 for item in ranking.order if item.candidate.dynamic]
    assert scores == sorted(scores)


def test_a_candidate_that_lacks_an_operator_comes_later(fitted: FittedRanker) -> None:
    ranking = rank_candidates(DIFFING, portfolio(dynamic=True), objective="attempts", ranker=fitted)
    assert {*shown(ranking)[-2:]} == {"usage_based[dynamic,void]", "usage_based[dynamic]"}
    assert "TorchScript has no symbolic for aten::diff" in ranking.order[-1].reasons


def test_a_branch_on_values_puts_scripting_first(fitted: FittedRanker) -> None:
    ranking = rank_candidates(
        BRANCHING, portfolio(scripting=True), objective="attempts", ranker=fitted
    )
    assert shown(ranking)[0] == "usage_based[dynamic,scripted]"
    reasons = {str(item.candidate): item.reasons for item in ranking.order}
    where = "forward branches on a tensor's value (modeling_x.py:74)"
    assert f"{where}, which tracing would freeze" in reasons["usage_based[dynamic]"]
    assert f"{where}, which scripting keeps in the file" in reasons["usage_based[dynamic,scripted]"]
    assert reasons["htp[static]"][0].startswith("learned: right on 10 of 15 similar models (plain)")


def test_reasons_count_similar_models(fitted: FittedRanker) -> None:
    ranking = rank_candidates(PLAIN, portfolio(), ranker=fitted)
    reason = ranking.order[0].reasons[0]
    assert reason == "learned: right on 5 of 15 similar models (encoder)"


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_static_candidates_come_after_all_dynamic_ones(
    fitted: FittedRanker, objective: str
) -> None:
    ranking = rank_candidates(PLAIN, portfolio()[::-1], objective=objective, ranker=fitted)
    dynamic = [item.candidate.dynamic for item in ranking.order]
    assert dynamic == sorted(dynamic, reverse=True)
    assert len(ranking.order) == len(portfolio())


FAST, SLOW = Candidate(strategy="usage_based"), Candidate(strategy="htp")
LIGHT = replace(SLOW, weights="void")


def even(seconds: float, *single_best: Candidate) -> FittedRanker:
    """A ranker that expects equal chances of all, and so many seconds of the slow ones."""
    return FittedRanker(
        tallies={str(item): Tally(90, 100) for item in (FAST, SLOW, LIGHT)},
        medians={"success_seconds": {"usage_based": 1.0, "htp": seconds}},
        single_best=single_best,
    )


def test_where_learning_gains_nothing_the_single_best_order_is_kept() -> None:
    ranking = rank_candidates(PLAIN, (FAST, SLOW), ranker=even(1.05, SLOW, FAST))
    assert ranking.candidates == (SLOW, FAST)
    assert ranking.order[0].reasons[0] == (
        "first in the single best order; the learned one would save 4%, noise"
    )


@pytest.mark.parametrize("ranker", [even(1.05), even(1.05, FAST, SLOW), even(2.0, SLOW, FAST)])
def test_where_learning_gains_the_learned_order_is_kept(ranker: FittedRanker) -> None:
    assert rank_candidates(PLAIN, (FAST, SLOW), ranker=ranker).candidates == (FAST, SLOW)


def test_a_twin_without_weights_goes_first_in_the_single_best_order_too() -> None:
    ranking = rank_candidates(PLAIN, (FAST, SLOW, LIGHT), ranker=even(1.05, SLOW, FAST))
    assert ranking.candidates[0] == LIGHT


def test_after_a_failure_what_was_learned_of_it_counts() -> None:
    failed = [Failure(candidate=Candidate(strategy="fx"), kind="CaptureError")]
    ranking = rank_candidates(PLAIN, (FAST, SLOW), ranker=even(1.05, SLOW, FAST), failed=failed)
    assert ranking.candidates == (FAST, SLOW)


@pytest.mark.parametrize("tried", [1, 300])
def test_static_files_come_first_where_dynamic_axes_are_unlikely(tried: int) -> None:
    dynamic, static = Candidate(strategy="htp"), Candidate(strategy="htp", dynamic=False)
    fitted = FittedRanker(
        tallies={str(dynamic): Tally(0, tried), str(static): Tally(tried, tried)},
        medians={"success_seconds": {"htp": 1.0}},
    )
    ranking = rank_candidates(PLAIN, [dynamic, static], ranker=fitted)
    # With few measurements it may yet be right.
    if tried < 100:
        assert ranking.candidates == (dynamic, static)
    else:
        assert ranking.candidates == (static, dynamic)
        why = "static, as a right file with dynamic axes is unlikely (1.0%)"
        assert ranking.order[0].reasons[0] == why


def test_what_speaks_for_and_against_is_told_in_words(fitted: FittedRanker) -> None:
    ranking = rank_candidates(DIFFING, portfolio(dynamic=True), ranker=fitted)
    traced = next(item for item in ranking.order if item.candidate.strategy == "usage_based")
    assert traced.speaks_against[0] == "operators that TorchScript does not know"
    branching = rank_candidates(BRANCHING, portfolio(dynamic=True), ranker=fitted)
    assert "a branch on a tensor's value" in branching.order[0].speaks_against
    assert all(len(item.speaks_for) <= 3 for item in ranking.order)


@pytest.mark.parametrize(
    ("objective", "first"), [("latency", "fx"), ("size", "usage_based"), ("coverage", "htp")]
)
def test_qualities_of_the_file_decide_where_asked(
    fitted: FittedRanker, objective: str, first: str
) -> None:
    ranking = rank_candidates(PLAIN, portfolio(dynamic=True), objective=objective, ranker=fitted)
    assert ranking.trained
    assert ranking.note is None
    assert ranking.order[0].candidate.strategy == first


def test_a_hopeless_candidate_comes_last_whatever_its_files_are_like() -> None:
    fitted = FittedRanker(
        tallies={"fx": Tally(0, 90), "htp": Tally(9, 9)},
        medians={"latency": {"fx": 0.1, "htp": 0.2, "": 0.2}, "success_seconds": {"htp": 1.0}},
    )
    ranking = rank_candidates(
        PLAIN, [Candidate(strategy="fx"), Candidate(strategy="htp")], objective="latency",
        ranker=fitted,
    )  # fmt: skip
    assert shown(ranking) == ["htp[dynamic]", "fx[dynamic]"]


def test_an_objective_that_was_not_measured_is_said_to_be() -> None:
    fitted = FittedRanker(tallies={"htp": Tally(9, 9)}, medians={"success_seconds": {"htp": 1.0}})
    ranking = rank_candidates(PLAIN, portfolio(), objective="latency", ranker=fitted)
    assert ranking.trained
    assert ranking.note is not None
    assert "did not measure the file's latency in ONNX Runtime" in ranking.note
    assert ranking.order[0].candidate.strategy == "htp"


def test_a_strategy_that_was_never_measured_is_ranked_too(fitted: FittedRanker) -> None:
    stranger = Candidate(strategy="acme")
    ranking = rank_candidates(PLAIN, [*portfolio(), stranger], ranker=fitted)
    entry = next(item for item in ranking.order if item.candidate == stranger)
    assert entry.success_probability == pytest.approx(0.5, abs=0.3)
    assert entry.reasons[0].startswith("learned: never measured")


def test_what_fails_slowly_costs_more_than_what_fails_at_once() -> None:
    fitted = FittedRanker(
        tallies={"htp": Tally(5, 10), "fx": Tally(5, 10)},
        medians={
            "success_seconds": {"htp": 2.0, "fx": 1.9},
            "failure_seconds": {"htp": 0.1, "fx": 60.0},
        },
    )
    ranking = rank_candidates(
        PLAIN, [Candidate(strategy="fx"), Candidate(strategy="htp")], ranker=fitted
    )
    assert shown(ranking) == ["htp[dynamic]", "fx[dynamic]"]


# Without weights and with them

VOID = Candidate(strategy="usage_based", weights="void")
REAL = Candidate(strategy="usage_based")
LARGE = replace(PLAIN, parameter_bytes=1 << 30)


def test_a_baseline_from_before_there_was_a_choice_puts_void_before_real() -> None:
    made = [item for item in synthetic.records() if item.candidate.weights == "real"]
    assert len(made) < len(synthetic.records())
    fitted = training.fit(training.rows_of(made)[0])
    for features in (PLAIN, DIFFING):
        ranking = rank_candidates(features, portfolio()[::-1], ranker=fitted)
        entries = {item.candidate: item for item in ranking.order}
        order = list(entries)
        assert order.index(VOID) + 1 == order.index(REAL)
        assert entries[VOID].success_probability == pytest.approx(entries[REAL].success_probability)
        assert entries[VOID].expected_seconds == pytest.approx(entries[REAL].expected_seconds)
        assert entries[VOID].reasons[0].startswith("learned: never measured as such")


def twins(
    void: Tally, real: Tally, seconds: float, features: ModelFeatures = LARGE
) -> list[Candidate]:
    """Their order, where real weights take a second and void ones so many."""
    fitted = FittedRanker(
        tallies={str(VOID): void, str(REAL): real},
        medians={"success_seconds": {str(VOID): seconds, str(REAL): 1.0}},
    )
    ranking = rank_candidates(features, [REAL, VOID], ranker=fitted)
    return [item.candidate for item in ranking.order]


def test_noise_between_twins_of_a_large_model_does_not_decide_and_a_clear_difference_does() -> None:
    right, wrong = Tally(90, 90), Tally(0, 90)
    assert twins(right, right, 0.1) == [VOID, REAL]
    assert twins(right, right, 1.2) == [VOID, REAL]
    assert twins(Tally(85, 90), right, 1.0) == [VOID, REAL]
    assert twins(right, right, 3.0) == [REAL, VOID]
    assert twins(wrong, right, 1.0) == [REAL, VOID]


def test_a_small_model_saves_hardly_any_memory_so_its_cheaper_twin_is_first() -> None:
    right = Tally(90, 90)
    assert twins(right, right, 1.2, PLAIN) == [REAL, VOID]
    assert twins(right, right, 0.9, PLAIN) == [VOID, REAL]
    assert twins(Tally(85, 90), right, 1.0, PLAIN) == [REAL, VOID]


@pytest.mark.parametrize("objective", ["latency", "size", "coverage"])
def test_weights_at_capture_do_not_change_what_the_file_is_like(
    fitted: FittedRanker, objective: str
) -> None:
    first, second = fitted.quality(objective, PLAIN, [VOID, REAL]) or (0.0, 1.0)
    assert first == second
    ranking = rank_candidates(PLAIN, [REAL, VOID], objective=objective, ranker=fitted)
    assert ranking.note is None
    assert [item.candidate for item in ranking.order] == [VOID, REAL]


# Static


def test_the_static_order_gives_its_reasons() -> None:
    ranking = static_ranking(PLAIN, portfolio(), "none was fitted")
    assert not ranking.trained
    assert ranking.note == "none was fitted"
    assert [item.candidate for item in ranking.order] == list(portfolio())
    assert ranking.order[0].success_probability is None
    assert ranking.order[0].reasons == ("static order", "captured without reading the weights")
    assert ranking.order[1].reasons == ("static order",)


def test_without_features_the_static_order_serves() -> None:
    ranking = rank_candidates(None, portfolio())
    assert not ranking.trained
    assert ranking.note == "the model's features are not known"
    assert [item.candidate for item in ranking.order] == list(portfolio())


def test_the_static_order_scripts_before_it_traces() -> None:
    offered = portfolio(scripting=True)
    ranking = static_ranking(BRANCHING, offered[::-1], "")
    order = shown(ranking)
    for shapes in ("dynamic", "static"):
        scripted, traced = f"usage_based[{shapes},scripted]", f"usage_based[{shapes}]"
        assert order.index(scripted) < order.index(traced)
    assert rank_candidates(BRANCHING, offered).order[0].candidate == offered[0]


@pytest.mark.parametrize("features", [None, PLAIN, BRANCHING])
def test_the_static_order_goes_without_weights_first(features: ModelFeatures | None) -> None:
    offered = portfolio(scripting=True)[::-1]
    ranking = static_ranking(features, offered, "")
    order = shown(ranking)
    for shapes in ("dynamic", "static"):
        without, real = f"usage_based[{shapes},void]", f"usage_based[{shapes}]"
        assert order.index(without) < order.index(real)


def test_the_static_order_says_that_it_knows_nothing_of_other_objectives() -> None:
    ranking = static_ranking(PLAIN, portfolio(), "none was fitted", "size")
    assert ranking.note == "none was fitted; so nothing is known of the file's size"


def test_an_unknown_objective_is_refused() -> None:
    with pytest.raises(
        InvalidRequestError, match="unknown objective 'latncy'; did you mean 'latency'"
    ):
        rank_candidates(PLAIN, portfolio(), objective="latncy")


def test_no_candidates_give_an_empty_order(fitted: FittedRanker) -> None:
    assert rank_candidates(PLAIN, [], ranker=fitted).order == ()
