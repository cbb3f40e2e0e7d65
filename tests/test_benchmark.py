"""The benchmark runs sides in fresh processes, keeps what it measured, and reports it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from scripts import benchmark
from scripts.benchmark_journal import Journal
from scripts.benchmark_meter import Meter, tree_cpu_seconds
from scripts.benchmark_plan import OURS, Task, sections, tasks
from scripts.benchmark_report import markdown
from scripts.benchmark_summary import exponent, summarise

MB = 1 << 20
MODEL = "tiny-bert"
SIDES = (OURS, "torchscript")


class Measured:
    """A small benchmark's folders, and how to go on with it."""

    def __init__(self, folder: Path) -> None:
        self.work = folder / "work"
        self.out = folder / "out"
        self.out.mkdir()

    def run(self, *arguments: str) -> dict[str, Any]:
        benchmark.main(
            [
                *("--work", str(self.work), "--out", str(self.out)),
                *("--only", "tiny", "--models", MODEL, *arguments),
            ]
        )
        summary: dict[str, Any] = json.loads((self.out / "benchmark.json").read_text())
        return summary

    @property
    def lines(self) -> int:
        return len((self.work / "journal.jsonl").read_text().splitlines())


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Measured:
    bench = Measured(tmp_path_factory.mktemp("benchmark"))
    bench.run("--rounds", "1", "--sides", ",".join(SIDES))
    return bench


# Real runs


def test_every_side_is_measured_from_model_to_file(measured: Measured) -> None:
    found = json.loads((measured.out / "benchmark.json").read_text())["tiny"]["models"][MODEL]
    assert set(found) == set(SIDES)
    for figures in found.values():
        assert "error" not in figures
        assert figures["cpu"] > 0
        assert figures["peak"] > 100 * MB
        assert figures["bytes"] > 100_000
    assert found["torchscript"]["times_cpu"] == found["torchscript"]["cpu"] / found[OURS]["cpu"]


def test_nothing_is_imported_while_the_clock_runs(measured: Measured) -> None:
    found = json.loads((measured.out / "benchmark.json").read_text())["tiny"]["models"][MODEL]
    assert {side: figures["late_imports"] for side, figures in found.items()} == dict.fromkeys(
        SIDES, 0
    )


def test_the_report_names_no_place_on_this_machine(measured: Measured) -> None:
    text = (measured.out / "benchmark.md").read_text() + (
        measured.out / "benchmark.json"
    ).read_text()
    assert str(measured.work.parent) not in text
    assert "| bert |" in text
    assert "`dynamo=False`" in text


def test_what_is_in_the_journal_is_not_measured_again(measured: Measured) -> None:
    before = measured.lines
    measured.run("--rounds", "1", "--sides", ",".join(SIDES))
    assert measured.lines == before


def test_a_run_past_its_limit_is_a_result_and_is_not_repeated(measured: Measured) -> None:
    before = measured.lines
    summary = measured.run("--rounds", "2", "--sides", "dynamo-static", "--limit", "0.5")
    figures = summary["tiny"]["models"][MODEL]["dynamo-static"]
    assert figures == {"rounds": 0, "error": "stopped after 0.5 s"}
    assert measured.lines == before + 1
    assert "failed" in markdown(summary)


def test_a_run_past_its_memory_is_stopped(measured: Measured) -> None:
    summary = measured.run("--rounds", "1", "--sides", "dynamo", "--memory", "0.05")
    figures = summary["tiny"]["models"][MODEL]["dynamo"]
    assert figures["rounds"] == 0
    assert figures["error"].startswith("stopped at 0.")


# Measuring


def test_memory_is_that_of_the_stretch() -> None:
    meter = Meter()
    before = meter.lap().peak
    block = bytearray(b"1") * (300 * MB)
    assert len(block) == 300 * MB
    del block
    large, after = meter.lap().peak, meter.lap().peak
    assert before is not None
    assert large is not None
    assert after is not None
    assert large > after + 200 * MB


def test_cpu_seconds_include_waited_children() -> None:
    meter = Meter()
    meter.lap()
    before = tree_cpu_seconds()
    subprocess.run([sys.executable, "-c", "sum(i * i for i in range(2_000_000))"], check=True)
    assert meter.lap().cpu > 0.05
    assert tree_cpu_seconds() > before + 0.05


def test_wall_seconds_begin_with_the_process() -> None:
    code = (
        "import time; time.sleep(0.3); from scripts.benchmark_meter import Meter; "
        "print(Meter().lap().wall)"
    )
    started = time.perf_counter()
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0.3 < float(ran.stdout) < time.perf_counter() - started + 0.1


