"""Runs one attempt in a process of its own: the side that works (see `strategies.isolation`)."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import gc
import importlib
import json
import os
import pickle
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import IO, Any, NoReturn

import psutil

from strategies.errors import (
    AttemptCrashedError,
    AttemptOutOfMemoryError,
    AttemptTimeoutError,
    ExportError,
)
from strategies.isolation import Outcome
from strategies.postponing import postponed

PRELOADED = (
    "torch",
    "transformers.modeling_utils",
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "strategies.usage_based",
    "strategies.finishing",
)
POLL_SECONDS = 0.02
AVAILABLE_SHARE = 0.9
# From malloc.h: blocks of their own there may be, and freed bytes to keep.
_M_MMAP_MAX = -4
_M_TRIM_THRESHOLD = -1
_INT_MAX = 2**31 - 1
OUT_OF_MEMORY_WORDS = ("can't allocate memory", "not enough memory", "bad_alloc", "bad allocation")


def serve(descriptor: int) -> None:
    """The host: imports what every session needs, then forks a session per request.

    Ends with the process that asked, and takes every session and staged file along.
    """
    requests = socket.socket(fileno=descriptor)
    with _objects_that_stay():
        _keep_single_threaded()
        # Only matchers of losses for training call it; the import is a tenth of transformers'.
        with postponed("scipy.optimize", "linear_sum_assignment"):
            for name in PRELOADED:
                importlib.import_module(name)
    staged: dict[int, str] = {}
    while True:
        message, descriptors, _, _ = socket.recv_fds(requests, 1 << 16, 1)
        if not message:
            break
        request = json.loads(message)
        with _objects_that_stay():
            _import(request["imports"])
            _warm_up(request["warm"])
        pid = os.fork()
        if pid == 0:
            requests.close()
            _session(Connection(descriptors[0]))
        os.close(descriptors[0])
        staged[pid] = request["staging"]
        _forget_ended(staged)
    for pid, folder in staged.items():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _objects_that_stay() -> Iterator[None]:
    """Keeps what is made within out of garbage collections, here and in all that is forked.

    Collections that find nothing are a third of the time that importing torch and
    transformers takes.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _keep_single_threaded() -> None:
    """A process whose thread pool has run cannot be forked safely; attempts make their own."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ["HF_DEACTIVATE_ASYNC_LOAD"] = "1"
    # Attempts' OpenMP threads sleep while they wait for one another. Where they spin, on cores
    # that something else is using too, each of them waits for the scheduler: 50 times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import torch  # noqa: PLC0415 - this is the process that may import it

    torch.set_num_threads(1)


def _import(modules: Iterable[str]) -> None:
    for name in modules:
        # As for strategies that are warmed up.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def _warm_up(strategies: Iterable[str]) -> None:
    for name in strategies:
        _warmed_up(name)


@functools.cache
def _warmed_up(name: str) -> None:
    """Warms a strategy up; once here counts for all that is forked from this process."""
    from strategies import registry  # noqa: PLC0415 - imports onnx, which PRELOADED brings

    # What goes wrong here goes wrong in the attempt too, and is reported there.
    with contextlib.suppress(Exception):
        registry.resolve(name).warm_up()


def _forget_ended(staged: dict[int, str]) -> None:
    for pid in list(staged):
        with contextlib.suppress(ChildProcessError):
            ended, _ = os.waitpid(pid, os.WNOHANG)
            if ended:
                # Whoever closed the session has removed its files.
                del staged[pid]


def _session(connection: Connection) -> NoReturn:
    """Serves one model until the asking process closes the connection."""
    os.setpgid(0, 0)
    log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    loaded: Any = None
    status = 0
    try:
        connection.send_bytes(pickle.dumps(os.getpid()))
        while True:
            request = pickle.loads(connection.recv_bytes())  # noqa: S301 - from our own parent
            if request["kind"] == "load":
                reply, loaded = _load(request)
            else:
                reply = _attempt(request, loaded, connection, log)
            connection.send_bytes(_portable(reply))
    except (EOFError, OSError):
        pass
    except BaseException:  # noqa: BLE001 - a forked process must never return to its parent's code
        traceback.print_exc()
        status = 1
    os._exit(status)


def _load(request: dict[str, Any]) -> tuple[Outcome[Any], Any]:
    started = time.perf_counter()
    try:
        function, args = pickle.loads(request["call"])  # noqa: S301 - from our own parent
        loaded = function(*args)
    except Exception as error:  # noqa: BLE001 - travels to the parent, which raises it
        return Outcome(error=_annotated(error), seconds=time.perf_counter() - started), None
    summary = loaded.summary() if hasattr(loaded, "summary") else None
    gc.freeze()
    return Outcome(result=summary, seconds=time.perf_counter() - started), loaded


def _attempt(
    request: dict[str, Any], loaded: Any, connection: Connection, log: IO[bytes]
) -> Outcome[Any]:
    started = time.perf_counter()
    _warm_up(request["warm"])
    log_start = os.lseek(log.fileno(), 0, os.SEEK_END)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_end)
        connection.close()
        _work(request["call"], loaded, write_end)
    os.close(write_end)
    seconds = request["seconds"]
    watched = _watch(
        pid,
        read_end,
        deadline=None if seconds is None else started + seconds,
        memory_bytes=request["memory_bytes"],
        connection=connection,
    )
    os.close(read_end)
    spent = time.perf_counter() - started
    if not watched.killed and not os.WIFSIGNALED(watched.status) and watched.payload:
        result, error = pickle.loads(watched.payload)  # noqa: S301 - from our own child
    else:
        result, error = None, _ending(watched, spent, _tail(log, log_start))
    return Outcome(result=result, error=error, seconds=spent, peak_rss_bytes=watched.peak)


def _work(call: bytes, loaded: Any, write_end: int) -> NoReturn:
    """The attempt itself, in its own process."""
    import torch  # noqa: PLC0415 - already imported by the host

    faulthandler.enable()
    with contextlib.suppress(OSError):
        # Should memory run out, this is the process to lose.
        Path("/proc/self/oom_score_adj").write_text("1000")
    # Whoever runs several exports at a time divides the cores by OpenMP's own variable.
    threads = os.environ.get("OMP_NUM_THREADS", "")
    torch.set_num_threads(int(threads) if threads.isdecimal() else len(os.sched_getaffinity(0)))
    _keep_freed_memory()
    result: Any = None
    error: Exception | None = None
    try:
        function, args = pickle.loads(call)  # noqa: S301 - from our own parent
        result = function(loaded, *args)
    except Exception as raised:  # noqa: BLE001 - travels to the parent, which judges it
        error = _memory_error(raised) or _annotated(raised)
    try:
        payload = pickle.dumps((result, error))
    except Exception as raised:  # noqa: BLE001 - foreign objects fail to pickle in any way
        note = error if error is not None else raised
        payload = pickle.dumps((None, RuntimeError(f"{type(note).__name__}: {note}")))
    with os.fdopen(write_end, "wb") as stream:
        stream.write(payload)
    os._exit(0)


def _keep_freed_memory() -> None:
    """Lets the next activation have the pages of the last one.

    glibc gives a large block back to the system the moment it is freed; where forward makes
    many of them, a quarter of its time is spent on fresh pages (mallopt(3)).
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _INT_MAX)


