"""Which executor a command gets, and that a command which opens several stays in its cluster."""

import sys
from types import SimpleNamespace

import pytest

from musc_ray.errors import SettingsError
from musc_ray.runtime import cluster, executor
from musc_ray.runtime.executor import MAX_PROCESS_CPUS, choose, joined_cluster, open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings


@pytest.fixture
def machine(monkeypatch):
    """A machine with a number of CPUs and GPUs, on which no Ray runs."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def has(cpus: int = 2, gpus: int = 0, ray_runs: bool = False) -> None:
        monkeypatch.setattr(executor, "usable_cpus", lambda: cpus)
        monkeypatch.setattr(executor, "count_gpus", lambda: gpus)
        monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: ray_runs))

    has()
    return has


def chosen(**settings: object) -> str:
    return choose(ExecutorOptions.of(load_settings(None, settings)))


@pytest.mark.parametrize(
    ("hardware", "settings", "expected"),
    [
        ({}, {}, "process"),
        ({"cpus": MAX_PROCESS_CPUS}, {}, "process"),
        ({"cpus": MAX_PROCESS_CPUS + 1}, {}, "ray"),
        ({"cpus": 64, "gpus": 1}, {}, "process"),
        ({"cpus": 64, "gpus": 1}, {"device": "cpu"}, "ray"),
        ({"cpus": 64, "gpus": 2}, {}, "ray"),
        ({"cpus": 4, "gpus": 2}, {"device": "cpu"}, "process"),
        ({}, {"workers": 1}, "process"),
        ({}, {"workers": 2}, "ray"),
        ({}, {"address": "a:1"}, "ray"),
        ({"ray_runs": True}, {}, "ray"),
        ({}, {"executor": "ray"}, "ray"),
        ({"cpus": 64, "gpus": 8, "ray_runs": True}, {"executor": "process"}, "process"),
    ],
)
def test_the_executor_follows_from_the_settings_and_the_machine(machine, hardware, settings, expected):
    machine(**hardware)
    assert chosen(**settings) == expected


def test_a_submitted_job_computes_on_its_cluster(machine, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert chosen() == "ray"


@pytest.mark.parametrize("settings", [{"address": "a:1"}, {"workers": 2}])
def test_a_process_is_one_worker_without_a_cluster(machine, settings):
    with pytest.raises(SettingsError, match="'executor' is process"):
        chosen(executor="process", **settings)


def test_the_chosen_executor_is_opened(machine):
    with open_executor(ExecutorOptions(executor="process"), Progress(quiet=True)) as opened:
        assert type(opened).__name__ == "ProcessExecutor"
    with open_executor(ExecutorOptions(executor="ray"), Progress(quiet=True)) as opened:
        assert type(opened).__name__ == "RayExecutor"  # nothing is started yet


def test_a_command_joins_its_cluster_once(monkeypatch):
    """A submitted job that leaves its cluster loses its working directory, and cannot join again."""
    joined: list[str] = []
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: joined.count("join") > joined.count("leave"))
    monkeypatch.setattr(cluster.ray, "init", lambda **_: joined.append("join"))
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: joined.append("leave"))
    options = ExecutorOptions(address="a:1")
    with joined_cluster(options):
        for _ in range(2):
            with open_executor(options, Progress(quiet=True)) as inner:
                inner.hardware()
        assert joined == ["join"]
    assert joined == ["join", "leave"]
    with joined_cluster(ExecutorOptions()):
        assert joined == ["join", "leave"], "a Ray of its own is started when it is needed"


def test_an_executor_joins_when_it_is_needed_and_leaves_at_its_end(monkeypatch):
    joined: list[str] = []
    monkeypatch.setattr(cluster.ray, "is_initialized", lambda: joined.count("join") > joined.count("leave"))
    monkeypatch.setattr(cluster.ray, "init", lambda **_: joined.append("join"))
    monkeypatch.setattr(cluster.ray, "shutdown", lambda: joined.append("leave"))
    with open_executor(ExecutorOptions(address="a:1"), Progress(quiet=True)) as opened:
        assert joined == []
        opened.hardware()
        opened.hardware()
        assert joined == ["join"]
    assert joined == ["join", "leave"]
