"""Measures every candidate on every model and writes the baseline that rankers are fitted on.

Each attempt runs isolated and verified, just as an export does. What was measured is kept in
a journal beside the output, one record a line, so that a run that was stopped goes on where
it was; delete the journal to measure anew.

A candidate that captures without weights is tried before its twin with them. They end alike,
nearly always, so by default the twin is tried where the first one failed, and in any case on
a fifth of the models, drawn by seed and name; `--twins all` tries it on every model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from scripts import plain_modules, zoo
from selector import baseline
from selector.chain import SUCCEEDED, Attempt, Progress
from selector.errors import ExportError
from selector.measuring import measure
from strategies.base import VOID, Candidate
from strategies.registry import portfolio, unknown_name_message

PLAIN_PREFIX = "plain:"
TINY_PREFIX = "tiny:"
SEED = 0
# Of so many models, one has all twins measured.
DRAWN_OF = 5
DEFAULT_TIMEOUT = 300.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measures what the journal lacks; returns the exit code."""
    options = _parse(arguments)
    journal = options.out.with_suffix(".journal.jsonl")
    records = read_journal(journal)
    done = {record.model for record in records}
    failed = 0
    print(_twins_line(options), flush=True)
    for model in options.models:
        if model in done:
            print(f"{model}: in the journal", flush=True)
            continue
        try:
            twins = options.twins == "all" or is_drawn(model)
            measured = records_of(model, options.candidates, options.timeout, all_twins=twins)
        except ExportError as error:
            print(f"{model}: not measured: {error}", file=sys.stderr, flush=True)
            failed += 1
            continue
        append_journal(journal, measured)
        records += measured
        right = sum(record.success for record in measured)
        print(f"{model}: {right} of {len(measured)} candidates are right", flush=True)
    if records:
        baseline.write(baseline.new_baseline(records), options.out)
        print(f"{len(records)} records in {options.out}")
    return 1 if failed else 0


def is_drawn(model: str, seed: int = SEED) -> bool:
    """Whether both twins are measured on a model in any case; the same on every machine."""
    digest = hashlib.sha256(f"{seed} {model}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % DRAWN_OF == 0


def records_of(
    model: str, wanted: Sequence[str], timeout: float, *, all_twins: bool
) -> list[baseline.Record]:
    """Measures one model: `tiny:NAME` and `plain:NAME` are built here, others as exports take them.

    Args:
        model: A tiny transformers model, a plain module, a type, a folder or a Hub id.
        wanted: Candidates as they are shown, such as `htp[static]`; empty for all.
        timeout: Wall seconds for each candidate.
        all_twins: Whether to measure candidates with weights that were right without.

    Raises:
        ExportError: The model cannot be had, or gets no inputs.
    """
    subject, inputs = _subject(model)

    def is_wanted(candidate: Candidate, attempts: Sequence[Attempt]) -> bool:
        if wanted and str(candidate) not in wanted:
            return False
        right = {item.candidate for item in attempts if item.outcome == SUCCEEDED}
        void = replace(candidate, weights=VOID)
        return all_twins or candidate == void or void not in right

    measurement = measure(
        subject,
        inputs=inputs,
        random_weights=isinstance(subject, str),
        attempt_timeout=timeout,
        wanted=is_wanted,
        progress=_show,
    )
    return [
        baseline.record(
            model=model,
            features=measurement.study.features,
            attempt=result.attempt,
            artifact=result.verified.artifact if result.verified else None,
            report=result.verified.verification if result.verified else None,
            seed=SEED,
        )
        for result in measurement.results
    ]


def _subject(model: str) -> tuple[Any, dict[str, Any] | None]:
    """What to pass for a model's name, and its inputs where they must be given."""
    if model.startswith(TINY_PREFIX):
        return zoo.tiny_model(model.removeprefix(TINY_PREFIX), seed=SEED), None
    if model.startswith(PLAIN_PREFIX):
        return plain_modules.PLAIN[model.removeprefix(PLAIN_PREFIX)]()
    return model, None


def read_journal(path: Path) -> list[baseline.Record]:
    """The records of a journal; a last line that was cut off is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [baseline.Record.model_validate_json(line) for line in lines[:-1] if line]


def append_journal(path: Path, records: Sequence[baseline.Record]) -> None:
    """Adds the records of one model, all in one write."""
    text = "".join(json.dumps(record.model_dump(mode="json")) + "\n" for record in records)
    whole = path.read_text(encoding="utf-8") if path.exists() else ""
    kept = whole[: whole.rfind("\n") + 1]
    baseline.replace_file(path, (kept + text).encode())


def _twins_line(options: argparse.Namespace) -> str:
    """On which models candidates with weights are tried though those without were right."""
    if options.twins == "all":
        return "twins with weights: on every model"
    drawn = [model for model in options.models if is_drawn(model)]
    names = ", ".join(drawn) or "none"
    return f"twins with weights: where the one without failed, and on those drawn: {names}"


def _show(progress: Progress) -> None:
    attempt: Attempt | None = progress.attempt
    if attempt is not None:
        print(f"  {attempt}", flush=True)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    known = [
        *(f"{TINY_PREFIX}{name}" for name in zoo.TINY),
        *(f"{PLAIN_PREFIX}{name}" for name in plain_modules.PLAIN),
    ]
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", metavar="NAME", default=known)
    parser.add_argument("--candidates", nargs="+", metavar="CANDIDATE", default=[])
    parser.add_argument("--twins", choices=("all", "sample"), default="sample")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", default=DEFAULT_TIMEOUT)
    parser.add_argument("--out", type=Path, metavar="FILE", required=True)
    options = parser.parse_args(arguments)
    offered = tuple(str(item) for item in portfolio(scripting=True))
    for name in options.candidates:
        if name not in offered:
            parser.error(unknown_name_message("candidate", name, offered))
    for name in options.models:
        if name.startswith((TINY_PREFIX, PLAIN_PREFIX)) and name not in known:
            parser.error(unknown_name_message("model", name, tuple(known)))
    return options


if __name__ == "__main__":
    sys.exit(main())
