"""Runs one attempt in a process of its own: the side of the process that asks.

Three generations of processes, so that nothing is paid twice and nothing is shared that
can break: a *host*, one per asking process, imports torch and transformers once; a
*session*, forked from it, loads one model and keeps it; an *attempt*, forked from that,
does one piece of work under a time and a memory limit, and may crash, hang or be killed.
Host and session never run a parallel region, which makes forking them safe.
`strategies.worker` is the other side.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from strategies.errors import (
    AttemptCrashedError,
    AttemptOutOfMemoryError,
    AttemptTimeoutError,
    ExportError,
    InvalidRequestError,
)

Value = TypeVar("Value")
# How long a session gets, after its attempt's limit, to report what became of it.
GRACE_SECONDS = 10.0
# How often a session that is loading is looked at, where it has limits.
WATCH_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What an attempt may use.

    Attributes:
        seconds: Wall seconds; None for no limit.
        memory_bytes: Resident memory of the attempt's process, the model it shares with
            its session included; None for nine tenths of what is available.
    """

    seconds: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome(Generic[Value]):
    """What became of an attempt: a value or an error, and what it cost.

    Attributes:
        result: What the function returned; None where it failed.
        error: What it raised, or the crash, timeout or lack of memory that ended it.
        seconds: Wall seconds.
        peak_rss_bytes: Largest resident memory of its process.
    """

    result: Value | None = None
    error: Exception | None = None
    seconds: float = 0.0
    peak_rss_bytes: int = 0

    def value(self) -> Value:
        """The result; raises the error where there is none."""
        if self.error is not None:
            raise self.error
        return self.result  # type: ignore[return-value]  # without an error there is a result