# The plan and the figures


def test_sides_take_turns_and_models_within_a_round() -> None:
    section = sections(())["7b"]
    order = [(task.round, task.model, task.side) for task in tasks("7b", section, 2)]
    assert order == [
        (number, model, side)
        for number in (1, 2)
        for model in section.models
        for side in section.sides
    ]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_exponents_are_those_of_the_power(power: float) -> None:
    sizes = [2.0, 4.0, 8.0, 64.0]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


def run(cpu: float, **more: Any) -> dict[str, Any]:
    return {"export": {"cpu": cpu, "wall": cpu, "peak": 100 * MB}, **more}


def record(journal: Journal, section: str, model: str, side: str, *results: dict[str, Any]) -> None:
    for number, result in enumerate(results, 1):
        task = Task(section=section, model=model, side=side, round=number)
        journal.add_run(task, result)


def test_ratios_are_medians_of_pairs_and_means_geometric(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    record(journal, "export", "a", OURS, run(1), run(2), run(1))
    # Pair by pair 4, 4 and 9 times ours; the ratio of the medians would be 8.
    record(journal, "export", "a", "dynamo", run(4), run(8), run(9))
    record(journal, "export", "b", OURS, run(1))
    load = {"cpu": 3, "wall": 3, "peak": 200 * MB}
    record(journal, "export", "b", "dynamo", run(9, load=load))
    record(journal, "export", "b", "torchscript", {"error": "aten::diff"})
    section = summarise(Journal(tmp_path / "journal.jsonl"))["export"]
    means = section["means"]["dynamo"]
    assert section["models"]["a"]["dynamo"]["times_cpu"] == 4
    assert means["cpu"] == {
        "mean": pytest.approx(6.0), "least": 4, "least_model": "a", "models": 2
    }  # fmt: skip
    assert section["models"]["b"]["dynamo"]["times_cpu_with_load"] == 12
    assert section["models"]["b"]["dynamo"]["times_peak"] == 2
    assert section["models"]["b"]["torchscript"] == {"rounds": 0, "error": "aten::diff"}
    assert section["means"]["torchscript"] == {}


def test_verification_is_held_against_the_pieces_of_checked_shapes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    record(journal, "verified", "a", "autoexport-unverified", run(5, memory=1))
    verified = {
        "memory": 2,
        "attempt_peak": 1,
        "candidate": "usage_based[dynamic,void]",
        "attempts": ["1. usage_based"],
        "cases": [{"label": "other sizes", "sizes": {"batch": 3}}],
        "timings": {"study.analysis": 0.2},
    }
    record(journal, "verified", "a", "autoexport-verified", run(8, **verified))
    pieces = {piece: {"cpu": 2, "wall": 1} for piece in ("eager", "session", "run")}
    # The example, which is always checked, a case of the report, and one that is not in it.
    shapes = [{"sizes": {"batch": size}, **pieces} for size in (2, 3, 4)]
    analysis = {"read": {"wall": 0.1}, "recorded": {"wall": 0.5}}
    record(journal, "verified", "a", "parts", {"shapes": shapes, **analysis})
    summary = summarise(journal)
    figures = summary["verified"]["a"]
    assert (figures["shapes"], figures["wall_parts"], figures["cpu_parts"]) == (2, 6, 12)
    assert (figures["wall_extra"], figures["wall_share"], figures["cpu_share"]) == (3, 0.5, 0.25)
    text = markdown(summary | {"environment": {}})
    assert "| a | 5.0 | 8.0 | 3.0 | 6.0 | 0.50 | 0.25 |" in text
    assert "| a | 8.0 | 0.200 | 2.5% | 0.60 | 7.5% |" in text


def test_growth_is_fitted_against_our_nodes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    for layers in (2, 4, 8, 16):
        record(journal, "scaling", f"layers-{layers}", OURS, run(layers, nodes=10 * layers))
    summary = summarise(journal)
    fit = summary["scaling"]["layers"]["fits"][OURS]
    assert fit["cpu_by_nodes"] == pytest.approx(1.0)
    assert fit["seconds_per_1000_nodes"] == pytest.approx(100)
    assert "to the power 1.00" in markdown(summary)


def test_the_command_is_held_against_the_bare_script(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    record(journal, "command", "minilm", "command", {"wall": 12.0}, {"wall": 13.0})
    record(journal, "command", "minilm", "bare", {"wall": 10.0}, {"wall": 10.0})
    summary = summarise(journal)
    assert summary["command"]["minilm"]["times"] == pytest.approx(1.25)
    assert "Ratio, 2 pairs: 1.25." in markdown(summary)
