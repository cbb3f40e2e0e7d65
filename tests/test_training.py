"""From baselines to a stored ranker and its score card."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from sklearn.base import ClassifierMixin
from sklearn.pipeline import Pipeline

from selector import baseline, ranker, training
from selector.errors import InvalidRequestError, RankerError
from selector.orders import fixed, spend
from selector.ranker import FittedRanker, Tally
from selector.ranker_files import load, user_path
from selector.ranking import rank_candidates
from selector.retraining import ScoreCard, retrain
from strategies.base import Candidate
from strategies.registry import portfolio
from tests import synthetic
from tests.test_baseline import SEED_SUMMARY, written

TRACED = Candidate(strategy="usage_based")
SCRIPTED = Candidate(strategy="usage_based", scripted=True)
HTP = Candidate(strategy="htp")
FX = Candidate(strategy="fx")
MADE = synthetic.records(per_family=15)


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> ScoreCard:
    folder = tmp_path_factory.mktemp("ranker")
    source = synthetic.write_baseline(folder / "baseline.json", MADE)
    return retrain([source], folder / "ranker.joblib")


@pytest.fixture(scope="module")
def fitted(card: ScoreCard) -> FittedRanker:
    return load(card.path)


def test_probabilities_follow_what_was_measured(fitted: FittedRanker) -> None:
    plain = synthetic.model_features()
    branching = synthetic.model_features("plain", branches=True)
    diffing = synthetic.model_features(diffs=True)
    assert min(fitted.probabilities(plain, [TRACED, HTP, FX])) > 0.75
    frozen, kept = fitted.probabilities(branching, [TRACED, SCRIPTED])
    assert frozen < 0.25
    assert kept > 2 * frozen
    lacking, knowing = fitted.probabilities(diffing, [TRACED, HTP])
    assert lacking < 0.4
    assert knowing > 0.75


def test_seconds_grow_with_the_model_and_differ_by_strategy(fitted: FittedRanker) -> None:
    small, large = (synthetic.model_features(layers=layers) for layers in (2, 7))
    fast, slow = fitted.seconds(small, [TRACED, FX], success=True)
    assert fast < slow
    assert fitted.seconds(large, [FX], success=True)[0] > slow
    assert fast == pytest.approx(1.1, rel=0.5)


def test_seconds_of_what_was_stopped_are_a_lower_bound() -> None:
    rows, _ = training.rows_of(synthetic.records())
    stopped = [
        replace(row, success=False, timed_out=row.success, seconds=min(row.seconds or 0.0, 5.0))
        if row.candidate.strategy == "fx"
        else row
        for row in rows
    ]
    naive = [replace(row, timed_out=False) for row in stopped]
    large = synthetic.model_features(layers=7)
    truth, bound, cut = (
        training.fit(made).seconds(large, [FX], success=False)[0]
        for made in ([replace(row, success=False) for row in rows], stopped, naive)
    )
    assert cut < bound < 2 * truth


def test_a_time_limit_leaves_room_and_grows_with_the_model(fitted: FittedRanker) -> None:
    small, large = (synthetic.model_features("decoder", layers=layers) for layers in (2, 60))
    limits = [
        {item.candidate: item for item in rank_candidates(features, [FX], ranker=fitted).order}[FX]
        for features in (small, large)
    ]
    assert limits[0].time_limit == 120.0
    assert limits[1].expected_seconds is not None
    assert 3600 >= limits[1].time_limit > max(2 * limits[1].expected_seconds, 120.0)


def test_the_card_describes_the_artefact(card: ScoreCard) -> None:
    stored = json.loads(card.path.with_suffix(".json").read_text(encoding="utf-8"))
    assert stored["sha256"] == hashlib.sha256(card.path.read_bytes()).hexdigest()
    assert stored["artefact"] == "ranker.joblib"
    assert stored["feature_names"] == list(ranker.feature_names())
    assert stored["training"][0]["file"] == "baseline.json"
    assert (stored["models"], stored["candidates"]) == (90, 10)
    assert str(card.path.parent) not in json.dumps(stored)


def test_scores_are_out_of_family_and_better_than_rates(card: ScoreCard) -> None:
    scores = card.scores
    assert (scores.seeds, scores.models) == (10, 65)
    assert scores.brier is not None
    assert scores.brier_of_rates is not None
    assert scores.brier < 0.12 < scores.brier_of_rates
    assert scores.auc is not None
    assert scores.auc > 0.9
    names = ("virtual best", "ranker", "single best")
    best, own, single = (scores.policies[name].seconds for name in names)
    # Scripting is right on plain modules alone, which is not to be known without any of them.
    assert best.mean <= own.mean < 2 * single.mean
    likeliest = scores.policies["ranker, by attempts"].first_right.mean
    assert likeliest > scores.policies["single best"].first_right.mean + 0.2
    assert scores.calibration_error is not None
    # Endings are certain here, and a prior keeps from saying so.
    assert scores.calibration_error < 0.2
    assert scores.remaining_gap is not None
    assert scores.remaining_gap.low <= scores.remaining_gap.mean <= scores.remaining_gap.high


def test_the_same_data_give_the_same_ranker(tmp_path: Path, card: ScoreCard) -> None:
    shuffled = synthetic.write_baseline(tmp_path / "b.json", MADE[::-1])
    again = retrain([shuffled], tmp_path / "again.joblib")
    assert again.path.read_bytes() == card.path.read_bytes()
    assert again.scores == card.scores


def test_several_baselines_are_joined(tmp_path: Path) -> None:
    made = synthetic.records(per_family=1)
    halves = [
        synthetic.write_baseline(tmp_path / f"{index}.json", part)
        for index, part in enumerate((made[:20], made[10:]))
    ]
    joined = retrain(halves, tmp_path / "ranker.joblib")
    assert joined.records == len(made)
    assert [item["file"] for item in joined.training] == ["0.json", "1.json"]


# Little data


def test_the_seeds_summary_gives_the_seeds_recommendation(tmp_path: Path) -> None:
    card = retrain([written(tmp_path / "seed.json", SEED_SUMMARY)], tmp_path / "r.joblib")
    assert (card.records, card.models) == (6, 2)
    assert card.scores.remaining_gap is None
    for dynamic in (True, False):
        ranking = rank_candidates(
            synthetic.model_features(), portfolio(dynamic=dynamic), ranker=card.path
        )
        assert ranking.trained
        order = dict.fromkeys(item.candidate.strategy for item in ranking.order)
        assert list(order) == ["usage_based", "htp", "fx"]


@pytest.mark.parametrize("count", [1, 2, 5, 12, 30])
@pytest.mark.parametrize("outcome", ["as measured", "all right", "all wrong"])
def test_any_amount_of_data_gives_a_ranker(tmp_path: Path, count: int, outcome: str) -> None:
    made = synthetic.records()[:count]
    if outcome != "as measured":
        right = {"success": outcome == "all right"}
        made = [item.model_copy(update=right) for item in made]
    retrain([synthetic.write_baseline(tmp_path / "b.json", made)], tmp_path / "r.joblib")
    ranking = rank_candidates(synthetic.model_features(), portfolio(), ranker=tmp_path / "r.joblib")
    assert ranking.trained
    assert {item.candidate for item in ranking.order} == set(portfolio())
    for item in ranking.order:
        assert item.success_probability is not None
        assert 0 < item.success_probability < 1
        assert item.expected_seconds is not None
        assert item.expected_seconds > 0


def test_rates_are_drawn_towards_what_the_strategy_does() -> None:
    assert Tally(0, 0).rate(0.5) == 0.5
    assert Tally(2, 2).rate(0.5) == pytest.approx(2.5 / 3)
    assert Tally(0, 100).rate(0.5) < 0.01


def test_the_cost_of_an_order_is_what_the_chain_would_spend() -> None:
    made = [item for item in synthetic.records(per_family=3) if item.model == "encoder-2"]
    order = [Candidate(strategy="usage_based", weights="void"), TRACED, HTP]
    rows = [row for row in training.rows_of(made)[0] if row.candidate in order]
    spent = {row.candidate: row.seconds or 0.0 for row in rows}
    assert {row.candidate: row.success for row in rows} == {
        order[0]: False,
        TRACED: False,
        HTP: True,
    }
    alike = spend(rows, fixed(order))
    assert alike.seconds == pytest.approx(spent[order[0]] + spent[HTP])
    assert (alike.attempts, alike.solved) == (2, True)
    read = [
        replace(row, failure="VoidReadError") if row.candidate == order[0] else row for row in rows
    ]
    after = spend(read, fixed(order))
    assert after.seconds == pytest.approx(alike.seconds + spent[TRACED])
    assert spend(rows, fixed([TRACED])).solved is False


def test_rows_tell_how_a_candidate_failed() -> None:
    made = [
        synthetic.records(per_family=1)[0].model_copy(update=update)
        for update in (
            {"success": True},
            {"success": False, "stage": "capture", "error_type": "VoidReadError"},
            {"success": False, "stage": "lower", "error_type": "LoweringError"},
            {"success": False, "stage": "attempt", "error_type": "AttemptTimeoutError"},
            {"success": False, "stage": None, "error_type": "AttemptCrashedError"},
        )
    ]
    rows = [training.rows_of([item])[0][0] for item in made]
    assert [row.failure for row in rows] == [
        None,
        "VoidReadError",
        "LoweringError",
        "AttemptTimeoutError",
        "AttemptCrashedError",
    ]
    assert [row.timed_out for row in rows] == [False, False, False, True, False]


def test_what_was_not_to_be_had_is_no_row() -> None:
    made = synthetic.records(per_family=1)
    gone = made[0].model_copy(
        update={"success": False, "stage": "prepare", "error_type": "StrategyUnavailableError"}
    )
    rows = training.rows_of([gone, *made[1:]])[0]
    assert len(rows) == len(training.rows_of(made)[0]) - 1
    assert (made[0].model, gone.candidate.candidate()) not in {
        (row.model.split()[0], row.candidate) for row in rows
    }


def test_what_a_collection_did_not_repeat_with_weights_counts_as_right_with_them() -> None:
    void = Candidate(strategy="usage_based", weights="void")
    made = [item for item in synthetic.records() if item.candidate.candidate() != TRACED]
    measured = {
        row.model: row for row in training.rows_of(synthetic.records())[0] if row.candidate == void
    }
    added = [row for row in training.rows_of(made)[0] if row.candidate == TRACED]
    assert {row.model for row in added} == {row.model for row in measured.values() if row.success}
    assert 0 < len(added) < len(measured)
    for row in added:
        assert row.success
        assert row.seconds == pytest.approx(
            training.TWIN_SECONDS * (measured[row.model].seconds or 0.0)
        )


def test_records_without_features_are_left_out(tmp_path: Path) -> None:
    made = [item.model_copy(update={"features": None}) for item in synthetic.records(per_family=1)]
    path = synthetic.write_baseline(tmp_path / "b.json", made)
    with pytest.raises(RankerError, match=r"6 models without features are left out"):
        retrain([path], tmp_path / "r.joblib")
    assert not (tmp_path / "r.joblib").exists()
    assert not list(tmp_path.glob(".r*"))


def test_a_worse_ranker_does_not_replace_the_one_in_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    good = synthetic.records()
    lying = [
        item.model_copy(update={"success": not item.candidate.dynamic, "stage": "lower"})
        for item in synthetic.records(families=("encoder", "cnn"), per_family=4)
    ]
    truth, lies = (
        synthetic.write_baseline(tmp_path / name, made)
        for name, made in (("truth.json", good), ("lies.json", lying))
    )
    retrain([truth], force=True)
    installed = user_path().read_bytes()
    with pytest.raises(RankerError, match=r"costs .* s more per model .* --force installs it"):
        retrain([lies])
    assert user_path().read_bytes() == installed
    again = retrain([truth])
    assert again.against_champion is None
    forced = retrain([lies], force=True)
    assert forced.against_champion is not None
    assert forced.against_champion.low > 0
    assert user_path().read_bytes() != installed
    better = retrain([truth])
    assert better.against_champion is not None
    assert better.against_champion.mean < 0


def test_nothing_to_fit_on(tmp_path: Path) -> None:
    path = synthetic.write_baseline(tmp_path / "b.json", [])
    with pytest.raises(RankerError, match="there are no records"):
        retrain([path], tmp_path / "r.joblib")


def test_an_output_that_cannot_be_written(tmp_path: Path) -> None:
    path = synthetic.write_baseline(tmp_path / "b.json", synthetic.records(per_family=1))
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        retrain([path], path / "r.joblib")


def test_the_estimators_are_scikit_learns(fitted: FittedRanker) -> None:
    assert fitted.chances.regressions
    for regression in fitted.chances.regressions.values():
        assert isinstance(regression, Pipeline)
        assert isinstance(regression[-1], ClassifierMixin)
    assert "sklearn" in sys.modules
    assert isinstance(baseline.environment()["versions"]["scikit-learn"], str)
