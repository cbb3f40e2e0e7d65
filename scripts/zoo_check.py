"""Builds and runs every model of the zoo in a process of its own, and says what came of it."""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import os
import re
import resource
import textwrap
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import psutil
import torch
import transformers
from torch import nn

from scripts import zoo, zoo_census
from scripts.shrinking import LADDER
from scripts.zoo_census import BUILDS, FAILS, RUNS, Finding
from selector.eager import Eager
from selector.inputs import ExampleInputs, make_inputs
from strategies.registry import unknown_name_message

# Processor time, so that a busy machine finds the same; a model that waits is ended as well.
CPU_SECONDS, WALL_SECONDS = 20, 300
# Of rungs that all refuse alike; then the sizes are not to blame.
ENOUGH = 6
BYTES = 3 << 30
# The most parameters of a model that is preferred to one that runs already.
SMALL = 10_000_000
# Tried before any fork, so that all children share what they import.
AHEAD = ("base:bert", "base:clip")
SHOWN = 8
LEFT_OUT = re.compile(r"input (\w+) left out")
TOO_LONG = f"it crashed, or took more than {CPU_SECONDS} s of processor time or 3 GiB"


def main(arguments: Sequence[str] | None = None) -> int:
    """Checks the models asked for; returns the exit code."""
    options = _parse(arguments)
    names = options.only or [name for kind in options.kind for name in zoo.names(kind)]
    clock = time.monotonic()
    known = zoo_census.read(options.out) if options.out and options.out.exists() else {}
    found: dict[str, Finding] = {}
    seconds: dict[str, float] = {}
    for finding, taken in check(names, jobs=options.jobs):
        found[finding.name], seconds[finding.name] = finding, taken
        said = finding.error or ", ".join(finding.varying) or "nothing varies"
        print(f"{finding.name}: {finding.status} in {taken:.1f} s: {said}", flush=True)
        if options.out:
            zoo_census.write((known | found).values(), options.out)
    print_summary(tuple(found.values()), time.monotonic() - clock)
    slow = sorted(names, key=lambda name: -seconds[name])[:SHOWN]
    print("slowest:", ", ".join(f"{name} {seconds[name]:.0f} s" for name in slow))
    return 0


def print_summary(findings: Sequence[Finding], seconds: float) -> None:
    """Prints how many run, and which fail alike."""
    count = collections.Counter(item.status for item in findings)
    print(f"\n{len(findings)} models in {seconds:.0f} s: {count[RUNS]} run, ", end="")
    print(f"{count[BUILDS]} more build, {count[FAILS]} do not")
    still = sum(item.status == RUNS and not item.varying for item in findings)
    print(f"of those that run, {still} have no axis that varies")
    levels = collections.Counter(item.level for item in findings if item.level is not None)
    print("by rung:", ", ".join(f"{level}: {levels[level]}" for level in sorted(levels)))
    alike = collections.defaultdict(list)
    for item in findings:
        if item.error:
            alike[item.status, _like(item.error)].append(item)
    for (status, _), items in sorted(alike.items(), key=lambda pair: -len(pair[1])):
        shown = " ".join(item.name for item in items[:SHOWN])
        print(f"{len(items):3} {status}: {items[0].error}\n      {shown}")


def check(names: Sequence[str], *, jobs: int = 1) -> Iterator[tuple[Finding, float]]:
    """What came of each model and its wall seconds, in the order in which they end.

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
        wait(list(children), timeout=0.5)
        for end, child in list(children.items()):
            if child.has_ended():
                del children[end]
                yield child.finding, child.seconds


class _Child:
    """A process that tries one model, and the best that it has reported."""

    def __init__(self, name: str) -> None:
        context = multiprocessing.get_context("fork")
        self.end, theirs = context.Pipe(duplex=False)
        self._process = context.Process(target=_report, args=(name, theirs), daemon=True)
        self._started = time.monotonic()
        self._process.start()
        theirs.close()
        self.finding = Finding(name=name, status=FAILS, error=TOO_LONG)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def has_ended(self) -> bool:
        """Reads what was reported; ends the process where its time or memory is up."""
        if self.seconds > WALL_SECONDS or self._held() > BYTES:
            self._process.kill()
        try:
            while self.end.poll():
                self.finding = self.end.recv()
        except EOFError:
            self._process.join()
            return True
        return False

    def _held(self) -> int:
        # Watched, not limited: weights that have no values reserve room that nobody uses.
        try:
            held: int = psutil.Process(self._process.pid).memory_info().rss
        except psutil.NoSuchProcess:
            return 0
        return held


def _report(name: str, end: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    for finding in find_out(name):
        end.send(finding)


def find_out(name: str) -> Iterator[Finding]:
    """Climbs the ladder to the first rung whose model runs, else to the first that builds.

    A rung further up is better where it is still small, and fewer inputs are left out.

    Yields:
        What is known so far, each one better than the one before.
    """
    best = Finding(name=name, status=FAILS)
    refusals: collections.Counter[str] = collections.Counter()
    for level in range(len(LADDER)):
        module = _built(name, level)
        if isinstance(module, str):
            best = best if best.status == RUNS else replace(best, error=best.error or module)
            continue
        size = sum(item.numel() for item in module.parameters())
        if best.status == RUNS and size > SMALL:
            continue
        found = replace(best, status=BUILDS, level=level, parameters=size)
        if best.level is None:
            yield replace(found, error=TOO_LONG)
        made = _inputs(module)
        if isinstance(made, ExampleInputs):
            found = replace(
                found,
                status=RUNS,
                error=None,
                varying=tuple(made.other_sizes),
                left_out=tuple(LEFT_OUT.findall(" ".join(made.notes))),
            )
            if best.status != RUNS or len(found.left_out) < len(best.left_out):
                best = found
                yield best
            if not best.left_out:
                return
            continue
        if best.level is None:
            best = replace(found, error=made)
            yield best
        refusals[_like(made)] += 1
        if max(refusals.values()) == ENOUGH:
            break
    yield best


def _built(name: str, level: int) -> nn.Module | str:
    """The model of a rung, or why there is none."""
    try:
        return zoo.build_rung(name, level)
    except Exception as error:  # noqa: BLE001 - classes refuse configs in any way they like
        return _said(error)


def _inputs(module: Any) -> ExampleInputs | str:
    """Inputs that the model accepts, or why it accepts none."""
    try:
        return make_inputs(module, module.config, eager=Eager(module))
    except Exception as error:  # noqa: BLE001 - models refuse inputs in any way they like
        return _said(error)


def _said(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = textwrap.shorten(" ".join(str(error).split()), 240, placeholder="…")
    return f"{type(error).__name__}: {text} ({Path(where.filename).name}:{where.lineno})"


def _like(error: str) -> str:
    """The same for errors that differ in sizes and names only."""
    return re.sub(r"\d+|'[^']*'", "#", error)


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
