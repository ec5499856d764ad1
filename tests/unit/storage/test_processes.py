"""Which process is alive, and how old this one is."""

import os
import subprocess
import sys
import time

import pytest

from musc_ray.storage import processes
from musc_ray.storage.processes import is_alive, machine, seconds_since_start, start_of

DEAD = 2**22 + 1


def test_this_process_is_alive_and_another_start_is_another_process():
    start = start_of(os.getpid())
    assert start > 0
    assert is_alive(os.getpid())
    assert is_alive(os.getpid(), start)
    assert not is_alive(os.getpid(), start + 1)
    assert not is_alive(DEAD)
    assert not is_alive(0)
    assert start_of(DEAD) is None


def test_a_process_that_ended_is_dead_though_nobody_asked_for_its_exit_code():
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_alive(process.pid)
    process.stdin.close()
    while start_of(process.pid) is not None:
        time.sleep(0.01)
    os.kill(process.pid, 0)  # the system still knows it
    assert not is_alive(process.pid)
    process.wait()


def test_without_proc(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "PROC", tmp_path)
    machine.cache_clear()
    assert machine() == ""
    machine.cache_clear()
    assert start_of(os.getpid()) is None
    assert is_alive(os.getpid(), 12)
    assert not is_alive(DEAD)
    assert 0 <= seconds_since_start() <= time.monotonic() - processes.IMPORTED


def test_the_machine_is_the_same_for_all_its_processes():
    code = "from musc_ray.storage.processes import machine; print(machine())"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == machine()
    assert "pid:[" in machine()


def test_the_age_of_a_process_includes_the_start_of_its_interpreter():
    code = (
        "import time\ntime.sleep(0.5)\n"
        "from musc_ray.storage import processes\n"
        "print(processes.seconds_since_start(), time.monotonic() - processes.IMPORTED)"
    )
    begun = time.monotonic()
    age, since_import = map(float, subprocess.check_output([sys.executable, "-c", code], text=True).split())
    assert 0.49 <= age <= time.monotonic() - begun + 0.02  # a tick of the system's clock is 10 ms
    assert since_import < age - 0.4


@pytest.mark.parametrize("ticks", [0, 10**12])
def test_a_start_that_cannot_be_is_not_believed(monkeypatch, ticks):
    """As on systems that fill the field with zero, or count from elsewhere."""
    monkeypatch.setattr(processes, "_stat", lambda pid: ("R", ticks))
    monkeypatch.setattr(time, "clock_gettime", lambda clock: 1e7)
    assert 0 < seconds_since_start() <= time.monotonic() - processes.IMPORTED
