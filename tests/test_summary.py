"""The figures of a baseline: of which models shares are taken, and what counts for a strategy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from scripts import summarise_baseline
from scripts.baseline_summary import ALL, ANY, Share
from scripts.summarise_baseline import Group, summarise
from selector import baseline
from selector.baseline import Record, Unmeasured
from strategies.base import VOID, Candidate
from tests import synthetic

USAGE_VOID = Candidate(strategy="usage_based", weights=VOID)
USAGE = Candidate(strategy="usage_based")
USAGE_STATIC = Candidate(strategy="usage_based", dynamic=False)
HTP, HTP_STATIC = (Candidate(strategy="htp", dynamic=dynamic) for dynamic in (True, False))
FX = Candidate(strategy="fx")


def record(model: str, candidate: Candidate, seconds: float, *, right: bool = True) -> Record:
    return Record(
        model=model,
        candidate=baseline.CandidateRecord.of(candidate),
        success=right,
        export_seconds=seconds,
        dynamic_axes_ok=right if candidate.dynamic else None,
    )


RECORDS = [
    # usage_based holds its axes, at the second try only; htp is right when static.
    record("base:a", USAGE_VOID, 0.1, right=False),
    record("base:a", USAGE, 0.5),
    record("base:a", HTP, 1.0, right=False),
    record("base:a", HTP_STATIC, 0.8),
    record("base:a", FX, 9.0, right=False),
    # htp alone.
    record("base:b", USAGE_VOID, 0.2, right=False),
    record("base:b", HTP, 1.4),
    record("base:b", FX, 3.0, right=False),
    # All of them, and usage_based in half the seconds of the next one.
    record("plain:c", USAGE_VOID, 0.5),
    record("plain:c", HTP, 1.0),
    record("plain:c", FX, 2.0),
    # No axis of it may vary.
    record("plain:d", USAGE_STATIC, 0.7),
]
UNMEASURED = (
    Unmeasured(model="base:unbuilt", stage="load", error_type="ValueError"),
    Unmeasured(model="base:refused", stage="study", error_type="InvalidRequestError"),
    Unmeasured(model="head:refused", stage="study", error_type="InvalidRequestError"),
    Unmeasured(model="base:crashed", stage="worker", error_type="AttemptCrashedError"),
)


@pytest.fixture(scope="module")
def groups() -> Mapping[str, Group]:
    whole = baseline.new_baseline(RECORDS)
    return summarise(whole.model_copy(update={"unmeasured": UNMEASURED}))


def test_shares_are_of_the_models_that_run_eager(groups: Mapping[str, Group]) -> None:
    assert list(groups) == [ALL, "base", "plain", "head"]
    base = groups["base"]
    # One that ran eager and then could not be tried is a failure of all strategies.
    assert (base.models, base.eager, base.not_tried) == (5, 3, ("base:crashed",))
    assert base.not_counted == {"load: ValueError": 1, "study: InvalidRequestError": 1}
    assert groups[ALL].not_counted == {"study: InvalidRequestError": 2, "load: ValueError": 1}
    assert base.figures[ANY].right == Share(right=2, of=3)
    assert groups[ALL].figures[ANY].right == Share(right=4, of=5)
    assert (groups["head"].eager, groups["head"].figures["fx"].right.of) == (0, 0)


def test_dynamic_files_are_counted_where_their_axes_hold(groups: Mapping[str, Group]) -> None:
    htp = groups["base"].figures["htp"]
    assert htp.right == Share(right=2, of=3)
    assert htp.dynamic == Share(right=1, of=3)
    assert groups["plain"].figures[ANY].dynamic == Share(right=1, of=2)
    assert groups["plain"].figures[ANY].varying == Share(right=1, of=1)


def test_the_first_choice_is_what_was_tried_first(groups: Mapping[str, Group]) -> None:
    usage = groups[ALL].figures["usage_based"]
    assert (usage.tried, usage.right.right) == (4, 3)
    assert usage.first_right == Share(right=2, of=5)
    assert usage.first_seconds == pytest.approx(0.6)
    assert groups[ALL].figures["htp"].first_seconds == pytest.approx(1.2)
    assert groups["base"].figures["fx"].first_seconds is None


def test_a_strategy_leads_where_others_fail_or_take_twice_as_long(
    groups: Mapping[str, Group],
) -> None:
    figures = groups[ALL].figures
    usage, htp, fx = (figures[name] for name in ("usage_based", "htp", "fx"))
    # On `d` it was the only one that was tried.
    assert usage.only == Share(right=1, of=5)
    assert usage.only_dynamic == Share(right=1, of=5)
    assert usage.faster == Share(right=1, of=5)
    assert (htp.only, htp.faster) == (Share(right=1, of=5), Share(right=0, of=5))
    assert fx.only == fx.only_dynamic == fx.faster == Share(right=0, of=5)
    assert figures[ANY].only is None


def test_the_command_prints_tables_or_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "baseline.json"
    whole = baseline.new_baseline(RECORDS).model_copy(update={"unmeasured": UNMEASURED})
    baseline.write(whole, path)
    assert summarise_baseline.main([str(path)]) == 0
    told = capsys.readouterr().out
    assert "base: 3 of 5 models run eager" in told
    assert "  not counted: 1 load: ValueError" in told
    assert "  could not be tried: base:crashed" in told
    assert all(len(line) < 100 for line in told.splitlines())
    assert summarise_baseline.main([str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["base"]["figures"]["any"]["right"] == {"right": 2, "of": 3, "share": 2 / 3}
    assert found["head"]["figures"]["any"]["right"]["share"] is None


def test_what_is_no_baseline_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert summarise_baseline.main([str(tmp_path / "missing.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
    empty = synthetic.write_baseline(tmp_path / "empty.json", [])
    assert summarise_baseline.main([str(empty)]) == 0
    assert "all: 0 of 0 models run eager" in capsys.readouterr().out
