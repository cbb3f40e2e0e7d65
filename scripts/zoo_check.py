"""Builds and runs every model of the zoo in a process of its own, and says what came of it."""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import re
import resource
import signal
import textwrap
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import torch
import transformers

from scripts import zoo
from scripts.shrinking import LADDER
from selector.eager import Eager
from selector.inputs import make_inputs
from strategies.registry import unknown_name_message

RUNS, BUILDS, FAILS = "runs", "builds", "fails"
SECONDS = 60.0
BYTES = 4 << 30
# Tried before any fork, so that all children share what they import.
AHEAD = ("base:bert", "base:clip")
SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What came of one model.

    Attributes:
        name: As the zoo lists it.
        status: `runs` eager, only `builds`, or `fails` to build.
        level: The rung of the ladder that it was built on; None where none builds.
        parameters: How many numbers the model holds.
        seconds: Wall seconds for all rungs that were tried.
        error: Why it does not run, or does not build, on the first rung.
    """

    name: str
    status: str
    level: int | None = None
    parameters: int = 0
    seconds: float = 0.0
    error: str | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the models asked for; returns the exit code."""
    options = _parse(arguments)
    names = options.only or [name for kind in options.kind for name in zoo.names(kind)]
    clock = time.monotonic()
    findings = []
    for finding in check(names, jobs=options.jobs):
        findings.append(finding)
        if finding.error:
            print(f"{finding.name}: {finding.status}: {finding.error}", flush=True)
    print_summary(findings, time.monotonic() - clock)
    if options.out:
        write(findings, options.out)
    return 0


def write(findings: Sequence[Finding], path: Path) -> None:
    """Writes them as JSON, one line a model, in the order of their names."""
    lines = [json.dumps(asdict(item)) for item in sorted(findings, key=lambda item: item.name)]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def print_summary(findings: Sequence[Finding], seconds: float) -> None:
    """Prints how many run, and which fail alike."""
    count = collections.Counter(item.status for item in findings)
    print(f"\n{len(findings)} models in {seconds:.0f} s: {count[RUNS]} run, ", end="")
    print(f"{count[BUILDS]} more build, {count[FAILS]} do not")
    levels = collections.Counter(item.level for item in findings if item.level is not None)
    print("by rung:", ", ".join(f"{level}: {levels[level]}" for level in sorted(levels)))
    slow = sorted(findings, key=lambda item: -item.seconds)[:SHOWN]
    print("slowest:", ", ".join(f"{item.name} {item.seconds:.0f} s" for item in slow))
    alike = collections.defaultdict(list)
    for item in findings:
        if item.error:
            alike[item.status, re.sub(r"\d+|'[^']*'", "#", item.error)].append(item)
    for (status, _), items in sorted(alike.items(), key=lambda pair: -len(pair[1])):
        shown = " ".join(item.name for item in items[:SHOWN])
        print(f"{len(items):3} {status}: {items[0].error}\n      {shown}")


def check(names: Sequence[str], *, jobs: int = 1) -> Iterator[Finding]:
    """What came of each model, in the order in which they end.

    Args:
        names: As the zoo lists them.
        jobs: How many children run at a time.
    """
    torch.set_num_threads(1)
    quiet: Any = transformers.logging.set_verbosity_error
    quiet()
    for name in AHEAD:
        collections.deque(find_out(name), maxlen=0)
    waiting = collections.deque(names)
    children: dict[Connection, _Child] = {}
    while waiting or children:
        while waiting and len(children) < jobs:
            child = _Child(waiting.popleft())
            children[child.end] = child
        patience = min(child.deadline for child in children.values()) - time.monotonic()
        wait(list(children), timeout=max(patience, 0))
        for end, child in list(children.items()):
            if child.has_ended():
                del children[end]
                yield child.finding


class _Child:
    """A process that tries one model, and the best that it has reported."""

    def __init__(self, name: str) -> None:
        context = multiprocessing.get_context("fork")
        self.end, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_report, args=(name, theirs), daemon=True)
        self._process.start()
        theirs.close()
        self.started = time.monotonic()
        self.deadline = self.started + SECONDS
        self.finding = Finding(name=name, status=FAILS, error="the process ended without a word")

    def has_ended(self) -> bool:
        """Reads what was reported; ends the process where its time is up."""
        try:
            while self.end.poll():
                self.finding = self.end.recv()
        except EOFError:
            self._process.join()
            return True
        if time.monotonic() < self.deadline:
            return False
        self._process.kill()
        self._process.join()
        seconds = time.monotonic() - self.started
        late = "" if self.finding.level is not None else f"not built within {SECONDS:.0f} s"
        self.finding = replace(
            self.finding, seconds=seconds, error=late or self.finding.error or "timed out"
        )
        return True


def _report(name: str, end: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (BYTES, BYTES))
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    for finding in find_out(name):
        end.send(finding)


def find_out(name: str) -> Iterator[Finding]:
    """Climbs the ladder to the first rung whose model runs.

    Yields:
        What is known so far, each one better than the one before.
    """
    clock = time.perf_counter()
    best = Finding(name=name, status=FAILS)
    for level in range(len(LADDER)):
        try:
            module = zoo.build_rung(name, level)
        except Exception as error:  # noqa: BLE001 - classes refuse configs in any way they like
            best = replace(best, error=best.error or _said(error))
            continue
        size = sum(item.numel() for item in module.parameters())
        found = replace(best, status=BUILDS, level=level, parameters=size)
        if best.level is None:
            yield replace(found, error=f"still trying after {SECONDS:.0f} s")
        refusal = _refusal(module)
        found = replace(found, error=refusal, seconds=time.perf_counter() - clock)
        if refusal is None:
            yield replace(found, status=RUNS)
            return
        if best.level is None:
            best = found
    yield replace(best, seconds=time.perf_counter() - clock)


def _refusal(module: Any) -> str | None:
    try:
        make_inputs(module, module.config, eager=Eager(module))
    except Exception as error:  # noqa: BLE001 - models refuse inputs in any way they like
        return _said(error)
    return None


def _said(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = textwrap.shorten(" ".join(str(error).split()), 240, placeholder="…")
    return f"{type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", required=True)
    parser.add_argument("--kind", nargs="+", choices=zoo.KINDS, default=list(zoo.KINDS))
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[])
    parser.add_argument("--jobs", type=int, choices=(1, 2), default=1)
    parser.add_argument("--out", type=Path, metavar="FILE")
    options = parser.parse_args(arguments)
    known = tuple(name for kind in zoo.KINDS for name in zoo.names(kind))
    for name in options.only:
        if name not in known:
            parser.error(unknown_name_message("model", name, known))
    return options
