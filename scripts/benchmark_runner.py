"""Runs the benchmark's tasks one after the other, each in a fresh process under a time limit."""

from __future__ import annotations

import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

from scripts import benchmark_plan as plan
from scripts.benchmark_journal import Journal, Result
from scripts.benchmark_meter import tree_memory
from scripts.benchmark_plan import Section, Task
from scripts.benchmark_server import Server
from strategies.base import MODEL_FILE

ROOT = Path(__file__).resolve().parent.parent
# Preparing a model includes running it several times.
PREPARE_SECONDS = 1800.0
# Seconds between two looks at a process, and how many times a look's own duration at least:
# to count the pages of several gigabytes holds up whoever asks for more of them.
WATCH_INTERVAL = 0.2
WATCH_PAUSE = 50.0
# They work in several processes, whose memory can only be looked at from outside.
SAMPLED = frozenset({plan.VERIFIED, plan.UNVERIFIED})
# They leave a file that the next side of the round runs.
KEPT = frozenset({plan.VERIFIED, plan.COMMAND})
FOLLOWERS = frozenset({plan.PARTS, plan.BARE})

ONE_THREAD = {"OMP_NUM_THREADS": "1"}
QUIET = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "PYTHONWARNINGS": "ignore"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one run may use; past it, the run is stopped and recorded as such.

    Attributes:
        seconds: Wall seconds, imports and loading included.
        memory_bytes: Memory of all its processes together.
    """

    seconds: float
    memory_bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How a process ended.

    Attributes:
        error: Why there is no result, or an empty string.
        wall: Seconds from start to end.
        memory: Bytes of the largest memory of all its processes together, as seen from outside.
    """

    error: str
    wall: float
    memory: int


class Runner:
    """Runs what the journal does not have yet.

    Args:
        work: Folder for models and files on their way.
        journal: Where results go.
        limits: Of one run.
    """

    def __init__(self, *, work: Path, journal: Journal, limits: Limits) -> None:
        self._work = work
        self._journal = journal
        self._limits = limits
        self._warm = False
        self._walls: dict[tuple[str, str], list[float]] = {}
        self._servers: dict[str, Server] = {}

    def run(self, tasks: Sequence[tuple[Task, Section]]) -> None:
        """Runs tasks in their order and prints a line for each."""
        try:
            self._run(tasks)
        finally:
            for server in self._servers.values():
                server.close()

    def _run(self, tasks: Sequence[tuple[Task, Section]]) -> None:
        left = [(task, section) for task, section in tasks if not self._journal.settled(task)]
        for index, (task, section) in enumerate(left):
            if self._journal.settled(task):
                continue
            started = time.perf_counter()
            result = self._result(task, section)
            self._journal.add_run(task, result)
            spent = time.perf_counter() - started
            self._walls.setdefault((task.section, task.side), []).append(spent)
            minutes = self._seconds_left([task for task, _ in left[index + 1 :]]) / 60
            print(
                f"[{index + 1}/{len(left)}] {task}: {_said(result)}; about {minutes:.0f} min left",
                flush=True,
            )

    def _result(self, task: Task, section: Section) -> Result:
        try:
            facts = self._prepared(task.model)
            if task.side in plan.EXPORTERS:
                self._rehearse(task.side, section)
            elif task.side in SAMPLED:
                self._prepared(plan.REHEARSAL)
            elif task.side == plan.COMMAND and not self._warm:
                # Cold is the process, not the disk.
                self._measured(task, section, facts)
                self._warm = True
            return self._measured(task, section, facts)
        except _FailedError as error:
            return {"error": str(error)}

    def _seconds_left(self, tasks: Iterable[Task]) -> float:
        every = [wall for walls in self._walls.values() for wall in walls]
        return sum(
            statistics.mean(self._walls.get((task.section, task.side), every))
            for task in tasks
            if not self._journal.settled(task)
        )

    # One run

    def _rehearse(self, side: str, section: Section) -> None:
        """Lets a side tell once, on a tiny model, what it imports."""
        known = self._modules(side)
        if not known.is_file():
            facts = self._prepared(plan.REHEARSAL)
            task = Task(section="rehearsal", model=plan.REHEARSAL, side=side, round=0)
            self._measured(task, section, facts)
            if self._modules(side, plan.REHEARSAL).is_file():
                shutil.copy(self._modules(side, plan.REHEARSAL), known)

    def _modules(self, side: str, model: str = "any") -> Path:
        return self._work / "imports" / f"{side}--{model}.json"

    def _measured(self, task: Task, section: Section, facts: dict[str, Any]) -> Result:
        out = self._work / "files" / task.model
        if task.side not in FOLLOWERS:
            shutil.rmtree(out, ignore_errors=True)
            if not section.forked:
                # What an earlier run wrote must not be on its way to the disk during this one.
                os.sync()
            out.mkdir(parents=True)
        order, answer = self._work / "order.json", self._work / "result.json"
        order.write_text(json.dumps(self._order(task, facts, out)))
        answer.unlink(missing_ok=True)
        if section.forked and task.round:
            ended = self._forked(task.side, order, answer)
        else:
            command = _command(task, order, answer, json.loads(order.read_text()))
            ended = _process(
                command, self._work / "log.txt", self._limits, one_thread=section.one_thread
            )
        if task.side not in KEPT:
            shutil.rmtree(out, ignore_errors=True)
        result: Result = json.loads(answer.read_text()) if answer.is_file() else {}
        if ended.error and "error" not in result:
            result["error"] = ended.error
        return result | {"wall": ended.wall, "memory": ended.memory}

    def _forked(self, side: str, order: Path, answer: Path) -> Ended:
        """A run in a process that a side's server forks."""
        log = self._work / f"log-{side}.txt"
        server = self._servers.get(side)
        if server is None or not server.alive:
            environment = {**os.environ, **QUIET, **ONE_THREAD}
            server = Server(self._modules(side), log, cwd=ROOT, environment=environment)
            self._servers[side] = server
        clock = time.perf_counter()
        watch = _Watch(server.pid, self._limits)
        try:
            code = server.run(order, answer)
            wall = time.perf_counter() - clock
        finally:
            watch.end()
        return Ended(error=watch.stopped or _why(code, log), wall=wall, memory=watch.memory)

    def _order(self, task: Task, facts: dict[str, Any], out: Path) -> dict[str, Any]:
        folder = self._work / "models" / task.model
        modules = self._modules(task.side, task.model)
        modules.parent.mkdir(exist_ok=True)
        if not modules.is_file() and self._modules(task.side).is_file():
            shutil.copy(self._modules(task.side), modules)
        return {
            "side": task.side,
            "checkpoint": str(folder / "checkpoint"),
            "recipe": str(folder / "recipe.pt"),
            "tiny": str(folder.with_name(plan.REHEARSAL) / "checkpoint"),
            "class": facts["class"],
            "out": str(out),
            "modules": str(modules),
            "weights": "link" if task.side == plan.LINKED else "copy",
            "verify": "full" if task.side == plan.VERIFIED else "off",
        }

    def _prepared(self, model: str) -> dict[str, Any]:
        """Makes a model where it is missing; returns what is known of it."""
        folder = self._work / "models" / model
        file = folder / "facts.json"
        if not file.is_file():
            print(f"making {model}", flush=True)
            command = [sys.executable, "-m", "scripts.benchmark_models", model, str(folder)]
            limits = replace(self._limits, seconds=PREPARE_SECONDS)
            ended = _process(command, self._work / "log.txt", limits)
            if ended.error:
                raise _FailedError(f"the model could not be made: {ended.error}")
        facts: dict[str, Any] = json.loads(file.read_text())
        self._journal.add_facts(model, facts)
        return facts


