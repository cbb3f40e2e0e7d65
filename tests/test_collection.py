"""The collector of baselines: a kill at any moment loses nothing and repeats nothing."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import dask
import psutil
import pytest
from rich.console import Console

from scripts import (
    collect_baselines,
    collection_journal,
    collection_models,
    compare_baselines,
)
from scripts.collection_journal import Entry, Journal, Run
from scripts.collection_progress import Reporter
from scripts.collection_task import is_drawn
from scripts.zoo import tiny_config
from scripts.zoo_census import RUNS, census
from selector import baseline
from selector.baseline import Unmeasured
from selector.errors import InvalidRequestError
from selector.source import resolve
from strategies.isolation import Limits
from tests.test_baseline import record

RUN = Run(created="2026-01-01", environment={"cores": 2}, settings={"seed": 0})
REFUSED = Unmeasured(model="b", stage="study", error_type="InvalidRequestError", error="no inputs")
PLAIN = ("plain:mlp", "plain:cnn", "plain:shared", "plain:dict_output", "plain:loop")
FAST = ("usage_based[static,void]", "usage_based[static]")


def entry(model: str) -> Entry:
    return Entry(model=model, records=(record(model=model), record(model=model, success=False)))


# The journal


def test_a_journal_goes_on_after_a_line_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "out.journal.jsonl"
    assert collection_journal.read(path).entries == {}
    with Journal(path, RUN) as journal:
        journal.add(entry("a"))
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"entry": {"model": "b", "rec')
    assert list(collection_journal.read(path).entries) == ["a"]
    with Journal(path, RUN) as journal:
        journal.add(Entry(model="b", unmeasured=REFUSED))
        journal.add(entry("c"))
    found = collection_journal.read(path)
    assert list(found.entries.values()) == [
        entry("a"),
        Entry(model="b", unmeasured=REFUSED),
        entry("c"),
    ]
    assert found.lacking(["a", "b", "d"], retry_failed=False) == ["d"]
    assert found.lacking(["a", "b", "d"], retry_failed=True) == ["b", "d"]


def test_a_journal_becomes_a_baseline_that_tells_how_it_was_made(tmp_path: Path) -> None:
    path = tmp_path / "out.journal.jsonl"
    with Journal(path, RUN) as journal:
        journal.add(entry("a"))
        journal.add(Entry(model="b", unmeasured=REFUSED))
    other = RUN.model_copy(update={"environment": {"cores": 4}, "settings": {"seed": 1}})
    with Journal(path, other):
        pass
    with Journal(path, other) as journal:
        journal.add(entry("b"))
    whole = collection_journal.read(path).baseline()
    assert [item.model for item in whole.records] == ["a", "a", "b", "b"]
    assert whole.unmeasured == ()
    assert [item.run for item in whole.records] == [0, 0, 1, 1]
    first = {"created": "2026-01-01", "seed": 0, "models": 1, "environment": {"cores": 2}}
    second = {"created": "2026-01-01", "seed": 1, "models": 1}
    assert whole.environment == {"cores": 4, "runs": [first, second]}


def test_a_journal_is_written_by_one_collection_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "out.journal.jsonl"
    with (
        Journal(path, RUN),
        pytest.raises(InvalidRequestError, match="by another collection"),
    ):
        Journal(path, RUN)


def test_a_line_that_is_no_journals_is_named(tmp_path: Path) -> None:
    path = tmp_path / "out.journal.jsonl"
    with Journal(path, RUN) as journal:
        journal.add(entry("a"))
    with path.open("a", encoding="utf-8") as stream:
        stream.write('{"entry": {"model": 3}}\n')
    with pytest.raises(InvalidRequestError, match=r"line 3, entry\.model: .* valid string"):
        collection_journal.read(path)


# The command


def collect(out: Path, models: tuple[str, ...], *more: str) -> int:
    return collect_baselines.main(["--models", *models, "--out", str(out), *more])


def test_what_the_journal_holds_is_not_measured_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json.gz"
    with Journal(collect_baselines.journal_path(out), RUN) as journal:
        journal.add(entry("plain:mlp"))
    assert collect(out, ("plain:mlp",)) == 0
    told = capsys.readouterr().out
    assert "1 models, 0 of them not in out.journal.jsonl" in told
    assert "the runs differ in timeout_seconds: None, 120.0" in told
    kept = [item.model_copy(update={"run": None}) for item in baseline.read(out).records]
    assert tuple(kept) == entry("plain:mlp").records


def test_a_collection_without_its_journal_goes_on_from_the_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json.gz"
    path = collect_baselines.journal_path(out)
    with Journal(path, RUN) as journal:
        journal.add(entry("plain:mlp"))
        journal.add(
            Entry(model="plain:cnn", unmeasured=REFUSED.model_copy(update={"model": "plain:cnn"}))
        )
    assert collect(out, ("plain:mlp", "plain:cnn")) == 0
    first, lines = baseline.read(out), path.read_bytes()
    path.unlink()
    assert collect(out, ("plain:mlp", "plain:cnn")) == 0
    again = baseline.read(out)
    assert (again.records, again.unmeasured) == (first.records, first.unmeasured)
    assert again.environment == first.environment
    assert path.read_bytes() == lines
    path.unlink()
    out.write_text("no baseline", encoding="utf-8")
    assert collect(out, ("plain:mlp",)) == 2
    assert "is not JSON" in capsys.readouterr().err
    assert out.read_text(encoding="utf-8") == "no baseline"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--candidates", "htp[statik]"], "did you mean 'htp[static]'"),
        (["--models", "tiny:bart2"], "did you mean 'tiny:bart'"),
        (["--models", "tine:*"], "did you mean 'tiny'"),
        (["--memory", "much"], "'much' is no size"),
        (["--backend", "dask"], "go together"),
        (["--scheduler", "tcp://127.0.0.1:1"], "go together"),
        (["--jobs", "0"], "at least 1"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_measured(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        collect_baselines.main([*arguments, "--out", "never.json"])
    assert message in capsys.readouterr().err


def test_twins_are_drawn_for_about_a_fifth_of_the_models_always_the_same() -> None:
    names = [f"tiny:{number}" for number in range(500)]
    drawn = [name for name in names if is_drawn(name, 0)]
    assert 70 < len(drawn) < 130
    assert drawn[:3] == ["tiny:3", "tiny:5", "tiny:8"]
    assert [name for name in names if is_drawn(name, 1)] != drawn


def test_progress_is_a_line_for_each_model_where_there_is_no_terminal() -> None:
    console = Console(width=200, force_terminal=False)
    with console.capture() as capture, Reporter(2, console) as reporter:
        reporter.tell(entry("a[b]"))
        reporter.tell(Entry(model="b", unmeasured=REFUSED))
    lines = capture.get().splitlines()
    assert lines[0].startswith("[1/2, 0:00:0")
    assert lines[0].endswith("left] a[b]: 1 of 2 candidates are right (0.0 s)")
    assert "0:00:00 left] b: not measured: study: InvalidRequestError: no inputs" in lines[1]


def test_progress_is_a_bar_on_a_terminal() -> None:
    console = Console(width=200, force_terminal=True, color_system=None)
    with console.capture() as capture, Reporter(2, console) as reporter:
        reporter.tell(entry("a"))
    assert "1/2 0:00:00 left" in capture.get()


@pytest.mark.slow
def test_twins_are_measured_where_the_first_failed_or_where_asked(tmp_path: Path) -> None:
    assert not is_drawn("plain:cnn", 0)
    assert not is_drawn("plain:branch", 0)
    tried = {}
    for twins, models in (("sample", ("plain:cnn", "plain:branch")), ("all", ("plain:cnn",))):
        out = tmp_path / f"{twins}.json"
        more = ("--twins", twins, "--jobs", "1", "--candidates", *FAST)
        assert collect(out, models, *more) == 0
        tried[twins] = [
            (item.model, item.candidate.weights, item.success)
            for item in baseline.read(out).records
        ]
    assert tried["sample"] == [
        ("plain:cnn", "void", True),
        ("plain:branch", "void", False),
        ("plain:branch", "real", False),
    ]
    assert tried["all"] == [("plain:cnn", "void", True), ("plain:cnn", "real", True)]


def test_a_model_that_cannot_be_had_is_told_and_tried_again_only_when_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, folder = tmp_path / "out.json", tmp_path / "bert"
    more = ("--candidates", "usage_based[static,void]", "--jobs", "1")
    assert collect(out, (str(folder),), *more) == 0
    (refused,) = baseline.read(out).unmeasured
    assert refused.run == 0
    assert (refused.model, refused.stage, refused.error_type) == (
        str(folder),
        "load",
        "ModelLoadError",
    )
    assert "not measured: load: ModelLoadError: " in capsys.readouterr().out

    tiny_config("bert").save_pretrained(folder)
    assert collect(out, (str(folder),), *more) == 0
    assert baseline.read(out).unmeasured == (refused,)
    assert collect(out, (str(folder),), *more, "--retry-failed") == 0
    whole = baseline.read(out)
    assert whole.unmeasured == ()
    (measured,) = whole.records
    assert (measured.model_type, measured.success) == ("bert", True)


def test_the_same_seed_gives_the_same_labels(tmp_path: Path) -> None:
    models = ("plain:mlp", "plain:branch", "tiny:vit")
    files = [tmp_path / name for name in ("first.json", "again.json.gz")]
    for file in files:
        assert collect(file, models, "--jobs", "1", "--candidates", *FAST, "htp[static]") == 0
    found = compare_baselines.compare(*map(baseline.read, files))
    assert (found.common, found.other) == (8, ())
    assert (found.first_only, found.second_only) == (0, 0)


def test_labels_that_differ_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    records = [record(model=f"m{number}") for number in range(50)]
    changed = record(model="m3", success=False, error_type="CaptureError", error="no lowering")
    files = [str(tmp_path / name) for name in ("first.json", "second.json")]
    baseline.write(baseline.new_baseline(records), Path(files[0]))
    baseline.write(baseline.new_baseline([*records[:3], changed, *records[4:49]]), Path(files[1]))
    assert compare_baselines.main(files) == 1
    assert capsys.readouterr().out.splitlines() == [
        "m3 htp[dynamic]: right, then CaptureError (no lowering)",
        "48 of 49 labels are equal (97.96%)",
        "only in the first: 1, only in the second: 0",
    ]
    assert compare_baselines.main([*files, "--at-least", "0.97"]) == 0
    assert compare_baselines.main([files[0], str(tmp_path / "missing.json")]) == 2


def test_a_model_of_real_size_is_loaded_as_a_users_is(tmp_path: Path) -> None:
    with collection_models.had("real:segformer-b0", 0, Limits()) as subject:
        assert isinstance(subject.model, str)
        folder = Path(subject.model)
        source = resolve(folder)
        assert (source.kind, source.name) == ("folder", "segformer-b0")
        assert sum(file.stat().st_size for file in folder.iterdir()) > 10e6
    assert not folder.parent.exists()


@pytest.mark.parametrize(
    ("pattern", "first"),
    [("base:ber*", "base:bert"), ("head:BertFor*", "head:BertForMaskedLM")],
)
def test_patterns_name_models_of_the_zoo(pattern: str, first: str) -> None:
    found = collection_models.expand(["some/id", pattern, first])
    assert found[0] == "some/id"
    assert first in found
    assert len(found) == len(set(found)) > 2


def test_all_models_are_those_that_run() -> None:
    bases = collection_models.expand(["base:*"])
    assert len(bases) >= 540
    assert all(census()[name].status == RUNS for name in bases)
    assert 150 <= len(collection_models.expand(["head:*"])) <= 200


@pytest.mark.slow
def test_one_model_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    chosen = ("usage_based[dynamic]", "usage_based[dynamic,scripted]")
    assert collect(out, ("plain:branch",), "--jobs", "1", "--candidates", *chosen) == 0
    whole = baseline.read(out)
    scripted, traced = whole.records
    assert (scripted.candidate.scripted, scripted.success) == (True, True)
    assert (traced.success, traced.error_type) == (False, "VerificationError")
    assert scripted.features is not None
    (run,) = whole.environment["runs"]
    assert (run["seed"], run["timeout_seconds"], run["memory_bytes"]) == (0, 120.0, 4 << 30)


# Killed in the middle


@pytest.mark.parametrize("jobs", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_a_collection_that_was_killed_goes_on_and_every_record_is_there_once(
    tmp_path: Path, jobs: str
) -> None:
    out = tmp_path / "out.json"
    journal = collect_baselines.journal_path(out)
    arguments = ("--models", *PLAIN, "--candidates", *FAST, "--jobs", jobs, "--out", str(out))
    command = [sys.executable, "-m", "scripts.collect_baselines", *arguments]
    started = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    wait_for_models(journal, 2)
    before = collection_journal.read(journal).entries
    helpers = psutil.Process(started.pid).children(recursive=True)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL
    assert not out.exists()
    assert helpers
    _, left = psutil.wait_procs(helpers, timeout=20)
    assert left == []

    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    after = collection_journal.read(journal).entries
    assert before.items() <= after.items()
    told = [line for line in ended.stdout.splitlines() if "candidates are right" in line]
    assert len(told) <= len(PLAIN) - len(before)
    records = baseline.read(out).records
    tried = [(item.model, str(item.candidate.candidate())) for item in records]
    assert len(tried) == len(set(tried))
    assert {model for model, _ in tried} == set(PLAIN)
    assert measured_models(journal) == sorted(PLAIN)


@pytest.mark.parametrize("jobs", [pytest.param("1", marks=pytest.mark.slow), "2"])
def test_a_collection_that_is_asked_to_end_writes_what_it_has(tmp_path: Path, jobs: str) -> None:
    out = tmp_path / "out.json"
    journal = collect_baselines.journal_path(out)
    arguments = ("--models", *PLAIN, "--candidates", *FAST, "--jobs", jobs, "--out", str(out))
    command = [sys.executable, "-m", "scripts.collect_baselines", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as collector:
        wait_for_models(journal, 1)
        helpers = psutil.Process(collector.pid).children(recursive=True)
        collector.terminate()
        told = collector.communicate()[0].decode()
    assert collector.returncode == collect_baselines.INTERRUPTED, told
    assert "Traceback" not in told
    _, left = psutil.wait_procs(helpers, timeout=20)
    assert left == []
    measured = {item.model for item in baseline.read(out).records}
    assert measured == set(measured_models(journal))
    assert 1 <= len(measured) < len(PLAIN)


def test_a_worker_that_is_killed_does_not_end_the_collection(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    journal = collect_baselines.journal_path(out)
    arguments = ("--models", *PLAIN, "--candidates", *FAST, "--jobs", "2", "--out", str(out))
    command = [sys.executable, "-m", "scripts.collect_baselines", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as collector:
        wait_for_models(journal, 1)
        workers = psutil.Process(collector.pid).children()
        busy = [item for item in workers if item.children()]
        busy[0].kill()
    assert collector.returncode == 0
    whole = baseline.read(out)
    assert whole.unmeasured == ()
    assert {item.model for item in whole.records} == set(PLAIN)
    assert measured_models(journal) == sorted(PLAIN)


def test_a_cluster_that_is_not_there_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT", "1s")
    dask.config.refresh()
    where = ("--backend", "dask", "--scheduler", "tcp://127.0.0.1:9")
    assert collect(tmp_path / "out.json", ("plain:mlp",), *where) == 2
    assert "no worker of tcp://127.0.0.1:9 can be had" in capsys.readouterr().err


def test_on_a_cluster_whose_worker_is_killed_every_record_arrives_once(
    tmp_path: Path, cluster: Cluster
) -> None:
    out = tmp_path / "out.json"
    journal = collect_baselines.journal_path(out)
    where = ("--backend", "dask", "--scheduler", cluster.address)
    arguments = ("--models", *PLAIN, "--candidates", *FAST, *where, "--out", str(out))
    command = [sys.executable, "-m", "scripts.collect_baselines", *arguments]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as collector:
        wait_for_models(journal, 1)
        # Both of them have a model under way, as long as there are more than two left.
        cluster.workers[0].kill()
        left = len(PLAIN) - len(collection_journal.read(journal).entries)
    assert collector.returncode == 0
    assert left > 2
    records = baseline.read(out).records
    tried = [(item.model, str(item.candidate.candidate())) for item in records]
    assert len(tried) == len(set(tried))
    assert {model for model, _ in tried} == set(PLAIN)
    assert measured_models(journal) == sorted(PLAIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    address: str
    workers: tuple[subprocess.Popen[bytes], ...]


@pytest.fixture
def cluster(root: Path, tmp_path: Path) -> Iterator[Cluster]:
    """A Dask scheduler and two workers, each a process of its own, on loopback."""
    dask = [sys.executable, "-m", "dask"]
    file = tmp_path / "scheduler.json"
    local = ["--scheduler-file", str(file), "--no-dashboard"]
    at = ["--host", "127.0.0.1", "--port", "0"]
    own = ["--nthreads", "1", "--no-nanny", "--local-directory", str(tmp_path)]
    with (
        (tmp_path / "dask.log").open("wb") as log,
        contextlib.ExitStack() as stack,
    ):

        def start(*arguments: str) -> subprocess.Popen[bytes]:
            begun = subprocess.Popen([*dask, *arguments], cwd=root, stdout=log, stderr=log)
            stack.enter_context(begun)
            stack.callback(begun.kill)
            return begun

        start("scheduler", *local, *at)
        workers = (start("worker", *local, *own), start("worker", *local, *own))
        wait_until(file.exists)
        address = json.loads(file.read_text(encoding="utf-8"))["address"]
        wait_until(lambda: log_of(tmp_path).count("Register worker") == 2)
        yield Cluster(address=address, workers=workers)


def log_of(folder: Path) -> str:
    return (folder / "dask.log").read_text(encoding="utf-8")


def measured_models(journal: Path) -> list[str]:
    """The models of all lines, also where one stands in several."""
    lines = [json.loads(line) for line in journal.read_text(encoding="utf-8").splitlines()]
    return sorted(line["entry"]["model"] for line in lines if "entry" in line)


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def wait_for_models(journal: Path, count: int) -> None:
    wait_until(lambda: len(collection_journal.read(journal).entries) >= count)
