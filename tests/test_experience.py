"""The experience journal: what is kept of an export, what is not, and learning from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from selector import auto_export, experience, retrain
from selector.baseline import Record
from selector.chain import Attempt
from selector.ranker_files import load
from strategies.base import Candidate
from strategies.errors import CaptureError
from tests import synthetic

HTP = Candidate(strategy="htp")
FAILED = Attempt(
    number=1, candidate=HTP, outcome="failed", seconds=0.5, peak_rss_bytes=10,
    error=CaptureError("secret/path.py says no", strategy="htp", stage="capture"),
)  # fmt: skip


class SecretModel(nn.Module):
    """Branches on a value, so that the analysis finds a line of this file."""

    def forward(self, image: Tensor) -> Tensor:
        if image.sum() > 0:
            return image * 2
        return image


@pytest.fixture(autouse=True)
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv(experience.SWITCH, "on")
    return experience.journal_path()


def lines(journal: Path) -> list[str]:
    return journal.read_text(encoding="utf-8").splitlines() if journal.exists() else []


def test_an_export_leaves_a_line_per_attempt_and_no_names(journal: Path, tmp_path: Path) -> None:
    result = auto_export(SecretModel(), tmp_path / "m.onnx", inputs=torch.ones(2, 3), dynamic=False)
    found = lines(journal)
    records = [Record.model_validate(json.loads(line)) for line in found]
    assert [item.candidate.candidate() for item in records] == [
        item.candidate for item in result.attempts
    ]
    assert [item.success for item in records] == [
        item.outcome == "succeeded" for item in result.attempts
    ]
    features = records[0].model_features()
    assert features is not None
    assert features.value_dependent
    assert result.features is not None
    assert features.operators == result.features.operators
    assert not [name for name in ("Secret", "test_experience", "image") if name in "".join(found)]


def test_messages_are_not_kept(journal: Path) -> None:
    experience.keep(synthetic.model_features(), FAILED)
    assert "secret" not in lines(journal)[0]
    (record,) = experience.read().records
    assert (record.success, record.stage, record.error_type) == (False, "capture", "CaptureError")


@pytest.mark.parametrize("word", ["off", "0", "No"])
def test_one_switch_keeps_none(word: str, journal: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(experience.SWITCH, word)
    experience.keep(synthetic.model_features(), FAILED)
    assert not journal.exists()


def test_what_was_not_verified_teaches_nothing(journal: Path, tmp_path: Path) -> None:
    auto_export(nn.ReLU(), tmp_path / "m.onnx", inputs=torch.ones(2, 3), verify="off")
    assert not journal.exists()


def test_a_folder_that_cannot_be_written_is_no_reason_to_fail(journal: Path) -> None:
    journal.parent.parent.mkdir()
    journal.parent.write_text("a file", encoding="utf-8")
    experience.keep(synthetic.model_features(), FAILED)
    assert experience.read().records == ()


def test_broken_lines_are_counted_and_the_latest_outcome_counts(journal: Path) -> None:
    experience.keep(synthetic.model_features(), FAILED)
    with journal.open("a", encoding="utf-8") as file:
        file.write('{"model": \n')
    right = Attempt(number=1, candidate=HTP, outcome="succeeded", seconds=0.5, peak_rss_bytes=10)
    experience.keep(synthetic.model_features(), right)
    found = experience.read()
    assert [item.success for item in found.records] == [True]
    assert found.notes == (f"1 lines of {journal} cannot be read",)


def test_the_journal_does_not_grow_without_end(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experience.keep(synthetic.model_features(layers=1), FAILED)
    monkeypatch.setattr(experience, "MOST_BYTES", 10 * journal.stat().st_size)
    for layers in range(2, 40):
        experience.keep(synthetic.model_features(layers=layers), FAILED)
        assert journal.stat().st_size <= experience.MOST_BYTES
    depths = [
        features.depth for item in experience.read().records if (features := item.model_features())
    ]
    assert depths[-1] == 39
    assert depths == list(range(depths[0], 40))


def test_retraining_learns_from_experience(tmp_path: Path) -> None:
    source = synthetic.write_baseline(tmp_path / "b.json", synthetic.records(per_family=1))
    before = retrain([source], tmp_path / "before.joblib", with_experience=True)
    assert before.notes[-1].startswith("there is no experience")
    for layers in range(20, 60):
        experience.keep(synthetic.model_features(layers=layers), FAILED)
    after = retrain([source], tmp_path / "after.joblib", with_experience=True)
    assert after.models == before.models + 40
    assert [item["file"] for item in after.training] == ["b.json", "experience.jsonl"]
    features = synthetic.model_features(layers=40)
    chances = [load(card.path).probabilities(features, [HTP])[0] for card in (before, after)]
    assert chances[1] < chances[0] - 0.2
