"""The selector's score card: held-out costs beside simpler ways to order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scripts import evaluate_selector
from scripts.evaluate_selector import CONTENDERS, calibration, evaluate
from selector import training
from selector.hindsight import by_model
from selector.ranker import FittedRanker
from selector.scoring import (
    RANKER,
    SINGLE_BEST,
    VIRTUAL_BEST,
    calibration_error,
    cross_validate,
    leave_one_family_out,
    random_fifths,
    score,
)
from tests import synthetic


@pytest.fixture(scope="module")
def rows() -> list[training.Row]:
    return training.rows_of(synthetic.records(per_family=4))[0]


def test_every_model_is_held_out_once_with_its_family_or_fifth(rows: list[training.Row]) -> None:
    models = by_model(rows)
    for split in (leave_one_family_out, random_fifths):
        groups = split(models, 3)
        assert sorted(place for group in groups for place in group) == list(range(len(models)))
    families = [
        {models[place][0].features.family for place in group}
        for group in leave_one_family_out(models)
    ]
    assert [len(family) for family in families] == [1] * len(synthetic.FAMILIES)
    assert random_fifths(models, 1) != random_fifths(models, 2)


def test_the_ranker_never_sees_what_it_is_tried_on(rows: list[training.Row]) -> None:
    seen: list[set[str]] = []

    def fit(train: object) -> FittedRanker:
        assert isinstance(train, list)
        seen.append({row.features.family for row in train})
        return training.fit(train)

    assert cross_validate(rows, fit, seeds=1) is not None
    assert [len(families) for families in seen] == [len(synthetic.FAMILIES) - 1] * len(seen)


def test_calibration_error_is_the_distance_from_the_diagonal() -> None:
    assert calibration_error([(True, 0.75)] * 3 + [(False, 0.75)]) == pytest.approx(0.0)
    assert calibration_error([(False, 0.9), (True, 0.1)]) == pytest.approx(0.9)


def test_the_card_compares_ways_to_order(rows: list[training.Row]) -> None:
    card = evaluate(rows, seeds=2)
    scores = card["leave_one_family_out"]
    assert set(scores.policies) >= {RANKER, SINGLE_BEST, VIRTUAL_BEST, *CONTENDERS}
    seconds = {name: item.seconds.mean for name, item in scores.policies.items()}
    for name in ("static order", "the seed's order", "random order", RANKER):
        assert seconds[VIRTUAL_BEST] <= seconds[name]
    assert scores.policies[SINGLE_BEST].remaining_gap.mean == pytest.approx(1)
    assert scores.policies[VIRTUAL_BEST].remaining_gap.mean == pytest.approx(0)
    # It leaves models with branches unsolved, which costs ten times the limit each.
    alone = scores.policies["fx alone"]
    assert alone.remaining_gap is None
    assert alone.par10.mean > alone.seconds.mean + 50
    assert sum(item["rows"] for item in card["calibration"]) == 2 * len(rows)
    assert {name for counts in card["families"].values() for name in counts} <= {
        "the oracle's",
        "right, slower",
        "wrong",
    }


def test_a_perfect_forecast_is_on_the_diagonal(rows: list[training.Row]) -> None:
    validation = cross_validate(rows, training.fit, seeds=1)
    assert validation is not None
    bins = calibration(validation)
    assert [item["probability"] for item in bins] == sorted(item["probability"] for item in bins)
    spread = sum(item["rows"] * abs(item["probability"] - item["success"]) for item in bins)
    assert spread / len(rows) == pytest.approx(score(validation).calibration_error)


def test_the_command_prints_one_object_and_writes_a_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = synthetic.write_baseline(tmp_path / "b.json", synthetic.records(per_family=4))
    code = evaluate_selector.main(
        [str(source), "--seeds", "1", "--json", "--out", str(tmp_path / "docs")]
    )
    assert code == 0
    card = json.loads(capsys.readouterr().out)
    assert isinstance(card["leave_one_family_out"]["remaining_gap"]["mean"], float)
    page = (tmp_path / "docs" / "selector.md").read_text(encoding="utf-8")
    pictures = sorted(path.name for path in (tmp_path / "docs").glob("*.png"))
    assert len(pictures) == 5
    assert [name for name in pictures if f"({name})" not in page] == []
    assert "| the seed's order |" in page


@pytest.mark.parametrize("content", ["{", '{"schema_version": 1}'])
def test_a_broken_baseline_is_one_line(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "b.json").write_text(content, encoding="utf-8")
    assert evaluate_selector.main([str(tmp_path / "b.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_too_few_models_are_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = synthetic.records(families=("cnn",), per_family=1)
    source = synthetic.write_baseline(tmp_path / "b.json", made)
    assert evaluate_selector.main([str(source)]) == 2
    assert "too few models" in capsys.readouterr().err
