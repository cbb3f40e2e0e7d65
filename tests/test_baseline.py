"""Reading, validating, writing and merging baselines, the seed's formats included."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from selector import baseline, seed_format
from selector.chain import Attempt
from selector.errors import InvalidRequestError
from selector.features import ModelFeatures
from strategies.base import Candidate, ExportArtifact
from strategies.errors import CaptureError
from tests.conftest import ROOT

FEATURES = ModelFeatures(model_type="bert", architecture="BertModel", family="encoder", depth=2)
TRAINING_DATA = ROOT / "training_data"
SEED_SUMMARY = json.loads((TRAINING_DATA / "seed_summary.json").read_text(encoding="utf-8"))


def record(**changes: Any) -> baseline.Record:
    values = {"model": "m", "candidate": {"strategy": "htp"}, "success": True} | changes
    return baseline.Record.model_validate(values)


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    records = [record(features=FEATURES.to_json(), export_seconds=1.5), record(success=False)]
    whole = baseline.new_baseline(records)
    path = tmp_path / "new folder" / "baseline.json"
    baseline.write(whole, path)
    assert baseline.read(path) == whole
    assert [item.name for item in path.parent.iterdir()] == ["baseline.json"]
    assert len(path.read_text(encoding="utf-8").splitlines()) == 4
    features = whole.records[0].model_features()
    assert features == FEATURES
    assert {"versions", "cpu", "cores", "ram_bytes"} <= whole.environment.keys()


def test_a_compressed_baseline_is_read_back_and_is_the_same_each_time(tmp_path: Path) -> None:
    records = [record(features=FEATURES.to_json(), model=f"m{number}") for number in range(50)]
    refused = baseline.Unmeasured.of("b", "study", InvalidRequestError("no inputs\nat all"))
    whole = baseline.new_baseline(records).model_copy(update={"unmeasured": (refused,)})
    first, again, plain = (tmp_path / name for name in ("a.json.gz", "b.json.gz", "c.json"))
    for path in (first, again, plain):
        baseline.write(whole, path)
        assert baseline.read(path) == whole
    assert first.read_bytes() == again.read_bytes()
    assert len(first.read_bytes()) < len(plain.read_bytes()) / 10
    assert (refused.error_type, refused.error) == ("InvalidRequestError", "no inputs")


@pytest.mark.parametrize("kept", [5, 40, -1])
def test_a_compressed_baseline_that_was_cut_off_is_named(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "baseline.json.gz"
    baseline.write(baseline.new_baseline([record()] * 3), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(InvalidRequestError, match=r"baseline\.json\.gz is cut off or damaged"):
        baseline.read(path)


def test_a_wrong_record_is_not_written(tmp_path: Path) -> None:
    wrong = record().model_copy(update={"export_seconds": -1.0})
    path = tmp_path / "baseline.json"
    with pytest.raises(InvalidRequestError, match=r"record 2, field export_seconds"):
        baseline.write(baseline.new_baseline([record(), wrong]), path)
    assert not path.exists()


def test_a_model_that_could_not_be_measured_is_merged_away_by_its_records() -> None:
    refused = baseline.Unmeasured(model="m", stage="study", error_type="E")
    other = refused.model_copy(update={"model": "other"})
    first = baseline.new_baseline([]).model_copy(update={"unmeasured": (refused, other)})
    merged = baseline.merge([first, baseline.new_baseline([record()])])
    assert merged.unmeasured == (other,)


@pytest.mark.parametrize("option", [{"scripted": True}, {"weights": "void"}, {"dynamic": False}])
def test_a_record_of_a_success(option: dict[str, Any]) -> None:
    candidate = Candidate(strategy="usage_based", **option)
    attempt = Attempt(
        number=1, candidate=candidate, outcome="succeeded", seconds=2.0, peak_rss_bytes=7
    )
    artifact = ExportArtifact(
        path=Path("model.onnx"), candidate=candidate, nodes=3, traced_share=0.5, file_bytes=9,
        seconds={"capture": 1.0},
    )  # fmt: skip
    made = baseline.record(model="m", features=FEATURES, attempt=attempt, artifact=artifact, seed=0)
    assert made.success
    assert made.candidate.candidate() == candidate
    assert (made.nodes, made.file_bytes, made.traced_share) == (3, 9, 0.5)
    assert (made.model_type, made.architecture) == ("bert", "BertModel")


def test_a_record_of_a_failure_names_no_folders() -> None:
    error = CaptureError(
        "no /home/someone/model.py:7, see https://pytorch.org/docs\nmore",
        strategy="fx",
        stage="capture",
    )
    attempt = Attempt(
        number=1, candidate=Candidate(strategy="fx"), outcome="failed", seconds=2.0,
        peak_rss_bytes=7, error=error,
    )  # fmt: skip
    made = baseline.record(model="m", features=None, attempt=attempt)
    assert (made.success, made.stage, made.error_type) == (False, "capture", "CaptureError")
    assert made.error == "fx/capture: no model.py:7, see https://pytorch.org/docs"
    assert made.export_seconds == 2.0
    assert made.features is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"success": "perhaps"}, r"record 2, field success: .*boolean"),
        ({"candidate": {"dynamic": True}}, r"record 2, field candidate\.strategy: Field required"),
        (
            {"candidate": {"strategy": "htp", "weights": "none"}},
            r"record 2, field candidate\.weights: Input should be 'real' or 'void'",
        ),
        ({"colour": "red"}, r"record 2, field colour: Extra inputs are not permitted"),
        ({"export_seconds": -1}, r"record 2, field export_seconds: .*greater than or equal to 0"),
        ({"features": {"colour": 1}}, r"record 2, field features: .*unknown colour"),
    ],
)
def test_a_wrong_record_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    whole = baseline.new_baseline([record(), record()]).model_dump(mode="json")
    whole["records"][1] |= change
    path = written(tmp_path / "wrong.json", whole)
    with pytest.raises(InvalidRequestError, match=rf"wrong\.json: {message}"):
        baseline.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object"),
        ({"records": []}, "schema_version is None, and this version reads 1"),
        ({"schema_version": 2, "records": []}, "schema_version is 2, and this version reads 1"),
        ({"something": "else"}, "no baseline that is known"),
        ({"schema_version": 1, "created": "now"}, "records: Field required"),
        ({"model_compatibility": ["resnet"]}, "must be objects"),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        baseline.read(written(tmp_path / "wrong.json", content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequestError, match="cannot be read: No such file"):
        baseline.read(tmp_path / "missing.json")


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    blocked = written(tmp_path / "file", "") / "baseline.json"
    with pytest.raises(InvalidRequestError, match="cannot be written"):
        baseline.write(baseline.new_baseline([]), blocked)


def test_a_file_from_before_there_was_a_choice_of_weights_is_read(tmp_path: Path) -> None:
    whole = baseline.new_baseline([record()]).model_dump(mode="json")
    assert whole["records"][0]["candidate"].pop("weights") == "real"
    read = baseline.read(written(tmp_path / "older.json", whole))
    assert read.records[0].candidate.candidate() == Candidate(strategy="htp")


def test_twins_are_merged_apart() -> None:
    void = record(candidate={"strategy": "htp", "weights": "void"})
    merged = baseline.merge([baseline.new_baseline([record()]), baseline.new_baseline([void])])
    assert [item.candidate.weights for item in merged.records] == ["real", "void"]


def test_of_two_records_on_the_same_the_later_one_stays() -> None:
    first = baseline.new_baseline([record(export_seconds=1), record(model="other")])
    second = baseline.new_baseline([record(export_seconds=2), record(candidate={"strategy": "fx"})])
    merged = baseline.merge([first, second])
    assert len(merged.records) == 3
    assert merged.records[0].export_seconds == 2


def test_runs_are_merged_with_what_they_measured(tmp_path: Path) -> None:
    def collected(model: str, cores: int) -> baseline.Baseline:
        environment = {"cores": cores, "runs": [{"seed": cores}]}
        whole = baseline.new_baseline([record(model=model, run=0)])
        return whole.model_copy(update={"environment": environment})

    merged = baseline.merge(
        [collected("a", 2), baseline.new_baseline([record()]), collected("b", 4)]
    )
    runs = merged.environment["runs"]
    assert runs == [{"environment": {"cores": n}, "seed": n} for n in (2, 4)]
    assert [item.run for item in merged.records] == [0, None, 1]
    path = tmp_path / "baseline.json"
    baseline.write(merged, path)
    assert baseline.read(path).records == merged.records


@pytest.mark.parametrize(
    ("environment", "problem"),
    [({"runs": [{}]}, r"record 1, field run: there is no run 1"), ({"runs": 3}, "no list")],
)
def test_a_run_that_is_not_told_of_is_refused(
    tmp_path: Path, environment: dict[str, Any], problem: str
) -> None:
    whole = baseline.new_baseline([record(run=1)]).model_copy(update={"environment": environment})
    with pytest.raises(InvalidRequestError, match=problem):
        baseline.write(whole, tmp_path / "baseline.json")


# The seed's formats


def by_model_and_strategy(whole: baseline.Baseline) -> dict[tuple[str, str], baseline.Record]:
    return {(item.model, item.candidate.strategy): item for item in whole.records}


def test_the_seeds_summary() -> None:
    whole = baseline.read(TRAINING_DATA / "seed_summary.json")
    records = by_model_and_strategy(whole)
    assert len(records) == 6
    assert sum(item.success for item in whole.records) == 4
    resnet = records["microsoft/resnet-50", "usage_based"]
    assert (resnet.success, resnet.export_seconds) == (True, 18.63)
    assert (resnet.model_type, resnet.architecture) == ("resnet", "ResNetModel")
    sam = records["facebook/sam-vit-base", "fx"]
    assert (sam.success, sam.export_seconds, sam.model_type) == (False, None, "sam")
    features = sam.model_features()
    assert features is not None
    assert features.parameters > 90e6


def test_the_seeds_results() -> None:
    whole = baseline.read(TRAINING_DATA / "seed_results.json")
    records = by_model_and_strategy(whole)
    assert [item.success for item in whole.records] == [False, True, True] * 2
    resnet = records["microsoft/resnet-50", "htp"]
    assert (resnet.export_seconds, resnet.file_bytes) == (4.08, 93_960_000)
    sam = records["facebook/sam-vit-base", "usage_based"]
    assert (sam.export_seconds, sam.file_bytes, sam.model_type) == (33.64, None, "sam")
    failed = records["microsoft/resnet-50", "fx"]
    assert failed.export_seconds is None
    assert failed.error == "Control flow prevents symbolic tracing"


def detail(success: bool, seconds: float, **more: Any) -> dict[str, Any]:
    return {"success": success, "export_time": seconds, **more}


STRATEGIES = {
    "fx": detail(success=False, seconds=0.0, error="control flow\nand more"),
    "usage-based": detail(success=True, seconds=3.62, file_size="93.96 MB"),
}
AS_SEEN: list[tuple[str, Callable[[dict[str, Any]], dict[str, Any]]]] = [
    ("plain", lambda inner: {"microsoft/resnet-50": {"strategies": inner}}),
    ("flat", lambda inner: {"microsoft/resnet-50": inner}),
    ("under a key", lambda inner: {"results": {"microsoft/resnet-50": {"strategies": inner}}}),
    ("list", lambda inner: {"models": [{"model": "microsoft/resnet-50", "strategies": inner}]}),
    ("both", lambda inner: SEED_SUMMARY | {"microsoft/resnet-50": {"strategies": inner}}),
]


@pytest.mark.parametrize("wrap", [form for _, form in AS_SEEN], ids=[name for name, _ in AS_SEEN])
def test_the_seeds_detailed_form(tmp_path: Path, wrap: Callable[..., dict[str, Any]]) -> None:
    records = by_model_and_strategy(baseline.read(written(tmp_path / "d.json", wrap(STRATEGIES))))
    assert len(records) == 2
    failed = records["microsoft/resnet-50", "fx"]
    assert (failed.success, failed.export_seconds, failed.error) == (False, None, "control flow")
    right = records["microsoft/resnet-50", "usage_based"]
    assert (right.success, right.export_seconds, right.file_bytes) == (True, 3.62, 93_960_000)


def test_a_model_of_unknown_type_is_left_out_with_a_note(tmp_path: Path) -> None:
    content = {"model_compatibility": {"someone/thing": ["htp"], "microsoft/resnet-50": ["htp"]}}
    whole = baseline.read(written(tmp_path / "seed.json", content))
    assert {item.model for item in whole.records} == {"microsoft/resnet-50"}
    assert "someone/thing is left out" in whole.notes[0]


@pytest.mark.parametrize(
    ("model", "model_type"),
    [
        ("microsoft/resnet-50", "resnet"),
        ("facebook/sam-vit-base", "sam"),
        ("google-bert/bert-base-uncased", "bert"),
        ("microsoft/deberta-v2-xlarge", "deberta-v2"),
        ("openai/clip-vit-base-patch32", "clip"),
        ("acme/anything", None),
    ],
)
def test_the_type_that_an_id_names(model: str, model_type: str | None) -> None:
    config = seed_format.config_for(model)
    assert (config.model_type if config else None) == model_type