class _FailedError(Exception):
    """A run that cannot take place."""


def _command(task: Task, order: Path, answer: Path, content: dict[str, Any]) -> list[str]:
    file = f"{content['out']}/{MODEL_FILE}"
    if task.side == plan.COMMAND:
        program = Path(sys.executable).with_name("autoexport")
        return [str(program), "export", content["checkpoint"], "-o", file]
    module = [sys.executable, "-m"]
    if task.side == plan.BARE:
        values = [content[key] for key in ("checkpoint", "class", "recipe")]
        return [*module, "scripts.benchmark_bare", *values, file]
    if task.side == plan.PARTS:
        return [*module, "scripts.benchmark_parts", str(order), str(answer)]
    program_name = "product" if task.side in SAMPLED else "exporters"
    return [*module, f"scripts.benchmark_{program_name}", str(order), str(answer)]


def _process(
    command: Sequence[str], log: Path, limits: Limits, *, one_thread: bool = True
) -> Ended:
    """Runs a command to its end, or to its limits."""
    threads = ONE_THREAD if one_thread else {}
    with log.open("w") as stream:
        clock = time.perf_counter()
        process = subprocess.Popen(  # noqa: S603 - this interpreter, our own programs
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            cwd=ROOT,
            env={**os.environ, **QUIET, **threads},
            start_new_session=True,
        )
        watch = _Watch(process.pid, limits)
        try:
            # Not with a timeout, which would look at the process only every so often.
            process.wait()
            wall = time.perf_counter() - clock
        except BaseException:
            _kill(process.pid)
            raise
        finally:
            watch.end()
    error = watch.stopped or _why(process.returncode, log)
    return Ended(error=error, wall=wall, memory=watch.memory)


class _Watch(threading.Thread):
    """Keeps an eye on a process and all that it starts, and stops them past their limits.

    Attributes:
        memory: The largest number of bytes that was seen.
        stopped: Why it was stopped, or an empty string.
    """

    def __init__(self, pid: int, limits: Limits) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._limits = limits
        self._ended = threading.Event()
        self.memory = 0
        self.stopped = ""
        self.start()

    def run(self) -> None:
        """Looks until the process ends."""
        deadline = time.perf_counter() + self._limits.seconds
        pause = WATCH_INTERVAL
        while not self._ended.wait(pause):
            clock = time.perf_counter()
            self.memory = max(self.memory, tree_memory(self._pid))
            pause = max(WATCH_INTERVAL, WATCH_PAUSE * (time.perf_counter() - clock))
            if self.memory > self._limits.memory_bytes:
                self.stopped = f"stopped at {self.memory / 1e9:.1f} GB"
            elif time.perf_counter() > deadline:
                self.stopped = f"stopped after {self._limits.seconds:g} s"
            if self.stopped:
                _kill(self._pid)
                break

    def end(self) -> None:
        """Stops looking."""
        self._ended.set()
        self.join()


def _kill(pid: int) -> None:
    try:
        process = psutil.Process(pid)
        for member in (*process.children(recursive=True), process):
            member.kill()
    except psutil.NoSuchProcess:
        pass


def _why(code: int, log: Path) -> str:
    if code == 0:
        return ""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {code}"


def _said(result: Result) -> str:
    if "error" in result:
        return str(result["error"])[:100]
    if "export" in result:
        cost = result["export"]
        peak = cost["peak"] or result["memory"]
        return f"{cost['cpu']:.2f} s CPU, {cost['wall']:.2f} s, {peak / 1e6:.0f} MB"
    return f"{result['wall']:.2f} s"
