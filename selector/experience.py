"""The experience journal: what every export tried and how it ended, for `retrain` to learn from.

It lies in the user's data folder and never leaves the machine. It holds features and outcomes
only: no names, paths, source lines or messages. `AUTOEXPORT_EXPERIENCE=off` keeps none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import platformdirs

from selector import baseline
from selector.chain import Attempt
from selector.features import ModelFeatures

SWITCH = "AUTOEXPORT_EXPERIENCE"
# About a thousand attempts; beyond it the older half goes.
MOST_BYTES = 4 << 20


def journal_path() -> Path:
    """Where the journal lies."""
    return Path(platformdirs.user_data_dir("autoexport")) / "experience.jsonl"


def keep(features: ModelFeatures | None, attempt: Attempt) -> None:
    """Adds an attempt to the journal; a journal that cannot be written is none.

    Args:
        features: Of the model; without them nothing could be learned.
        attempt: Made and verified in full.
    """
    if features is None or os.environ.get(SWITCH, "").lower() in {"off", "0", "no", "false"}:
        return
    record = baseline.record(
        model=_digest(features), features=_anonymous(features), attempt=attempt
    )
    line = record.model_copy(update={"error": None}).model_dump_json(exclude_defaults=True) + "\n"
    path = journal_path()
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(line)
        if path.stat().st_size > MOST_BYTES:
            _shorten(path)


def read() -> baseline.Baseline:
    """The journal as a baseline; lines that cannot be read are counted in its notes.

    Of several attempts with one candidate on one model the latest counts.
    """
    records: dict[tuple[str, baseline.CandidateRecord], baseline.Record] = {}
    broken = 0
    lines: list[str] = []
    with contextlib.suppress(OSError):
        lines = journal_path().read_text(encoding="utf-8", errors="replace").splitlines()
    for line in lines:
        try:
            record = baseline.Record.model_validate(json.loads(line))
        except ValueError:
            broken += 1
        else:
            records[record.model, record.candidate] = record
    notes = [f"{broken} lines of {journal_path()} cannot be read"] if broken else []
    if not records:
        notes.append(f"there is no experience in {journal_path()} yet")
    return baseline.new_baseline(records.values()).model_copy(update={"notes": tuple(notes)})


def _anonymous(features: ModelFeatures) -> ModelFeatures:
    """Without what tells whose model it is: names of types and classes, files, source lines."""
    return replace(features, model_type=None, architecture="", findings=(), notes=())


def _digest(features: ModelFeatures) -> str:
    """What stands for the model's name."""
    told = json.dumps(_anonymous(features).to_json(), sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


def _shorten(path: Path) -> None:
    """Keeps the newer half."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    baseline.replace_file(path, "".join(lines[len(lines) // 2 :]).encode())
