"""The journal of a collection: what was measured so far, a model a line, safe from any kill."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from selector.baseline import (
    RUNS,
    Baseline,
    Record,
    Unmeasured,
    environment,
    new_baseline,
    replace_file,
)
from selector.errors import InvalidRequestError

# What runs may differ in without a word: these do not decide what is right, or are told in parts.
UNTOLD = frozenset({"jobs", "backend", "versions"})


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
        counts = Counter(self.run_of.values())
        # Those that measured nothing are left out.
        places = {number: place for place, number in enumerate(sorted(counts))}
        records: list[Record] = []
        unmeasured: list[Unmeasured] = []
        for model, entry in self.entries.items():
            run = {"run": places.get(self.run_of.get(model, -1))}
            records += (record.model_copy(update=run) for record in entry.records)
            if entry.unmeasured:
                unmeasured.append(entry.unmeasured.model_copy(update=run))
        told = self._environment({number: counts[number] for number in places})
        update = {"unmeasured": tuple(unmeasured), "environment": told}
        return new_baseline(records).model_copy(update=update)

    def _environment(self, models: Mapping[int, int]) -> dict[str, Any]:
        """That of the last run, and in `runs` the settings of those that measured models."""
        if not self.runs:
            return environment()
        common = self.runs[-1].environment
        told: list[dict[str, Any]] = []
        for number, count in models.items():
            run = self.runs[number]
            other = {} if run.environment == common else {"environment": run.environment}
            told.append({"created": run.created, **run.settings, "models": count, **other})
        return common | {RUNS: told}

    def differences(self, *more: Run) -> Iterator[str]:
        """What its runs that measured something, and others, have not in common, a line each."""
        runs = [*(self.runs[number] for number in sorted(set(self.run_of.values()))), *more]
        told = [
            run.environment | run.environment.get("versions", {}) | run.settings for run in runs
        ]
        for name in dict.fromkeys(name for item in told for name in item):
            values = dict.fromkeys(str(item.get(name)) for item in told)
            if len(values) > 1 and name not in UNTOLD:
                yield f"the runs differ in {name}: {', '.join(values)}"

    def lines(self) -> Iterator[bytes]:
        """A journal that holds the same, each run followed by its entries."""
        unknown = [entry for model, entry in self.entries.items() if model not in self.run_of]
        yield from (_as_line(_Either(entry=entry)) for entry in unknown)
        for number, run in enumerate(self.runs):
            yield _as_line(_Either(run=run))
            for model, entry in self.entries.items():
                if self.run_of.get(model) == number:
                    yield _as_line(_Either(entry=entry))


def of_baseline(whole: Baseline) -> Contents:
    """The journal that a baseline was written from, as far as the baseline tells."""
    contents = Contents()
    common = {name: told for name, told in whole.environment.items() if name != RUNS}
    for told in whole.environment.get(RUNS, ()):
        settings = {"created": whole.created, "environment": common} | told
        settings.pop("models", None)
        created, place = settings.pop("created"), settings.pop("environment")
        contents.runs.append(Run(created=created, environment=place, settings=settings))
    records: dict[str, list[Record]] = {}
    for record in whole.records:
        records.setdefault(record.model, []).append(record.model_copy(update={"run": None}))
        if record.run is not None:
            contents.run_of[record.model] = record.run
    for model, measured in records.items():
        contents.entries[model] = Entry(model=model, records=tuple(measured))
    for refused in whole.unmeasured:
        why = refused.model_copy(update={"run": None})
        contents.entries[refused.model] = Entry(model=refused.model, unmeasured=why)
        if refused.run is not None:
            contents.run_of[refused.model] = refused.run
    return contents


def joined(journals: Iterable[Contents]) -> Contents:
    """One journal of several; of two entries for a model the later one stays.

    One with records, however, is not given up for one that says why there are none.
    """
    whole = Contents()
    for journal in journals:
        before = len(whole.runs)
        whole.runs += journal.runs
        for model, entry in journal.entries.items():
            if entry.unmeasured and model in whole.entries:
                continue
            whole.entries.pop(model, None)
            whole.entries[model] = entry
            whole.run_of.pop(model, None)
            if model in journal.run_of:
                whole.run_of[model] = before + journal.run_of[model]
    return whole


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


def replace(path: Path, contents: Contents) -> None:
    """Puts a journal in the place of one that may be there.

    Raises:
        InvalidRequestError: The folder cannot be written, or a collection writes that one.
    """
    with contextlib.ExitStack() as stack:
        if path.exists():
            _lock(stack.enter_context(path.open("r+b", buffering=0)), path)
        replace_file(path, b"".join(contents.lines()))


def _lock(file: io.FileIO, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise InvalidRequestError(f"{path} is being written by another collection") from error


def _as_line(line: _Either) -> bytes:
    return (line.model_dump_json(exclude_defaults=True) + "\n").encode()


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
        _lock(self._file, path)
        kept = sum(len(line) + 1 for line in _whole_lines(path))
        self._file.truncate(kept)
        self._file.seek(kept)
        self._write(_Either(run=run))

    def add(self, entry: Entry) -> None:
        """Adds a model."""
        self._write(_Either(entry=entry))

    def _write(self, line: _Either) -> None:
        data = _as_line(line)
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
