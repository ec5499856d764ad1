"""The executor of one process keeps what `Pool` promises: results, errors, retries, one worker for all stages."""

import inspect
import io
import itertools
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch

from musc_ray.errors import MuscRayError
from musc_ray.runtime import process_executor
from musc_ray.runtime.hardware import usable_cpus
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.pool import MAX_ATTEMPTS, Pool
from musc_ray.runtime.process_executor import ProcessExecutor
from musc_ray.runtime.progress import Progress
from musc_ray.storage.retry import StorageError
from tests.unit.runtime import players
from tests.unit.runtime.players import role


@pytest.fixture
def executor(monkeypatch):
    monkeypatch.delenv("MUSC_RAY_DEBUG", raising=False)
    monkeypatch.setattr(process_executor, "count_gpus", lambda: 0)
    with ProcessExecutor(ExecutorOptions(executor="process", threads=2), Progress(quiet=True)) as opened:
        yield opened


def test_tasks_are_done_and_results_come_back(executor):
    with Pool(executor, role("Adder"), 20, 100.0) as pool:
        found = dict(pool.map(iter(range(20)), lambda worker, task: worker.call("add", task, 1)))
    assert found == {task: 101.0 + task for task in range(20)}
    assert pool.resources.workers == 1


def test_references_are_replaced_by_their_values(executor):
    with Pool(executor, role("Adder"), 1, 0.0) as pool:
        stored = executor.put(np.array([1.0, 2.0]))
        tasks = iter([3])
        calls = pool.run(lambda _: next(tasks, None), lambda worker, task: worker.call("parts", 3, returns=3))
        ((_, parts, error),) = list(calls)
        assert error is None
        total = dict(pool.map(iter([0]), lambda worker, _: worker.call("add", stored, *parts)))
    assert total[0] == 3.0 + (0 + 1 + 2) * 2**15


def test_no_more_calls_than_the_role_allows_run_at_the_same_time(executor):
    for calls in (1, 2, 3):
        with Pool(executor, role("Adder", calls), 12, 0.0) as pool:
            most = max(found for _, found in pool.map(iter(range(12)), lambda worker, _: worker.call("overlap")))
        assert most == calls


def test_a_role_without_a_number_has_a_call_for_each_thread(executor):
    with Pool(executor, role("Adder", None), 12, 0.0) as pool:
        assert max(found for _, found in pool.map(iter(range(12)), lambda worker, _: worker.call("overlap"))) == 2


def test_a_task_that_runs_out_of_memory_is_tried_again(executor):
    with Pool(executor, role("Adder"), 2, 0.0) as pool:
        found = dict(pool.map(iter([5]), lambda worker, task: worker.call("short_of_memory", task, MAX_ATTEMPTS - 1)))
        assert found == {5: MAX_ATTEMPTS - 1}
        assert pool.repeated == MAX_ATTEMPTS - 1
        with pytest.raises(MemoryError):
            list(pool.map(iter([6]), lambda worker, task: worker.call("short_of_memory", task, MAX_ATTEMPTS)))


def test_errors_are_those_that_were_raised(executor):
    with Pool(executor, role("Adder"), 1, 0.0) as pool:
        with pytest.raises(KeyError, match="as it was raised"):
            list(pool.map(iter([0]), lambda worker, _: worker.call("fail")))
        with pytest.raises(StorageError, match="the store is away"):
            list(pool.map(iter([0]), lambda worker, _: worker.call("unreachable")))


def test_what_a_role_raises_when_it_is_made_reaches_the_caller(executor):
    with (
        pytest.raises(MuscRayError, match="the weights do not fit"),
        Pool(executor, role("Unfit"), 1, "the weights do not fit") as pool,
    ):
        list(pool.map(iter([0]), lambda worker, _: worker.call("add")))
    with (
        pytest.raises(MuscRayError, match="Memory is too short for starting workers, tried 4 times: raise max"),
        Pool(executor, role("Hungry"), 1) as pool,
    ):
        list(pool.map(iter([0]), lambda worker, _: worker.call("add")))


