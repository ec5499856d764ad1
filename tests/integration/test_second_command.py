"""A run at work: its status beside it, a second command that is refused, and a stop that leaves all of it resumable."""

import json
import signal
import subprocess
import sys

import pytest

from musc_ray.cli.errors import STOPPED
from tests.helpers.pictures import write_pictures


@pytest.fixture
def arguments(tmp_path, tiny_weights) -> list[str]:
    """A run of many small shards, in the process of the command."""
    write_pictures(tmp_path / "images", 200)
    options = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", str(tiny_weights)]
    options += ["--shard-size", "2", "--executor", "process", "--device", "cpu"]
    return ["run", str(tmp_path / "images"), str(tmp_path / "out"), *options]


def test_a_second_command_is_refused_and_the_status_says_who_is_at_work(arguments, tmp_path, invoke):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "musc_ray.cli", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        lines = iter(process.stderr)
        assert any(line.startswith("extract: started") for line in lines)
        process.send_signal(signal.SIGSTOP)  # it does not end meanwhile
        (status,) = json.loads(invoke("status", out, "--json").stdout)
        second = invoke(*arguments)
        overwriting = invoke(*arguments, "--overwrite")
        process.send_signal(signal.SIGINT)
        process.send_signal(signal.SIGCONT)
        rest = list(lines)
    assert (status["state"], status["process"], status["failure"]) == ("running", process.pid, None)
    for refused in (second, overwriting):
        assert refused.exit_code == 1
        assert f"has been at work in {out}/runs/{status['run_id']} since " in refused.stderr
        assert f"(process {process.pid} on " in refused.stderr
    assert process.returncode == 1
    assert rest[-1] == f"{STOPPED}\n"
    assert any(line.startswith("extract: stopped after") for line in rest)
    (status,) = json.loads(invoke("status", out, "--json").stdout)
    assert (status["state"], status["process"], status["failure"]) == ("stopped", None, None)
    assert "the same command resumes it" in invoke("status", out).stdout
    assert not list(out.glob("runs/*/lease.json"))
