"""Progress on stderr and results on stdout: terminals, pipes, and readers that go away."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

SHOW = """
from selector.chain import Attempt, Progress
from selector.errors import CaptureError
from selector.terminal import ResultConsole, progress_on_stderr
from strategies.base import Candidate

candidate = Candidate(strategy="fx")
error = CaptureError("cannot [see] it", strategy="fx", stage="capture")
failed = Attempt(number=1, candidate=candidate, outcome="failed", seconds=2.5, peak_rss_bytes=1,
                 error=error)
with progress_on_stderr() as progress:
    progress(Progress(stage="load", message="reading [weights]"))
    progress(Progress(stage="attempt", message="fx failed", attempt=failed))
    for number in range(3000):
        progress(Progress(stage="export", message=f"step {number}"))
ResultConsole().print("the result " + "x" * 200_000)
"""


def show(root: Path, *, out: int, err: int) -> subprocess.Popen[bytes]:
    plain = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "TERM")}
    return subprocess.Popen(
        [sys.executable, "-c", SHOW],
        stdout=out,
        stderr=err,
        cwd=root,
        env=plain | {"TERM": "xterm-256color"},
    )


def test_pipes_get_plain_lines(root: Path) -> None:
    with show(root, out=subprocess.PIPE, err=subprocess.PIPE) as process:
        out, err = process.communicate()
    assert process.returncode == 0
    lines = err.decode().splitlines()
    assert lines[0] == "load: reading [weights]"
    assert lines[1] == "1 fx[dynamic] failed 2.5 s  capture: cannot [see] it"
    assert lines[-1] == "export: step 2999"
    assert out.startswith(b"the result ")
    assert b"\x1b" not in err + out


def test_terminal_gets_a_live_line_and_keeps_the_attempts(root: Path) -> None:
    reader, writer = pty.openpty()
    with show(root, out=subprocess.DEVNULL, err=writer) as process:
        os.close(writer)
        seen = b""
        while chunk := read_terminal(reader):
            seen += chunk
    os.close(reader)
    assert process.returncode == 0
    assert b"\x1b[" in seen
    assert b"cannot [see] it" in seen
    # A live line is drawn a few times a second, not once per event.
    assert seen.count(b"step ") < 1000


def read_terminal(reader: int) -> bytes:
    try:
        return os.read(reader, 65536)
    except OSError:  # what Linux says when the other side of a terminal is gone
        return b""


def test_result_nobody_reads_ends_quietly(root: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with show(root, out=writer, err=subprocess.PIPE) as process:
        os.close(writer)
        _, err = process.communicate()
    assert process.returncode == 141
    assert b"Traceback" not in err
    assert b"BrokenPipe" not in err


def test_progress_nobody_reads_does_not_end_the_work(root: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with show(root, out=subprocess.PIPE, err=writer) as process:
        os.close(writer)
        out, _ = process.communicate()
    assert process.returncode == 0
    assert out.startswith(b"the result ")
