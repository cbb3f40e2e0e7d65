"""Results as strict JSON and as a terminal view."""

from __future__ import annotations

import enum
import io
import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from rich.console import Console

from selector import report
from selector.chain import Attempt
from selector.control_flow import Finding
from selector.errors import (
    AllStrategiesFailedError,
    CaptureError,
    InvalidRequestError,
    StrategyError,
    VerificationError,
)
from selector.features import ModelFeatures
from selector.module_tree import ModuleNode, build_tree, visible_rows
from selector.ranking import static_ranking
from selector.retraining import ScoreCard
from selector.scoring import Interval, PolicyScore, Scores
from selector.verdict import CaseCheck, OutputCheck, VerificationReport
from strategies.base import Candidate
from strategies.hierarchy import Hierarchy, ModuleEntry
from strategies.registry import portfolio
from tests import synthetic

if TYPE_CHECKING:
    from rich.console import RenderableType


def text_of(view: RenderableType, width: int = 120) -> str:
    stream = io.StringIO()
    Console(file=stream, width=width).print(view)
    return stream.getvalue()


def attempt(number: int, outcome: str = "succeeded", error: StrategyError | None = None) -> Attempt:
    return Attempt(
        number=number,
        candidate=Candidate(strategy="htp"),
        outcome=outcome,
        seconds=1.25,
        peak_rss_bytes=512_000_000,
        error=error,
    )


REPORT = VerificationReport(
    ok=True,
    reason="",
    dynamic=True,
    outputs=(
        OutputCheck(
            name="logits",
            dtype="float32",
            shape=(2, 3),
            max_abs_error=2e-6,
            max_rel_error=1e-6,
            tolerance=1e-4,
            status="right",
            reason="",
        ),
        OutputCheck(
            name="noise",
            dtype="float32",
            shape=(2,),
            max_abs_error=None,
            max_rel_error=None,
            tolerance=1e-4,
            status="unverifiable",
            reason="eager differs from run to run",
        ),
    ),
    cases=(CaseCheck(label="other sizes", sizes={"batch_size": 5}, ok=True),),
    dynamic_axes={"ids": {0: "batch_size", 1: "length"}, "mask": {0: "batch_size", 1: "length"}},
    frozen_axes=("height",),
    checker=None,
    nodes=7,
    untagged=0,
    optimizer_fault=False,
    optimizer_level="all",
    opset=18,
    ort_version="1.31.1",
    latency_seconds=0.00125,
    seconds=0.75,
    timings={},
    notes=("one note",),
)


def entry(path: str, nodes: int = 0, size: int = 0, calls: int = 1) -> ModuleEntry:
    return ModuleEntry(
        path=path, class_name=f"pkg.{path or 'Root'}", calls=calls, nodes=nodes,
        parameter_bytes=size,
    )  # fmt: skip


HIERARCHY = Hierarchy(
    modules=(
        entry("", nodes=1),
        entry("body.0", nodes=2, size=1000),
        entry("body.0.inner", nodes=3, size=500),
        entry("body.1", nodes=4),
        entry("dropout"),
        entry("head", size=2_000_000),
    ),
    nodes=10,
    traced=9,
    metadata={
        "autoexport.strategy": "htp",
        "autoexport.verification": '{"level": "full", "ok": true, "outputs": {"logits": 1}}',
    },
)


# JSON


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Everything:
    path: Path
    numbers: tuple[float, ...]
    array: Any
    scalar: Any
    colour: Colour
    names: frozenset[str]
    axes: dict[int, str]
    other: object


def test_json_knows_every_kind_of_value() -> None:
    value = Everything(
        path=Path("a/b"),
        numbers=(1.5, math.nan, math.inf, -math.inf),
        array=np.array([[1, 2]], dtype=np.int64),
        scalar=np.float32(0.5),
        colour=Colour.RED,
        names=frozenset({"b", "a"}),
        axes={0: "batch_size"},
        other=np.dtype("float32"),
    )
    assert json.loads(report.dumps(report.to_json(value))) == {
        "path": "a/b",
        "numbers": [1.5, "NaN", "Infinity", "-Infinity"],
        "array": [[1, 2]],
        "scalar": 0.5,
        "colour": "red",
        "names": ["a", "b"],
        "axes": {"0": "batch_size"},
        "other": "float32",
    }


