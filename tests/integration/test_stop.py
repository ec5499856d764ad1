"""SIGTERM to the command: one sentence, exit code 1, no Ray left behind, and the same command goes on from there."""

import signal
import subprocess
import sys

import psutil
import pytest
import ray

from musc_ray.cli.app import _stop
from musc_ray.cli.errors import STOPPED
from musc_ray.runtime.cluster import ray_cluster
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.settings.loading import load_settings
from tests.integration.test_kill import command as killable  # noqa: F401, a job of many small shards, as a fixture


@pytest.mark.parametrize("when", ["catalog: started", pytest.param("extract: started", marks=pytest.mark.slow)])
def test_a_stopped_command_says_so_and_leaves_no_ray(killable, tmp_path, when):  # noqa: F811
    options = [option for option in killable if option != "--quiet"]
    command = [*options[:5], str(tmp_path / "out"), *options[5:]]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    lines = []
    for line in process.stderr:
        lines.append(line)
        if line.startswith(when):
            break
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    lines += process.communicate(timeout=120)[1].splitlines()
    assert process.returncode == 1
    assert lines[-1] == STOPPED
    assert any(line.startswith(f"{when.partition(':')[0]}: stopped after ") for line in lines)
    assert "Traceback" not in "".join(lines)
    assert psutil.wait_procs(family, timeout=60)[1] == []  # none is alive


@pytest.fixture
def handler():
    """The command's own handler of SIGTERM; the test's is put back."""
    before = signal.signal(signal.SIGTERM, _stop)
    yield _stop
    signal.signal(signal.SIGTERM, before)


def test_the_handler_is_there_again_after_ray_has_put_its_own(handler, monkeypatch):
    def init(**options: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    with pytest.raises(KeyboardInterrupt), ray_cluster(ExecutorOptions.of(load_settings())):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # a second one does not disturb the clearing up


def test_a_sigterm_while_ray_starts_stops_the_command_as_later_ones(handler, monkeypatch):
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **options: sys.exit(15))
    with pytest.raises(KeyboardInterrupt), ray_cluster(ExecutorOptions.of(load_settings())):
        pass
