"""The two streams: results on stdout, progress on stderr, live only on a terminal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.markup import escape

from selector.report import OUTCOME_STYLES, reason_text

if TYPE_CHECKING:
    from rich.status import Status

    from selector.chain import Attempt, Progress, ProgressCallback

PIPED_WIDTH = 120


class ResultConsole(Console):
    """stdout; a reader that went away ends the command as it ends any Unix tool."""

    def __init__(self) -> None:
        unknown_width = not sys.stdout.isatty() and "COLUMNS" not in os.environ
        super().__init__(highlight=False, width=PIPED_WIDTH if unknown_width else None)

    def on_broken_pipe(self) -> None:
        """Nobody reads any more: exit as if by SIGPIPE."""
        _discard(self, sys.stdout)
        raise SystemExit(128 + signal.SIGPIPE)


class ProgressConsole(Console):
    """stderr; a reader that went away ends the showing, not the export."""

    def __init__(self) -> None:
        super().__init__(stderr=True, highlight=False)

    def on_broken_pipe(self) -> None:
        """Nobody reads any more: go on silently."""
        _discard(self, sys.stderr)


def _discard(console: Console, stream: TextIO) -> None:
    """Sends what is still buffered nowhere, else the interpreter complains at its exit."""
    console.quiet = True
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)


@contextlib.contextmanager
def progress_on_stderr() -> Iterator[ProgressCallback]:
    """Yields what the library's `progress` argument wants."""
    console = ProgressConsole()
    if not console.is_terminal or console.is_dumb_terminal:
        yield _plain(console)
        return
    with console.status("starting") as status:
        yield _live(console, status)


def attempt_line(attempt: Attempt) -> str:
    """One line in rich's markup: number, candidate, outcome, seconds and the reason."""
    style = OUTCOME_STYLES.get(attempt.outcome, "red")
    reason = f"  {escape(reason_text(attempt.error))}" if attempt.error else ""
    return (
        f"[dim]{attempt.number}[/dim] {escape(str(attempt.candidate))} "
        f"[{style}]{attempt.outcome}[/{style}] {attempt.seconds:.1f} s{reason}"
    )


def _live(console: Console, status: Status) -> ProgressCallback:
    started = time.perf_counter()

    def show(event: Progress) -> None:
        if event.attempt is not None:
            console.print(attempt_line(event.attempt))
        seconds = time.perf_counter() - started
        status.update(f"[bold]{event.stage}[/bold] {escape(event.message)} [dim]{seconds:.0f} s[/]")

    return show


def _plain(console: Console) -> ProgressCallback:
    def show(event: Progress) -> None:
        line = f"{event.stage}: {escape(event.message)}"
        shown = line if event.attempt is None else attempt_line(event.attempt)
        console.print(shown, soft_wrap=True)

    return show
