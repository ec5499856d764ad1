"""The executor of a Ray cluster: how many workers a stage asks for, what each gets, and what its errors become."""

import pytest
from ray.exceptions import (
    ActorDiedError,
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayTaskError,
    WorkerCrashedError,
)

from musc_ray.errors import MuscRayError
from musc_ray.runtime import ray_executor
from musc_ray.runtime.executor import ResultLostError, ResultsFullError, WorkerLostError
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.ray_executor import plan_workers
from musc_ray.runtime.worker import WorkerResources
from musc_ray.settings.loading import load_settings


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def planned(resources: dict[str, float], tasks: int = 100, **settings: object) -> WorkerResources:
        monkeypatch.setattr(ray_executor, "_resources", lambda: resources)
        options = ExecutorOptions.of(load_settings(None, settings))
        return plan_workers(options, options.device, tasks)

    return planned


@pytest.mark.parametrize(
    ("resources", "settings", "expected"),
    [
        ({"CPU": 8}, {}, WorkerResources(8, 1, 0.0, 1, "cpu")),
        ({"CPU": 8}, {"threads": 3}, WorkerResources(2, 3, 0.0, 3, "cpu")),
        ({"CPU": 8}, {"workers": 3}, WorkerResources(3, 1, 0.0, 1, "cpu")),
        ({"CPU": 8, "memory": 20e9}, {"max_worker_gb": 6}, WorkerResources(3, 1, 0.0, 1, "cpu", memory=6_000_000_000)),
        ({"CPU": 8, "memory": 5e9}, {"max_worker_gb": 6}, WorkerResources(1, 1, 0.0, 1, "cpu", memory=6_000_000_000)),
        ({"CPU": 8}, {"max_requests": 5}, WorkerResources(8, 1, 0.0, 1, "cpu", requests=5)),
        ({"CPU": 8, "GPU": 2}, {}, WorkerResources(2, 4, 1.0, 4, "cuda")),
        ({"CPU": 8, "GPU": 2}, {"threads": 3}, WorkerResources(2, 3, 1.0, 3, "cuda")),
        ({"CPU": 8, "GPU": 2}, {"device": "cpu"}, WorkerResources(8, 1, 0.0, 1, "cpu")),
        # an own Ray does not grow
        ({"CPU": 8}, {"workers": 12}, WorkerResources(8, 1, 0.0, 1, "cpu")),
        # a cluster may: its autoscaler sees what is asked for
        ({"CPU": 8}, {"workers": 12, "address": "a:1"}, WorkerResources(12, 1, 0.0, 1, "cpu")),
        ({}, {"workers": 12, "address": "a:1"}, WorkerResources(12, 1, 0.0, 1, "cpu")),
        ({}, {"workers": 4, "threads": 7, "device": "cuda", "address": "a:1"}, WorkerResources(4, 7, 1.0, 7, "cuda")),
        (
            {"CPU": 8, "GPU": 1},
            {"workers": 4, "threads": 7, "device": "cuda", "address": "a:1"},
            WorkerResources(4, 7, 1.0, 7, "cuda"),
        ),
        ({}, {"address": "a:1"}, WorkerResources(1, 1, 0.0, 1, "cpu")),
    ],
)
def test_workers(plan, resources, settings, expected):
    assert plan(resources, **settings) == expected


def test_no_more_workers_than_tasks(plan):
    assert plan({"CPU": 8}, tasks=3).workers == 3
    assert plan({"CPU": 8}, tasks=3, workers=12, address="a:1").workers == 3


@pytest.mark.parametrize("settings", [{}, {"workers": 2}, {"address": "a:1"}])
def test_a_gpu_that_nobody_adds_is_missing_at_once(plan, settings):
    with pytest.raises(MuscRayError, match="has no GPU"):
        plan({"CPU": 8}, device="cuda", **settings)


def test_a_device_that_was_resolved_before_is_kept(plan, monkeypatch):
    """GPU nodes that come later do not change where a run computes."""
    monkeypatch.setattr(ray_executor, "_resources", lambda: {"CPU": 8, "GPU": 2})
    assert plan_workers(ExecutorOptions(device="auto"), "cpu", 100).device == "cpu"


def wrapped(cause: Exception) -> RayTaskError:
    return RayTaskError("call", "traceback", cause)


def caused(cause: Exception) -> RayTaskError:
    error = wrapped(ValueError("no argument"))
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ActorDiedError(), WorkerLostError),
        (WorkerCrashedError(), WorkerLostError),
        (OutOfMemoryError("a node was short of memory"), WorkerLostError),
        (ObjectLostError("ab" * 28, b"", ""), ResultLostError),
        (wrapped(ObjectLostError("ab" * 28, b"", "")), ResultLostError),
        (caused(ObjectLostError("ab" * 28, b"", "")), ResultLostError),
        (ObjectStoreFullError("full"), ResultsFullError),
        (OutOfDiskError("full"), ResultsFullError),
        (wrapped(KeyError("as it was raised")), KeyError),
    ],
)
def test_errors_of_ray_become_those_of_every_executor(error, kind):
    assert type(ray_executor._translated(error)) is kind
