"""What a stretch of work cost: CPU and wall seconds, and the largest resident memory."""

from __future__ import annotations

import contextlib
import os
import resource
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What a stretch of work cost.

    Attributes:
        cpu: CPU seconds, user and system, of the process and the children it has waited for.
        wall: Seconds.
        peak: Bytes of the process' largest resident memory during the stretch, its code and
            mapped files included; None where processes come and go.
    """

    cpu: float
    wall: float
    peak: int | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


class Meter:
    """Splits the life of this process into stretches; the first began with the process."""

    def __init__(self) -> None:
        self._cpu = 0.0
        self._wall = _started()

    def lap(self) -> Cost:
        """The cost of what was done since the last lap."""
        cpu, wall = _cpu_seconds(), _now()
        cost = Cost(cpu=cpu - self._cpu, wall=wall - self._wall, peak=_peak_and_reset())
        self._cpu, self._wall = _cpu_seconds(), _now()
        return cost


def tree_cpu_seconds() -> float:
    """CPU seconds of this process and everything that it started, the dead ones included.

    A dead process counts through its parent once that has waited for it, and by itself
    before; one whose parent died first is lost.
    """
    process = psutil.Process()
    total = 0.0
    for member in (process, *process.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = member.cpu_times()
            total += times.user + times.system + times.children_user + times.children_system
    return total


def tree_memory(pid: int) -> int:
    """Bytes of memory that a process and everything it started hold together.

    Shared pages are shared out among those that share them (proportional set size).
    """
    total = 0
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        for member in (process, *process.children(recursive=True)):
            total += _proportional(member.pid)
    return total


def _now() -> float:
    """Seconds since the machine started, the clock by which the kernel dates processes."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _started() -> float:
    """When this process began, to a hundredth of a second (field 22 of `proc_pid_stat(5)`)."""
    # The second field, the program's name in parentheses, may hold spaces.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return int(fields[22 - 3]) / os.sysconf("SC_CLK_TCK")


def _cpu_seconds() -> float:
    spent = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        spent += usage.ru_utime + usage.ru_stime
    return spent


def _peak_and_reset() -> int:
    """The kernel's high-water mark, which is then set back to what is resident now.

    Not `ru_maxrss`: it cannot be set back, and begins with the size of whoever started us.
    """
    peak = _kilobytes(Path("/proc/self/status"), "VmHWM:")
    Path("/proc/self/clear_refs").write_text("5")
    return peak


def _proportional(pid: int) -> int:
    try:
        return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "Pss:")
    except (OSError, LookupError):
        return 0  # it has just ended


def _kilobytes(file: Path, field: str) -> int:
    """A field of one of the kernel's tables, in bytes.

    Raises:
        LookupError: There is none of that name.
    """
    for line in file.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    msg = f"{file} has no {field}"
    raise LookupError(msg)


def ram_bytes() -> int:
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
