"""Attempts that crash, hang, grow and raise, in real processes."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from strategies.errors import (
    AttemptCrashedError,
    AttemptOutOfMemoryError,
    AttemptTimeoutError,
    CaptureError,
    InvalidRequestError,
)
from strategies.isolation import Limits, Session


@dataclass
class Loaded:
    pid: int

    def summary(self) -> int:
        return self.pid


def load() -> Loaded:
    return Loaded(pid=os.getpid())


def pids(loaded: Loaded) -> tuple[int, int]:
    return loaded.pid, os.getpid()


def segfault(_: Loaded) -> None:
    ctypes.string_at(0)


def leave(_: Loaded) -> None:
    os._exit(3)


def sleep(_: Loaded) -> None:
    time.sleep(60)


def grow(_: Loaded) -> int:
    blocks = []
    for _block in range(400):
        blocks.append(bytearray(os.urandom(1 << 20)) * 16)
        time.sleep(0.01)
    return len(blocks)


def allocate_too_much(_: Loaded) -> None:
    import torch

    torch.empty(1 << 50)


def killed_by_the_system(_: Loaded) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raise_bug(_: Loaded) -> None:
    raise KeyError("a bug")


def raise_with_cause(_: Loaded) -> None:
    cause = ValueError("from the exporter")
    raise CaptureError("no graph", strategy="fake", stage="capture") from cause


def threads_and_product(_: Loaded) -> tuple[int, float]:
    import torch

    return torch.get_num_threads(), float((torch.ones(600, 600) @ torch.ones(600, 600)).sum())


def has_wave(_: Loaded) -> bool:
    return "wave" in sys.modules


def make_a_lambda(_: Loaded) -> object:
    return lambda: 1


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    with Session() as opened:
        opened.load(load)
        yield opened


def test_attempts_are_forked_from_the_session_that_loaded(session: Session) -> None:
    first, second = (session.attempt(pids).value() for _ in range(2))
    assert first[0] == second[0]
    assert len({os.getpid(), first[0], first[1], second[1]}) == 4


def test_segfault_is_a_crash_that_says_where(session: Session) -> None:
    error = session.attempt(segfault).error
    assert isinstance(error, AttemptCrashedError)
    assert error.signal == signal.SIGSEGV
    assert "string_at" in str(error)


def test_exit_without_a_result_is_a_crash(session: Session) -> None:
    error = session.attempt(leave).error
    assert isinstance(error, AttemptCrashedError)
    assert error.signal is None
    assert "code 3" in str(error)


def test_hang_is_stopped_at_the_time_limit(session: Session) -> None:
    outcome = session.attempt(sleep, limits=Limits(seconds=0.5))
    assert isinstance(outcome.error, AttemptTimeoutError)
    assert 0.5 <= outcome.seconds < 5


def test_growth_is_stopped_at_the_memory_limit(session: Session) -> None:
    limit = 700_000_000
    outcome = session.attempt(grow, limits=Limits(memory_bytes=limit))
    assert isinstance(outcome.error, AttemptOutOfMemoryError)
    assert limit < outcome.peak_rss_bytes < 2 * limit


def test_refused_allocation_is_out_of_memory(session: Session) -> None:
    assert isinstance(session.attempt(allocate_too_much).error, AttemptOutOfMemoryError)


def test_sigkill_from_outside_is_out_of_memory(session: Session) -> None:
    assert isinstance(session.attempt(killed_by_the_system).error, AttemptOutOfMemoryError)


def test_bug_keeps_its_type_and_brings_its_traceback(session: Session) -> None:
    outcome = session.attempt(raise_bug)
    with pytest.raises(KeyError, match="a bug") as caught:
        outcome.value()
    assert "raise_bug" in "".join(caught.value.__notes__)


def test_strategy_error_keeps_its_attributes_and_cause(session: Session) -> None:
    error = session.attempt(raise_with_cause).error
    assert isinstance(error, CaptureError)
    assert (error.strategy, error.stage, error.reason) == ("fake", "capture", "no graph")
    assert isinstance(error.__cause__, ValueError)


def test_a_result_that_cannot_travel_is_an_error(session: Session) -> None:
    assert isinstance(session.attempt(make_a_lambda).error, RuntimeError)


def test_parallel_regions_run_after_the_forks(session: Session) -> None:
    cores = len(os.sched_getaffinity(0))
    for _ in range(3):
        assert session.attempt(threads_and_product).value() == (cores, 600.0**3)


def test_the_session_outlives_every_failure(session: Session) -> None:
    before = session.attempt(pids).value()[0]
    for function in (segfault, leave, killed_by_the_system):
        session.attempt(function)
    assert session.attempt(pids).value()[0] == before


def test_load_error_reaches_the_caller() -> None:
    with Session() as opened, pytest.raises(KeyError, match="a bug"):
        opened.load(raise_bug, None)


def test_the_asking_process_works_while_the_session_loads() -> None:
    with Session() as opened:
        done: list[int] = []
        held = opened.load(load, meanwhile=lambda: done.append(os.getpid()))
        assert done == [os.getpid()]
        assert opened.attempt(pids).value()[0] == held


def raise_meanwhile() -> None:
    raise KeyError("a bug")


def test_failing_meanwhile_ends_the_session(tmp_path: Path) -> None:
    with Session(tmp_path) as opened:
        with pytest.raises(KeyError, match="a bug"):
            opened.load(load, meanwhile=raise_meanwhile)
        assert isinstance(opened.attempt(pids).error, AttemptCrashedError)


def test_what_cannot_be_imported_ahead_is_no_fault() -> None:
    with Session(imports=("no.such.module", "wave")) as opened:
        opened.load(load)
        assert opened.attempt(has_wave).value()


def test_crash_while_loading_is_reported() -> None:
    with Session() as opened, pytest.raises(AttemptCrashedError):
        opened.load(segfault, None)


def test_leaving_kills_what_runs_and_removes_what_was_staged(tmp_path: Path) -> None:
    with Session(tmp_path) as opened:
        held = opened.load(load)
        (opened.folder("x") / "file").write_text("partial")
        assert list(tmp_path.rglob("file"))
    assert list(tmp_path.iterdir()) == []
    _wait_until_gone(held)


ASKER = """
import sys, time
from pathlib import Path
from strategies.isolation import Session
from tests.test_isolation import load, sleep
session = Session(Path(sys.argv[1]))
pid = session.load(load)
(session.folder("x") / "file").write_text("partial")
print(pid, flush=True)
session.attempt(sleep)
"""


def test_everything_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    asker = subprocess.Popen(
        [sys.executable, "-c", ASKER, str(tmp_path)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parent.parent,
    )
    assert asker.stdout is not None
    held = int(asker.stdout.readline())
    with asker:
        asker.kill()
    _wait_until_gone(held)
    deadline = time.monotonic() + 10
    while list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.iterdir()) == []


def _wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while psutil.pid_exists(pid) and time.monotonic() < deadline:
        if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return
        time.sleep(0.05)
    assert not psutil.pid_exists(pid)


def test_a_folder_that_the_system_refuses_is_said_to_be_so() -> None:
    with (
        Session(Path("/proc")) as session,
        pytest.raises(InvalidRequestError, match="cannot write in /proc"),
    ):
        session.folder("out")
