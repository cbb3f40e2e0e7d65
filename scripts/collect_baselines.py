"""Measures every candidate on every model and writes the baseline that rankers are fitted on.

Each attempt runs isolated and verified, just as an export does. What was measured is kept in
a journal beside the output, one model a line, so that a run that was stopped goes on where it
was, or from the output where the journal is gone; delete both to measure anew. Models that
could not be built or got no inputs are in it too, with the reason, and are tried again with
`--retry-failed`.

A candidate that captures without weights is tried before its twin with them. They end alike,
nearly always, so by default the twin is tried where the first one failed, and in any case on
a fifth of the models, drawn by seed and name; `--twins all` tries it on every model.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

from scripts import collection_journal, collection_models, collection_pool
from scripts.collection_journal import Journal, Run
from scripts.collection_pool import DASK, LOKY, Pool
from scripts.collection_progress import Reporter
from scripts.collection_task import Settings
from selector import baseline
from selector.errors import InvalidRequestError
from strategies.isolation import Limits
from strategies.registry import portfolio, unknown_name_message

# Those of real size want other limits, and the hand-made tiny ones are among the others.
DEFAULT_MODELS = ("base:*", "head:*", "plain:*")
DEFAULT_TIMEOUT = 120.0
# A tiny model's attempt takes less than 1 GB; one of real size is told more.
DEFAULT_MEMORY = "4G"
BYTES = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what the journal lacks; returns the exit code."""
    try:
        return _collect(_parse(arguments))
    except InvalidRequestError as error:
        print(error, file=sys.stderr)
        return 2


def _collect(options: argparse.Namespace) -> int:
    path = journal_path(options.out)
    if options.out.exists() and not path.exists():
        # A baseline travels, in a repository or from another machine; its journal rarely does.
        found = baseline.read(options.out)
        collection_journal.replace(path, collection_journal.of_baseline(found))
    known = collection_journal.read(path)
    waiting = known.lacking(options.models, retry_failed=options.retry_failed)
    run = _run(options)
    for difference in known.differences(run):
        print(difference)
    print(f"{len(options.models)} models, {len(waiting)} of them not in {path.name}")
    print(", ".join(f"{name} {value}" for name, value in run.settings.items()), flush=True)
    code = 0
    if waiting:
        pool = Pool(backend=options.backend, jobs=options.jobs, scheduler=options.scheduler)
        with Journal(path, run) as journal, Reporter(len(waiting)) as reporter:
            try:
                for entry in collection_pool.measured(waiting, _settings(options), pool):
                    journal.add(entry)
                    reporter.tell(entry)
            except KeyboardInterrupt:
                code = INTERRUPTED
    whole = collection_journal.read(path).baseline()
    baseline.write(whole, options.out)
    print(f"{len(whole.records)} records in {options.out}")
    if whole.unmeasured:
        print(f"{len(whole.unmeasured)} models without any, for the reasons that it lists")
    return code


def journal_path(out: Path) -> Path:
    """Where the journal of an output lies."""
    return out.with_name(f"{out.name.removesuffix('.gz').removesuffix('.json')}.journal.jsonl")


def _run(options: argparse.Namespace) -> Run:
    settings = {
        "revision": _revision(),
        "seed": options.seed,
        "timeout_seconds": options.timeout,
        "memory_bytes": options.memory,
        "twins": options.twins,
        "candidates": options.candidates or "all",
        "backend": options.backend,
    }
    if options.backend == LOKY:
        settings["jobs"] = options.jobs
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return Run(created=created, environment=baseline.environment(), settings=settings)


def _revision() -> str | None:
    """What git calls this checkout, with `-dirty` where files in it were changed."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        told = subprocess.run(  # noqa: S603 - nothing in it comes from outside
            command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return told.stdout.strip()


def _settings(options: argparse.Namespace) -> Settings:
    return Settings(
        candidates=tuple(options.candidates),
        limits=Limits(seconds=options.timeout, memory_bytes=options.memory),
        seed=options.seed,
        all_twins=options.twins == "all",
    )


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    known = ", ".join(f"{kind}:*" for kind in collection_models.KINDS)
    add(
        "--models",
        nargs="+",
        metavar="NAME",
        default=DEFAULT_MODELS,
        help=f"{known}, names of theirs, types, folders, Hub ids; {' '.join(DEFAULT_MODELS)}",
    )
    add("--candidates", nargs="+", metavar="NAME", default=[], help="htp[static], fx*; or all")
    add("--twins", choices=("all", "sample"), default="sample")
    add("--timeout", type=float, metavar="SECONDS", default=DEFAULT_TIMEOUT, help="per attempt")
    add("--memory", type=_bytes, metavar="SIZE", default=DEFAULT_MEMORY, help="of an attempt, 4G")
    add("--seed", type=int, default=0, help="of the random weights")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="models at a time")
    add("--backend", choices=(LOKY, DASK), default=LOKY)
    add("--scheduler", metavar="ADDRESS", help="of the Dask cluster, tcp://host:8786")
    add("--retry-failed", action="store_true", help="models that could not be measured")
    add("--out", type=Path, metavar="FILE", required=True, help="FILE.json or FILE.json.gz")
    options = parser.parse_args(arguments)
    if (options.backend == DASK) != (options.scheduler is not None):
        parser.error("--backend dask and --scheduler go together")
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    try:
        options.models = collection_models.expand(options.models)
        options.candidates = _candidates(options.candidates)
    except ValueError as error:
        parser.error(str(error))
    return options


def _candidates(patterns: Sequence[str]) -> list[str]:
    """The candidates that patterns stand for, as they are shown.

    Raises:
        ValueError: A pattern fits none.
    """
    known = [str(item) for item in portfolio(scripting=True)]
    found: dict[str, None] = {}
    for pattern in patterns:
        # Brackets stand in the names themselves.
        literal = pattern.replace("[", "[[]")
        fitting = [name for name in known if fnmatchcase(name, literal)]
        if not fitting:
            raise ValueError(unknown_name_message("candidate", pattern, tuple(known)))
        found |= dict.fromkeys(fitting)
    return list(found)


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([KMG]?)B?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write 800M or 12G")
    return int(float(match[1]) * BYTES.get(match[2], 1))


if __name__ == "__main__":
    # A machine that goes away says so first: what was measured is then written as on Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main())
