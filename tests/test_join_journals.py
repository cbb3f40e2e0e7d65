"""Journals of several machines become one, which tells of each record where it was measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts import collect_baselines, collection_journal, join_journals
from scripts.collection_journal import Entry, Journal, Run
from selector import baseline
from selector.baseline import Unmeasured
from tests.test_baseline import record

HERE = Run(
    created="2026-01-01",
    environment={"cores": 2, "versions": {"torch": "2.13"}},
    settings={"revision": "abc", "seed": 0, "jobs": 2},
)
THERE = Run(
    created="2026-01-02",
    environment={"cores": 16, "versions": {"torch": "2.14"}},
    settings={"revision": "def", "seed": 0, "jobs": 16},
)


def entry(model: str, seconds: float = 1.0) -> Entry:
    return Entry(model=model, records=(record(model=model, export_seconds=seconds),))


def refused(model: str) -> Entry:
    why = Unmeasured(model=model, stage="study", error_type="InvalidRequestError")
    return Entry(model=model, unmeasured=why)


def journal(path: Path, *runs: tuple[Run, list[Entry]]) -> Path:
    for run, entries in runs:
        with Journal(path, run) as opened:
            for item in entries:
                opened.add(item)
    return path


@pytest.fixture
def two(tmp_path: Path) -> list[str]:
    empty: tuple[Run, list[Entry]] = (HERE.model_copy(update={"created": "2025"}), [])
    first = journal(tmp_path / "a.jsonl", empty, (HERE, [entry("a"), entry("b"), refused("c")]))
    second = journal(
        tmp_path / "b.jsonl", (THERE, [entry("b", 2.0), refused("a"), entry("c"), refused("d")])
    )
    return [str(first), str(second)]


def test_every_record_tells_where_it_was_measured(
    tmp_path: Path, two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "joined.json.gz"
    assert join_journals.main([*two, "--out", str(out)]) == 0
    whole = baseline.read(out)
    runs = whole.environment["runs"]
    told = {
        item.model: (runs[item.run or 0]["revision"], item.export_seconds) for item in whole.records
    }
    # Of two, the later one; but not for a model that could not be measured there.
    assert told == {"a": ("abc", 1.0), "b": ("def", 2.0), "c": ("def", 1.0)}
    assert [(run["models"], run["jobs"]) for run in runs] == [(1, 2), (3, 16)]
    assert runs[0]["environment"] == HERE.environment
    assert (whole.environment["cores"], "environment" in runs[1]) == (16, False)
    assert [item.model for item in whole.unmeasured] == ["d"]
    lines = capsys.readouterr().out.splitlines()
    assert "the runs differ in torch: 2.13, 2.14" in lines
    assert "the runs differ in revision: abc, def" in lines
    assert lines[-1] == f"4 models, 3 records in {out}"


def test_a_collection_goes_on_from_joined_journals(tmp_path: Path, two: list[str]) -> None:
    out = tmp_path / "joined.json"
    assert join_journals.main([*two, "--out", str(out)]) == 0
    path = collect_baselines.journal_path(out)
    kept = collection_journal.read(path)
    assert kept.lacking(["a", "b", "c", "d", "e"], retry_failed=True) == ["d", "e"]
    assert kept.baseline().records == baseline.read(out).records
    # Joined with a third one, or with itself, nothing is lost or doubled.
    third = journal(tmp_path / "c.jsonl", (HERE, [entry("e")]))
    assert join_journals.main([str(path), str(third), "--out", str(out)]) == 0
    assert join_journals.main([str(path), str(path), "--out", str(out)]) == 0
    models = [item.model for item in baseline.read(out).records]
    assert sorted(models) == ["a", "b", "c", "e"]


def test_baselines_are_joined_as_journals_are(tmp_path: Path, two: list[str]) -> None:
    outs = [tmp_path / name for name in ("a.json", "b.json.gz", "joined.json", "again.json")]
    for path, out in zip(two, outs, strict=False):
        assert join_journals.main([path, "--out", str(out)]) == 0
    assert join_journals.main([*two, "--out", str(outs[2])]) == 0
    assert join_journals.main([*map(str, outs[:2]), "--out", str(outs[3])]) == 0
    joined, again = (baseline.read(out) for out in outs[2:])
    assert (again.records, again.unmeasured) == (joined.records, joined.unmeasured)
    assert again.environment == joined.environment


def test_what_cannot_be_joined_is_one_line_and_changes_nothing(
    tmp_path: Path, two: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "joined.json"
    path = collect_baselines.journal_path(out)

    def refusal(*journals: str) -> str:
        assert join_journals.main([*journals, "--out", str(out)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        return line

    assert "there is no journal" in refusal(*two, str(tmp_path / "missing"))
    Path(two[1]).write_text('{"entry": {"model": 3}}\n', encoding="utf-8")
    assert "b.jsonl: line 1, entry.model" in refusal(*two)
    assert not out.exists()
    with Journal(path, HERE):
        assert "is there already: join it too" in refusal(two[0])
        assert "is being written by another collection" in refusal(two[0], str(path))
    assert not out.exists()