def test_numbers_that_json_lacks_are_read_back_by_float() -> None:
    assert [float(item) for item in report.jsonable([math.inf, -math.inf])] == [math.inf, -math.inf]
    assert math.isnan(float(report.jsonable(math.nan)))


@pytest.mark.parametrize("value", [3, "text", [1], None])
def test_only_objects_are_objects(value: object) -> None:
    with pytest.raises(TypeError, match="dataclass or mapping"):
        report.to_json(value)


def test_error_carries_its_attempts_and_their_errors() -> None:
    cause = ValueError("deep down")
    failure = CaptureError("cannot", strategy="htp", stage="capture", hint="try fx")
    failure.__cause__ = cause
    wrong = VerificationError("off by 3", report=replace(REPORT, ok=False), strategy="fx")
    error = AllStrategiesFailedError(
        "nothing worked", attempts=(attempt(1, "failed", error=failure), attempt(2, error=wrong))
    )
    body = json.loads(report.dumps(report.error_to_json(error, 5)))["error"]
    assert (body["type"], body["message"]) == ("AllStrategiesFailedError", "nothing worked")
    assert body["exit_code"] == 5
    first, second = (item["error"] for item in body["attempts"])
    assert first["cause"] == "ValueError: deep down"
    assert (first["stage"], first["hint"]) == ("capture", "try fx")
    assert second["report"]["outputs"][0]["name"] == "logits"


def test_error_without_attempts_says_so() -> None:
    body = report.error_to_json(InvalidRequestError("no"), 2)
    assert body == {
        "error": {
            "attempts": [],
            "type": "InvalidRequestError",
            "message": "no",
            "exit_code": 2,
        }
    }


# Terminal


def test_attempts_have_a_line_each() -> None:
    failure = CaptureError("cannot [see]\nthis", strategy="htp", stage="capture", hint="try fx")
    shown = text_of(report.render_attempts([attempt(1, "failed", error=failure), attempt(2)]))
    header, first, second = shown.splitlines()
    assert header.split() == ["#", "candidate", "outcome", "seconds", "memory", "reason"]
    assert "htp[dynamic]" in first
    assert "capture: cannot [see] this (try fx)" in first
    assert "1.2" in second
    assert "512.0 MB" in second


def test_a_ranking_names_candidates_whole_on_a_narrow_terminal() -> None:
    features = synthetic.model_features("plain", branches=True)
    offered = portfolio(scripting=True)
    ranking = static_ranking(features, offered, "none was fitted")
    for width in (80, 100):
        lines = text_of(report.render_ranking(ranking), width).splitlines()
        assert max(map(len, lines)) <= width
        for candidate in offered:
            assert any(f" {candidate} " in line for line in lines)
    assert sum("captured without reading the weights" in line for line in lines) == 2


def test_verification_shows_errors_and_axes() -> None:
    shown = text_of(report.render_verification(REPORT))
    assert "verdict       right" in shown
    assert "largest relative error 1.0e-06" in shown
    assert "ids, mask: 0 batch_size, 1 length" in shown
    assert "unverifiable  noise" in shown
    assert "fixed axes    height" in shown
    assert "note: one note" in shown
    assert "1.25 ms" in shown


def test_wrong_file_says_what_is_wrong() -> None:
    broken = replace(
        REPORT, ok=False, reason="logits differ", optimizer_fault=True, optimizer_level="basic"
    )
    shown = text_of(report.render_verification(broken))
    assert "wrong: logits differ" in shown
    assert "right up to level 'basic'" in shown


