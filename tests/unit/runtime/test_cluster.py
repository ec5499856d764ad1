"""How many actors a stage asks for, and what each gets."""

import pytest

from musc_ray.errors import MuscRayError
from musc_ray.runtime import cluster
from musc_ray.runtime.cluster import ClusterOptions, WorkerResources, plan_workers
from musc_ray.settings.loading import load_settings


@pytest.fixture
def plan(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def planned(resources: dict[str, float], tasks: int = 100, **settings: object) -> WorkerResources:
        monkeypatch.setattr(cluster, "_resources", lambda: resources)
        return plan_workers(ClusterOptions.of(load_settings(None, settings)), tasks)

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
def test_actors(plan, resources, settings, expected):
    assert plan(resources, **settings) == expected


def test_no_more_actors_than_tasks(plan):
    assert plan({"CPU": 8}, tasks=3).workers == 3
    assert plan({"CPU": 8}, tasks=3, workers=12, address="a:1").workers == 3


@pytest.mark.parametrize("settings", [{}, {"workers": 2}, {"address": "a:1"}])
def test_a_gpu_that_nobody_adds_is_missing_at_once(plan, settings):
    with pytest.raises(MuscRayError, match="has no GPU"):
        plan({"CPU": 8}, device="cuda", **settings)


def test_a_command_joins_its_cluster_once(monkeypatch):
    """A submitted job that leaves its cluster loses its working directory, and cannot join again."""
    joined: list[str] = []
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: joined.count("join") > joined.count("leave"))
    monkeypatch.setattr(cluster.ray, "init", lambda **_: joined.append("join"))
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: joined.append("leave"))
    options = ClusterOptions(address="a:1")
    with cluster.joined_cluster(options):
        with cluster.open_hardware(options):
            pass
        with cluster.ray_cluster(options):
            assert joined == ["join"]
    assert joined == ["join", "leave"]
    with cluster.joined_cluster(ClusterOptions()):
        assert joined == ["join", "leave"], "a Ray of its own is started when it is needed"
