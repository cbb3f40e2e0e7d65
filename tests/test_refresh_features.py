"""Features that are computed anew for a baseline that was measured before."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import refresh_features
from selector import baseline
from selector.features import ModelFeatures
from strategies.base import Candidate


def record(model: str) -> baseline.Record:
    old = ModelFeatures(model_type="old", architecture="Old", family="plain")
    return baseline.Record(
        model=model,
        features=old.to_json(),
        candidate=baseline.CandidateRecord.of(Candidate(strategy="fx")),
        success=True,
        export_seconds=1.0,
        seed=0,
    )


def test_features_are_replaced_and_measurements_stay(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json.gz"
    records = [record("plain:mlp"), record("plain:gone")]
    baseline.write(baseline.new_baseline(records), path)
    assert refresh_features.main([str(path), "--jobs", "1"]) == 0
    known, gone = baseline.read(path).records
    features = known.model_features()
    assert features is not None
    assert (features.architecture, features.varying) == ("Mlp", ())
    assert features.axes
    assert known.export_seconds == 1.0
    assert gone == records[1]


def test_what_is_no_baseline_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.json"
    path.write_text("{}")
    assert refresh_features.main([str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