def test_features_name_places_and_operators() -> None:
    finding = Finding(
        kind="branch", file="/lib/modeling_x.py", line=74, end_line=74, function="X.forward",
        source="  if mask.all():",
    )  # fmt: skip
    features = ModelFeatures(
        model_type="x", architecture="XModel", family="encoder", depth=2, width=32, modules=9,
        parameters=1_234_567, parameter_bytes=4_938_268, value_dependent=True,
        findings=(finding,), operators={"aten.add": 2, "aten.mm": 5},
        unknown_to={"fx": ("aten.nonzero",), "htp": ()}, notes=("one note",),
    )  # fmt: skip
    shown = text_of(report.render_features(features))
    assert "1,234,567 (4.9 MB)" in shown
    assert "aten.mm 5, aten.add 2" in shown
    assert "aten.nonzero" in shown
    assert "unknown to htp" not in shown
    assert "note: one note" in shown
    assert shown.splitlines()[-1].rstrip().split(maxsplit=2) == [
        "modeling_x.py:74",
        "branch",
        "if mask.all():",
    ]


def test_a_card_shows_what_orders_cost() -> None:
    gap = Interval(0.1234, -0.1, 0.3)
    policy = PolicyScore(
        seconds=Interval(1.5, 1.0, 2.0), par10=Interval(1.5, 1.0, 2.0),
        attempts=Interval(1.25, 1.0, 1.5), first_right=Interval(0.875, 0.8, 0.9),
        lost_axes=Interval(0.0, 0.0, 0.0), remaining_gap=gap,
    )  # fmt: skip
    card = ScoreCard(
        path=Path("r.joblib"), records=12, models=3, candidates=4, success_rate=0.75,
        scores=Scores(
            seeds=1, models=3, brier=0.1, brier_of_rates=0.2, calibration_error=0.05,
            policies={"ranker": policy},
        ),
        against_champion=Interval(-0.25, -0.5, 0.1), training=({"file": "b.json"},),
        notes=("one note",), created="now",
    )  # fmt: skip
    lines = text_of(report.render_card(card)).splitlines()
    assert lines[-1].split() == [
        *("ranker", "1.50", "(1.00", "to", "2.00)", "88%", "1.25"),
        *("0.12", "(-0.10", "to", "0.30)"),
    ]
    shown = "\n".join(lines)
    assert "12 records: 3 models, 4 candidates" in shown
    assert "Brier score 0.100 (rates alone 0.200), calibration error 0.050" in shown
    assert "costs +0.25 s per model against this one (-0.10 to +0.50)" in shown
    assert "note: one note" in shown


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (90_868_370, "90.9 MB"), (None, "")],
)
def test_sizes(count: int | None, text: str) -> None:
    assert report.size_text(count) == text


def test_timings_add_up() -> None:
    timings = {"load": 1.0, "export": 2.5, "export.capture": 1.5, "export.save": 0.5}
    assert report.timings_text(timings) == "3.5 s: load 1.0, export 2.5 (capture 1.5, save 0.5)"


# The module tree


def test_tree_adds_up_its_subtrees() -> None:
    root = build_tree(HIERARCHY.modules)
    body = root.children["body"]
    assert (root.nodes, root.parameter_bytes) == (10, 2_001_500)
    assert (body.nodes, body.parameter_bytes, body.class_name) == (9, 1500, "")
    assert (body.children["0"].nodes, body.children["0"].class_name) == (5, "pkg.body.0")


def test_tree_is_cut_at_its_depth() -> None:
    def rows(depth: int) -> list[tuple[int, str | int]]:
        found = visible_rows(build_tree(HIERARCHY.modules), depth)
        return [(at, row.name if isinstance(row, ModuleNode) else row) for at, row in found]

    assert rows(0) == [(0, ""), (1, 5)]
    assert rows(1) == [(0, ""), (1, "body"), (2, 3), (1, "head")]
    assert rows(9) == [(0, ""), (1, "body"), (2, "0"), (3, "inner"), (2, "1"), (1, "head")]


def test_tree_view_names_modules_and_counts() -> None:
    lines = text_of(report.render_hierarchy(HIERARCHY, depth=1)).splitlines()
    assert lines[0].split(maxsplit=1) == [
        "hierarchy",
        "10 nodes in 4 modules, 90.0% attributed by the capture",
    ]
    assert any(line.split() == ["strategy", "htp"] for line in lines)
    assert any(line.split() == ["verification", "level", "full,", "ok", "yes"] for line in lines)
    assert any(line.split() == ["(model)", "Root", "1", "10", "2.0", "MB"] for line in lines)
    assert any(line.split() == ["…", "3", "more"] for line in lines)
