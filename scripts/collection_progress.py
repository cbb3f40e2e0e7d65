"""Shows how far a collection is: a bar on a terminal, a line for each model elsewhere."""

from __future__ import annotations

import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from scripts.collection_journal import Entry


class Reporter:
    """Tells of every model as it is done; use as a context manager."""

    def __init__(self, total: int, console: Console | None = None) -> None:
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._console = console or Console(highlight=False, soft_wrap=True, emoji=False)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[left]}"))
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=total, left="")

    def tell(self, entry: Entry) -> None:
        """Counts a model and says what became of it."""
        self._done += 1
        left = f"{self._left()} left"
        line = f"{entry.model}: {_outcome(entry)} ({entry.seconds.get('total', 0):.1f} s)"
        if not self._console.is_terminal:
            line = f"[{self._done}/{self._total}, {left}] {line}"
        self._console.print(escape(line))
        self._bar.update(self._task, completed=self._done, left=left)

    def _left(self) -> timedelta:
        """Wall time for the rest, were it like what is done."""
        spent = time.monotonic() - self._started
        return timedelta(seconds=round(spent / self._done * (self._total - self._done)))

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()


def _outcome(entry: Entry) -> str:
    failed = entry.unmeasured
    if failed is not None:
        return f"not measured: {failed.stage}: {failed.error_type}: {failed.error}"
    right = sum(record.success for record in entry.records)
    return f"{right} of {len(entry.records)} candidates are right"
