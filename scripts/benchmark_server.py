"""Processes that have imported what one side imports, and fork a fresh one for each run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


class Server:
    """One side's process; it dies with the pipe that it reads from.

    Args:
        modules: File that lists what to import.
        log: Where runs write.
        cwd: Folder in which the scripts can be imported.
        environment: Of the process.
    """

    def __init__(
        self, modules: Path, log: Path, *, cwd: Path, environment: Mapping[str, str]
    ) -> None:
        with log.open("w") as stream:
            self.process = subprocess.Popen(  # noqa: S603 - this interpreter, our own program
                [sys.executable, "-m", "scripts.benchmark_exporters", "--serve", str(modules)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stream,
                text=True,
                cwd=cwd,
                env=dict(environment),
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """Of the process that runs are forked from."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it takes another order."""
        return self.process.poll() is None

    def run(self, order: Path, answer: Path) -> int:
        """Returns the exit code of a run; negative where a signal ended it or the server."""
        if self.process.stdin is None or self.process.stdout is None:
            return -1
        try:
            self.process.stdin.write(f"{order}\t{answer}\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return int(line) if line else self.process.wait()

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()