@pytest.mark.parametrize(("error", "outcome"), [(KeyboardInterrupt, "stopped"), (ValueError, "failed")])
def test_the_phase_of_a_beginning_that_did_not_end_is_not_done(executor, error, outcome):
    log = io.StringIO()
    ticks = itertools.count(step=2.0)
    executor.progress = Progress(log, clock=lambda: next(ticks))
    with pytest.raises(error), Pool(executor, role("Adder"), 1, 0.0):
        raise error
    assert f"starting workers: {outcome} after " in log.getvalue()


def test_stages_follow_each_other_in_this_process(executor):
    with Pool(executor, role("Adder"), 1, 1.0) as pool:
        ((_, where),) = pool.map(iter([0]), lambda worker, _: worker.call("where"))
    assert where == (os.getpid(), where[1], 2)
    with Pool(executor, role("Multiplier"), 1, 3.0) as pool:
        assert dict(pool.map(iter([2]), lambda worker, task: worker.call("times", task))) == {2: 6.0}


def test_debugging_makes_calls_on_the_main_thread(executor, monkeypatch):
    monkeypatch.setenv("MUSC_RAY_DEBUG", "1")
    with Pool(executor, role("Adder"), 1, 1.0) as pool:
        ((_, where),) = pool.map(iter([0]), lambda worker, _: worker.call("where"))
    assert where[1] == threading.main_thread().name


def test_limits_of_this_process_are_lifted_at_the_end(monkeypatch):
    import resource

    before = torch.get_num_threads(), resource.getrlimit(resource.RLIMIT_DATA)
    options = ExecutorOptions(executor="process", threads=1, max_worker_gb=200)
    with ProcessExecutor(options, Progress(quiet=True)) as executor, Pool(executor, role("Adder"), 1, 1.0) as pool:
        assert dict(pool.map(iter([1]), lambda worker, task: worker.call("add", task))) == {1: 2.0}
        assert 200 * 10**9 < resource.getrlimit(resource.RLIMIT_DATA)[0] < 220 * 10**9  # beside what was there
    assert (torch.get_num_threads(), resource.getrlimit(resource.RLIMIT_DATA)) == before


def test_the_worker_has_the_machine(monkeypatch):
    monkeypatch.setattr(process_executor, "count_gpus", lambda: 0)
    plan = ProcessExecutor(ExecutorOptions(max_requests=5), Progress(quiet=True)).plan(100)
    assert (plan.workers, plan.threads, plan.device, plan.requests) == (1, usable_cpus(), "cpu", 5)
    with pytest.raises(MuscRayError, match="this machine has no GPU"):
        ProcessExecutor(ExecutorOptions(device="cuda"), Progress(quiet=True)).plan(1)
    monkeypatch.setattr(process_executor, "count_gpus", lambda: 1)
    assert ProcessExecutor(ExecutorOptions(), Progress(quiet=True)).plan(1).device == "cuda"
    assert ProcessExecutor(ExecutorOptions(device="cpu"), Progress(quiet=True)).plan(1).device == "cpu"


def test_a_stop_does_not_wait_for_calls(executor):
    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt), Pool(executor, role("Sleeper"), 1) as pool:
        for _ in pool.run(lambda _: 60.0, lambda worker, task: worker.call("sleep", task)):
            pass
    assert time.monotonic() - started < 30


PDB = """
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.process_executor import ProcessExecutor
from musc_ray.runtime.progress import Progress
from tests.unit.runtime.players import role

with ProcessExecutor(ExecutorOptions(executor="process"), Progress(quiet=True)) as executor:
    with Pool(executor, role("Adder"), 1, 40.0) as pool:
        print(dict(pool.map(iter([2]), lambda worker, task: worker.call("add", task))))
"""


def test_a_debugger_stops_in_a_role(tmp_path):
    (tmp_path / "job.py").write_text(PDB)
    line = inspect.getsourcelines(players.Adder.add)[1] + 1
    commands = f"tbreak {players.__file__}:{line}\nc\np (self.start, numbers)\nc\nq\n"
    process = subprocess.run(
        [sys.executable, "-m", "pdb", str(tmp_path / "job.py")],
        input=commands,
        env={**os.environ, "MUSC_RAY_DEBUG": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert "(40.0, (2,))" in process.stdout, process.stdout + process.stderr
    assert "{2: 42.0}" in process.stdout