class Host:
    """The warm process that sessions are forked from."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket = ours
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the host
        start = (
            "import json, sys; sys.path[:] = json.loads(sys.argv[2]); "
            "from strategies import worker; worker.serve(int(sys.argv[1]))"
        )
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our own code
                [sys.executable, "-c", start, str(theirs.fileno()), json.dumps(sys.path)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )

    @property
    def alive(self) -> bool:
        """Whether it can still open sessions."""
        return self._process.poll() is None

    def open(self, staging: Path, warm: Sequence[str], imports: Sequence[str]) -> Connection:
        """Forks a session; `staging` is removed should this process die before it is closed."""
        ours, theirs = socket.socketpair()
        request = {"staging": str(staging), "warm": warm, "imports": imports}
        with theirs:
            message = json.dumps(request).encode()
            try:
                socket.send_fds(self._socket, [message], [theirs.fileno()])
            except OSError as error:
                raise ExportError(f"the worker process died: {self._last_words()}") from error
        return Connection(ours.detach())

    def close(self) -> None:
        """Ends the host at once, whatever it is importing; sessions end by themselves."""
        self._socket.close()
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _last_words(self) -> str:
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it left no message"


_host: Host | None = None
_host_lock = threading.Lock()


def warm_host() -> Host:
    """The host of this process, started on first use: call early, it imports for seconds."""
    global _host  # noqa: PLW0603 - one per process is the point
    with _host_lock:
        if _host is None or not _host.alive:
            _host = Host()
            atexit.register(_close_all, _host)
        return _host


_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


def _close_all(host: Host) -> None:
    for session in list(_open_sessions):
        session.close()
    host.close()


class Session:
    """One model in a process of its own; attempts are forked from it.

    Use as a context manager. Leaving it ends the session, whatever it is doing, and
    removes `staging`.

    Attributes:
        staging: Private folder for files on their way; made on first use.
    """

    def __init__(
        self,
        parent: Path | None = None,
        warm: tuple[str, ...] = (),
        imports: tuple[str, ...] = (),
    ) -> None:
        """Opens a session.

        Args:
            parent: Folder in which to stage, so that results can be renamed into place;
                None takes the system's folder for temporary files.
            warm: Strategies that the host warms up, for this session and all later ones.
            imports: Modules that the host imports, for the same.
        """
        base = parent if parent is not None else Path(tempfile.gettempdir())
        self.staging = base / f".autoexport-{os.getpid()}-{os.urandom(4).hex()}"
        self._connection = warm_host().open(self.staging, warm, imports)
        self._pid: int | None = None
        _open_sessions.add(self)

    @property
    def alive(self) -> bool:
        """Whether nothing has ended it, as far as the last answer told."""
        return not self._connection.closed

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the session and removes what it staged."""
        with contextlib.suppress(EOFError, OSError):
            if self._pid is None and self._connection.poll():
                self._learn_pid()
        if self._pid is not None and self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._pid, signal.SIGKILL)
        self._connection.close()
        shutil.rmtree(self.staging, ignore_errors=True)

    def folder(self, name: str) -> Path:
        """A new private folder within `staging`.

        Raises:
            InvalidRequestError: The system refuses.
        """
        try:
            self.staging.mkdir(exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.staging))
        except OSError as error:
            msg = f"cannot write in {self.staging.parent}: {error.strerror}; choose another place"
            raise InvalidRequestError(msg) from error

    def load(
        self,
        function: Callable[..., Any],
        *args: Any,
        meanwhile: Callable[[], object] = lambda: None,
        limits: Limits | None = None,
    ) -> Any:
        """Calls `function(*args)` in the session itself and keeps what it returns there.

        Args:
            function: As for `attempt`.
            *args: Picklable.
            meanwhile: Called in this process while that one imports and loads. What it
                raises ends the session.
            limits: What the session may use; none by default. Going beyond ends it.

        Returns:
            What the loaded object's `summary()` gives, where it has one.

        Raises:
            Exception: What the function raised.
            AttemptCrashedError: The session died.
            AttemptTimeoutError, AttemptOutOfMemoryError: It went beyond its limits.
        """
        request = {"kind": "load", "call": _packed(function, args)}
        watch = None if limits is None else partial(self._overrun, limits)
        return self._ask(request, None, meanwhile, watch).value()

    def attempt(
        self,
        function: Callable[..., Value],
        *args: Any,
        limits: Limits | None = None,
        warm: tuple[str, ...] = (),
    ) -> Outcome[Value]:
        """Calls `function(loaded, *args)` in a process forked from the session.

        Args:
            function: Importable or picklable by value; `loaded` is what `load` kept.
            *args: Picklable.
            limits: What the attempt may use.
            warm: Strategies that the session warms up first, so that later attempts share
                what that costs.
        """
        limits = limits or Limits()
        request = {
            "kind": "attempt",
            "call": _packed(function, args),
            "seconds": limits.seconds,
            "memory_bytes": limits.memory_bytes,
            "warm": warm,
        }
        return self._ask(request, limits.seconds)

    def _ask(
        self,
        request: dict[str, Any],
        seconds: float | None,
        meanwhile: Callable[[], object] = lambda: None,
        watch: Callable[[], Exception | None] | None = None,
    ) -> Outcome[Any]:
        # That a session is gone is found when its answer is due.
        with contextlib.suppress(OSError):
            self._connection.send_bytes(pickle.dumps(request))
        self._work_on(meanwhile)
        try:
            if self._pid is None:
                self._learn_pid()
            if watch is not None and (error := watch()):
                self.close()
                return Outcome(error=error)
            wait = None if seconds is None else seconds + GRACE_SECONDS
            if not self._connection.poll(wait):
                self.close()
                return Outcome(error=AttemptTimeoutError("the session stopped answering"))
            reply: Outcome[Any] = pickle.loads(self._connection.recv_bytes())  # noqa: S301 - ours
        except (EOFError, OSError) as error:
            self.close()
            crash = AttemptCrashedError("the process that held the model died")
            crash.__cause__ = error
            return Outcome(error=crash)
        return reply

    def _overrun(self, limits: Limits) -> Exception | None:
        """Waits until the session answers; what it used too much of, where it did."""
        import psutil  # noqa: PLC0415 - an export that fails early has no need of it

        process = psutil.Process(self._pid)
        deadline = None if limits.seconds is None else time.monotonic() + limits.seconds
        while not self._connection.poll(WATCH_SECONDS):
            used = 0
            with contextlib.suppress(psutil.Error):
                used = process.memory_info().rss
            if limits.memory_bytes is not None and used > limits.memory_bytes:
                return AttemptOutOfMemoryError(f"stopped at {used / 1e9:.1f} GB, its memory limit")
            if deadline is not None and time.monotonic() > deadline:
                return AttemptTimeoutError(f"stopped after {limits.seconds:.0f} s, its time limit")
        return None

    def _learn_pid(self) -> None:
        """Receives the first thing that a session says, as soon as it has been forked."""
        self._pid = pickle.loads(self._connection.recv_bytes())  # noqa: S301 - our worker's

    def _work_on(self, meanwhile: Callable[[], object]) -> None:
        try:
            meanwhile()
        except BaseException:
            # The session's answer would be taken for that to the next question.
            self.close()
            raise


def _packed(function: Callable[..., Any], args: tuple[Any, ...]) -> bytes:
    import cloudpickle  # noqa: PLC0415 - functions and classes of a script or test travel too

    packed: bytes = cloudpickle.dumps((function, args))
    return packed
