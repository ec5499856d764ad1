"""Processes below this one: who they are, and their sudden end."""

import os
import signal
from collections.abc import Iterator

import psutil


def below(pid: int) -> list[psutil.Process]:
    """All descendants of a process that are alive."""
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def named(part: str, pid: int | None = None) -> list[psutil.Process]:
    """Descendants of a process, or of this one, whose name has this part; Ray names the processes of actors."""
    return sorted(_named(part, os.getpid() if pid is None else pid), key=lambda process: process.pid)


def _named(part: str, pid: int) -> Iterator[psutil.Process]:
    for process in below(pid):
        try:
            if part in process.name() and process.status() != psutil.STATUS_ZOMBIE:
                yield process
        except psutil.NoSuchProcess:
            continue


def kill(process: psutil.Process) -> None:
    """End it without warning."""
    os.kill(process.pid, signal.SIGKILL)