@dataclass(slots=True)
class _Watched:
    """How a watched process ended."""

    status: int = 0
    peak: int = 0
    killed: str = ""
    payload: bytes = b""


def _watch(
    pid: int,
    read_end: int,
    *,
    deadline: float | None,
    memory_bytes: int | None,
    connection: Connection,
) -> _Watched:
    process = psutil.Process(pid)
    limit = memory_bytes
    if limit is None:
        limit = int(psutil.virtual_memory().available * AVAILABLE_SHARE)
        limit += psutil.Process().memory_info().rss
    watched = _Watched()
    chunks: list[bytes] = []
    streams = [read_end, connection.fileno()]
    while True:
        ready, _, _ = select.select(streams, [], [], POLL_SECONDS)
        if connection.fileno() in ready:
            # The asking process sends nothing before our reply: it has gone.
            _kill(process)
            os._exit(0)
        if read_end in ready:
            chunk = os.read(read_end, 1 << 20)
            if not chunk:
                break
            chunks.append(chunk)
        with contextlib.suppress(psutil.Error):
            watched.peak = max(watched.peak, process.memory_info().rss)
        if watched.peak > limit:
            watched.killed = "memory"
        elif deadline is not None and time.perf_counter() > deadline:
            watched.killed = "time"
        if watched.killed:
            _kill(process)
            break
    _, watched.status, usage = os.wait4(pid, 0)
    watched.peak = max(watched.peak, usage.ru_maxrss * 1024)
    watched.payload = b"".join(chunks)
    return watched


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.Error):
        for child in process.children(recursive=True):
            child.kill()
        process.kill()


def _ending(watched: _Watched, seconds: float, log_tail: str) -> ExportError:
    """The error for a process that ended without an answer."""
    peak = f"{watched.peak / 1e9:.1f} GB"
    if watched.killed == "time":
        return AttemptTimeoutError(
            f"stopped after {seconds:.0f} s, its time limit",
            hint="--attempt-timeout or --time-budget allow more",
        )
    if watched.killed == "memory":
        return AttemptOutOfMemoryError(f"stopped at {peak}, its memory limit")
    if os.WIFSIGNALED(watched.status):
        number = os.WTERMSIG(watched.status)
        if number == signal.SIGKILL:
            return AttemptOutOfMemoryError(
                f"killed by the system at {peak}, most likely for memory"
            )
        name = signal.Signals(number).name
        return AttemptCrashedError(f"crashed with {name}{log_tail}", signal=number)
    code = os.waitstatus_to_exitcode(watched.status)
    return AttemptCrashedError(f"exited with code {code} and no result{log_tail}")


def _tail(log: IO[bytes], start: int) -> str:
    """Where the crashed process was, from faulthandler's or its own last words."""
    log.seek(start)
    lines = log.read().decode(errors="replace").strip().splitlines()
    frames = [line.strip() for line in lines if line.strip().startswith("File ")]
    if frames:
        return f" in {frames[0].removeprefix('File ')}"
    return f": {lines[-1].strip()}" if lines else ""


def _memory_error(error: BaseException) -> AttemptOutOfMemoryError | None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or any(
            word in str(cause) for word in OUT_OF_MEMORY_WORDS
        ):
            found = AttemptOutOfMemoryError("an allocation failed: out of memory")
            found.__cause__ = error
            return found
        cause = cause.__cause__
    return None


def _annotated(error: Exception) -> Exception:
    """Keeps the traceback of what is a bug, as text: frames do not travel."""
    if not isinstance(error, ExportError):
        error.add_note("".join(traceback.format_exception(error)))
    return error


def _portable(reply: Outcome[Any]) -> bytes:
    try:
        return pickle.dumps(reply)
    except Exception:  # noqa: BLE001 - foreign errors fail to pickle in any way they like
        error = RuntimeError(f"{type(reply.error).__name__}: {reply.error}")
        return pickle.dumps(Outcome(error=error, seconds=reply.seconds))
