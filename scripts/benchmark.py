"""Holds autoexport against the other exporters: seconds, memory, and how they grow.

    python -m scripts.benchmark                      # everything; hours
    python -m scripts.benchmark --only export,7b     # some sections
    python -m scripts.benchmark --report             # only renders what has been measured

Every run is a process of its own, on the same checkpoint with the same inputs and dynamic
axes; the sides take turns. Models are made once in the work folder, which needs 20 GB for all
sections. What was measured is kept there in a journal, so that an interrupted benchmark goes
on where it stopped. Writes `benchmark.json`, `benchmark.md` and `benchmark.png`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scripts import benchmark_plan as plan
from scripts.benchmark_journal import Journal
from scripts.benchmark_meter import ram_bytes
from scripts.benchmark_plan import Section, Task
from scripts.benchmark_report import markdown
from scripts.benchmark_runner import ROOT, Limits, Runner
from scripts.benchmark_summary import summarise

PACKAGES = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what is not in the journal yet, then renders all of it."""
    options = _options(arguments)
    options.work.mkdir(parents=True, exist_ok=True)
    journal = Journal(options.work / "journal.jsonl", forget_failures=options.retry)
    if not options.report:
        journal.add_environment(_environment())
        limits = Limits(seconds=options.limit, memory_bytes=options.memory * 1e9)
        runner = Runner(work=options.work, journal=journal, limits=limits)
        runner.run(list(_chosen(options)))
    summary = summarise(journal)
    (options.out / "benchmark.json").write_text(json.dumps(summary, indent=1) + "\n")
    (options.out / "benchmark.md").write_text(markdown(summary))
    # Imported late, so that the runs are forked from a small process.
    from scripts.benchmark_plot import plot  # noqa: PLC0415

    plot(summary, options.out / "benchmark.png")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    work = Path(tempfile.gettempdir()) / "autoexport-benchmark"
    known = ", ".join(plan.sections(()))
    parser.add_argument("--work", type=Path, default=work, help="folder for models and journal")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder for the results")
    parser.add_argument("--only", type=_listed, help=f"sections, of {known}")
    parser.add_argument("--models", type=_listed, help="models to run instead of a section's own")
    parser.add_argument("--sides", type=_listed, help="sides to run")
    parser.add_argument("--skip-sides", type=_listed, default=(), help="sides to leave out")
    parser.add_argument("--rounds", type=int, default=5, help="pairs of runs, default 5")
    parser.add_argument("--limit", type=float, default=300.0, help="wall seconds of one run")
    memory = 0.75 * ram_bytes() / 1e9
    parser.add_argument("--memory", type=float, default=memory, help="gigabytes of one run")
    parser.add_argument("--retry", action="store_true", help="run again what failed")
    parser.add_argument("--report", action="store_true", help="render, and measure nothing")
    return parser.parse_args(arguments)


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _chosen(options: argparse.Namespace) -> Iterator[tuple[Task, Section]]:
    names = options.only or tuple(plan.sections(()))
    sections = plan.sections(_tiny() if "tiny" in names and not options.models else ())
    for name in names:
        section = sections[name]
        section = replace(section, models=options.models or section.models)
        for task in plan.tasks(name, section, options.rounds):
            wanted = options.sides is None or task.side in options.sides
            if wanted and task.side not in options.skip_sides:
                yield task, section


def _tiny() -> tuple[str, ...]:
    """The names of the zoo, asked in another process.

    With torch in this one, the processes that it watches would seem to hold less memory, as
    they would share it.
    """
    code = "from scripts.zoo import TINY; print(*TINY)"
    ran = subprocess.run(  # noqa: S603 - this interpreter, our own code
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    return tuple(ran.stdout.split())


def _environment() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "ram_bytes": ram_bytes(),
        "system": platform.system(),
        "python": platform.python_version(),
        **{name: version(name) for name in PACKAGES},
    }


if __name__ == "__main__":
    main()
