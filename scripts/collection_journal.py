"""The journal of a collection: what was measured so far, a model a line, safe from any kill."""

from __future__ import annotations

import fcntl
import io
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from selector.baseline import Baseline, Record, Unmeasured, environment, new_baseline
from selector.errors import InvalidRequestError


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Entry(_Line):
    """What became of one model.

    Attributes:
        model: Its name.
        records: One for each candidate; none where it could not be measured.
        unmeasured: Why not.
        seconds: Wall seconds of each stage, and of all in `total`.
    """

    model: str
    records: tuple[Record, ...] = ()
    unmeasured: Unmeasured | None = None
    seconds: dict[str, float] = {}


class Run(_Line):
    """The conditions of the entries after it: one start of the collector.

    Attributes:
        created: Date and time, UTC.
        environment: See `baseline.environment`.
        settings: Seed and limits.
    """

    created: str
    environment: dict[str, Any]
    settings: dict[str, Any]


class _Either(_Line):
    run: Run | None = None
    entry: Entry | None = None


@dataclass(slots=True)
class Contents:
    """A journal that was read: its runs with their entries, a model's later entry counting."""

    runs: list[Run] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    run_of: dict[str, int] = field(default_factory=dict)

    def lacking(self, models: Iterable[str], *, retry_failed: bool) -> list[str]:
        """Those of `models` that are not in it, or failed as a whole and are wanted again."""
        failed = {name for name, entry in self.entries.items() if entry.unmeasured}
        done = self.entries.keys() - (failed if retry_failed else set())
        return [model for model in models if model not in done]

    def baseline(self) -> Baseline:
        """The baseline of everything in it, in the order in which it was measured."""
        entries = self.entries.values()
        whole = new_baseline(record for entry in entries for record in entry.records)
        return whole.model_copy(
            update={
                "unmeasured": tuple(item.unmeasured for item in entries if item.unmeasured),
                "environment": self._environment(),
            }
        )

    def _environment(self) -> dict[str, Any]:
        """That of the last run, and in `runs` the settings of all that measured anything."""
        if not self.runs:
            return environment()
        common = self.runs[-1].environment
        counts = [0] * len(self.runs)
        for number in self.run_of.values():
            counts[number] += 1
        told: list[dict[str, Any]] = []
        for run, models in zip(self.runs, counts, strict=True):
            other = {} if run.environment == common else {"environment": run.environment}
            if models:
                told.append({"created": run.created, **run.settings, "models": models, **other})
        return common | {"runs": told}


def read(path: Path) -> Contents:
    """What a journal holds; a last line that was cut off is left out.

    Raises:
        InvalidRequestError: A line is no journal's.
    """
    contents = Contents()
    for number, line in enumerate(_whole_lines(path), 1):
        try:
            found = _Either.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors()[0]
            place = ".".join(str(part) for part in problem["loc"]) or "as a whole"
            msg = f"{path}: line {number}, {place}: {problem['msg']}; delete it to begin anew"
            raise InvalidRequestError(msg) from error
        if found.run:
            contents.runs.append(found.run)
        if found.entry:
            model = found.entry.model
            contents.entries.pop(model, None)
            contents.entries[model] = found.entry
            if contents.runs:
                contents.run_of[model] = len(contents.runs) - 1
    return contents


def _whole_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    return path.read_bytes().split(b"\n")[:-1]


class Journal:
    """An open journal; use as a context manager.

    Only one process writes it, and each line by one write that is on disk when `add` returns.
    """

    def __init__(self, path: Path, run: Run) -> None:
        """Opens it behind its last whole line, and begins a run.

        Raises:
            InvalidRequestError: The folder cannot be written, or another collection runs.
        """
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file: io.FileIO = path.open("r+b" if path.exists() else "wb", buffering=0)
        except OSError as error:
            raise InvalidRequestError(f"{path} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise InvalidRequestError(f"{path} is being written by another collection") from error
        kept = sum(len(line) + 1 for line in _whole_lines(path))
        self._file.truncate(kept)
        self._file.seek(kept)
        self._write(_Either(run=run))

    def add(self, entry: Entry) -> None:
        """Adds a model."""
        self._write(_Either(entry=entry))

    def _write(self, line: _Either) -> None:
        data = (line.model_dump_json(exclude_defaults=True) + "\n").encode()
        while data:
            data = data[self._file.write(data) :]
        os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()
