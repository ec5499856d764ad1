"""Which process on which machine: whether it is still alive, and how old it is."""

import os
import time
from functools import cache
from pathlib import Path

PROC = Path("/proc")
ENDED = ("Z", "X")
"""States of processes that have ended, and that nobody has asked about yet."""

IMPORTED = time.monotonic()
MAX_START_SECONDS = 60.0
"""The interpreter and the imports before this module took no longer, or the system's times mean something else."""


@cache
def machine() -> str:
    """Return what two processes share whose ids mean the same: a boot of a kernel, and a namespace of process ids.

    Names of hosts are no such thing: containers on a node may have the node's. Empty where the system does not say.
    """
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {(PROC / 'self/ns/pid').readlink()}"
    except OSError:
        return ""


def start_of(pid: int) -> int | None:
    """Return when a process of this machine started, in clock ticks since the boot; None if unknown or it has ended."""
    found = _stat(pid)
    return None if found is None or found[0] in ENDED else found[1]


def is_alive(pid: int, start: int | None = None) -> bool:
    """Return whether a process of this machine is alive.

    Args:
        pid: its id.
        start: of `start_of`; another start means another process, which got the same id. None if unknown.
    """
    if pid <= 0:
        return False
    if _stat(os.getpid()) is not None:  # the system tells
        now = start_of(pid)
        return now is not None and start in (None, now)
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def seconds_since_start() -> float:
    """Return the age of this process; where the system does not say, the time since this module was imported."""
    since_import = time.monotonic() - IMPORTED
    found = _stat(os.getpid())
    if found is None:
        return since_import
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - found[1] / os.sysconf("SC_CLK_TCK")
    return age if 0 <= age - since_import <= MAX_START_SECONDS else since_import


def _stat(pid: int) -> tuple[str, int] | None:
    """Return state and start of a process in ticks since the boot; None where it or /proc is missing."""
    try:
        fields = (PROC / str(pid) / "stat").read_bytes().rpartition(b")")[2].split()  # its name may hold anything
    except OSError:
        return None
    return fields[0].decode(), int(fields[19])
