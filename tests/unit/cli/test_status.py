"""The status of runs: complete, running by whom and for how long, failed and why, stopped."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from musc_ray.cli import app
from musc_ray.cli.status import read_status
from musc_ray.runtime.durations import format_duration
from musc_ray.storage import lease as lease_module
from musc_ray.storage.arrays import write_array
from musc_ray.storage.failure import Failure
from musc_ray.storage.filesystem import write_json
from musc_ray.storage.lease import lease
from musc_ray.storage.paths import OutPaths, RunPaths
from tests.helpers.manifests import run_record, started_record

RUN = "run-0123456789ab"
EXTRACT = {
    "name": "extract", "unit": "images", "done": 512, "total": 1000, "earlier": 0, "seconds": 60.0,
    "seconds_left": 57.0, "ended": False,
    "summary": "512/1,000 images (51 %), 8.53 images/s, 57.0 s left, 0.31 TFLOP/s in each worker, and more of it",
}  # fmt: skip


@pytest.fixture(params=["file", "memory"])
def run(request, tmp_path) -> RunPaths:
    """A run that was started, and has extracted half of its images."""
    out = str(tmp_path) if request.param == "file" else f"memory://status{tmp_path}"
    run = OutPaths.at(out).run(RUN)
    write_json(run.fs, run.started_json, started_record(RUN, {"all": 1000}))
    record = {"updated_at": "2026-11-24T15:53:00+00:00", "stages": [EXTRACT], "phases": ["loading the model"]}
    write_json(run.fs, run.progress_json, record)
    return run


def only(run: RunPaths):
    (found,) = read_status(run.uri(run.out.root))
    return found


def printed(run: RunPaths, columns: int = 80) -> str:
    result = CliRunner().invoke(app, ["status", run.uri(run.out.root)], env={"COLUMNS": str(columns)})
    assert result.exit_code == 0, result.output
    return result.stdout


def test_a_run_at_work_says_by_whom_and_how_long_still(run):
    with lease(run.fs, run.lease, "Run"):
        found, text = only(run), printed(run)
    assert (found.state, found.complete) == ("running", False)
    assert (found.process, found.host) == (os.getpid(), lease_module.socket.gethostname())
    assert datetime.fromisoformat(found.running_since) <= datetime.now(UTC)
    assert found.share == pytest.approx(0.1, abs=0.1)
    assert found.seconds_left > 57
    assert found.phases == ["loading the model"]
    assert f"Run {RUN} is running: process {os.getpid()} on {found.host} since 20" in text
    assert f"About {format_duration(found.seconds_left)} left." in text
    assert "loading the model ..." in text
    assert "resumes" not in text


def test_a_run_that_is_nearly_done_is_not_complete(run):
    names = ("extract", "mutual", "reduce", "rank", "report")
    stages = [{**EXTRACT, "name": name, "done": 1000, "seconds_left": None, "ended": True} for name in names]
    write_json(run.fs, run.progress_json, {"updated_at": "2026-11-24T15:53:00+00:00", "stages": stages})
    with lease(run.fs, run.lease, "Run"):
        text = printed(run)
    assert "about 99 %" in text
    assert " left." not in text


def test_a_run_that_no_command_works_on_was_stopped(run):
    found, text = only(run), printed(run)
    assert (found.state, found.process, found.seconds_left) == ("stopped", None, None)
    assert found.share > 0
    assert f"Run {RUN} was stopped or killed: the same command resumes it." in text
    assert "left." not in text


def test_a_run_whose_command_was_killed_was_stopped_too(run):
    if run.fs.protocol == "memory":
        pytest.skip("of another process")
    script = (
        "import sys, time, fsspec\nfrom musc_ray.storage.lease import lease\n"
        f"with lease(fsspec.filesystem('file'), {run.lease!r}, 'Run'):\n    print('held', flush=True)\n    input()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", script], text=True, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        assert (only(run).state, only(run).process) == ("running", process.pid)
        process.kill()
    assert run.fs.exists(run.lease)
    assert only(run).state == "stopped"


def test_a_run_elsewhere_is_running_while_its_lease_is_renewed(run):
    held = {"owner": "x", "host": "node-7", "pid": 1, "since": "2026-11-24T15:51:04+00:00", "renewed": time.time()}
    write_json(run.fs, run.lease, held)
    assert (only(run).state, only(run).host) == ("running", "node-7")
    assert "process 1 on node-7 since 2026-11-24 15:51 UTC" in printed(run)
    write_json(run.fs, run.lease, {**held, "renewed": time.time() - lease_module.LEASE_SECONDS - 1})
    assert only(run).state == "stopped"


def test_a_run_that_failed_says_why_until_it_is_resumed(run):
    Failure(failed_at=datetime.now(UTC), message="The disk [red]/data[/red] is full.").write(run)
    found, text = only(run), printed(run)
    assert (found.state, found.failure) == ("failed", "The disk [red]/data[/red] is full.")
    assert f"Run {RUN} failed: The disk [red]/data[/red] is full." in text
    assert "The same command resumes it." in text
    with lease(run.fs, run.lease, "Run"):
        assert (only(run).state, only(run).failure) == ("running", None)


def test_a_complete_run_is_complete_though_a_lease_is_left(run):
    write_json(run.fs, run.run_json, run_record(RUN))
    with lease(run.fs, run.lease, "Run"):
        found = only(run)
    assert (found.state, found.share, found.seconds_left, found.process) == ("complete", 1.0, None, None)
    assert "100 %" in printed(run)


def test_before_the_first_record_nothing_is_estimated(run):
    run.fs.rm_file(run.progress_json)
    with lease(run.fs, run.lease, "Run"):
        found, text = only(run), printed(run)
    assert (found.share, found.seconds_left, found.updated_at) == (None, None, None)
    assert "is running" in text
    assert "About" not in text


def test_all_of_it_is_one_document(run):
    with lease(run.fs, run.lease, "Run"):
        result = CliRunner().invoke(app, ["status", run.uri(run.out.root), "--json"])
        (document,) = json.loads(result.stdout)
    help_text = " ".join(CliRunner().invoke(app, ["status", "--help"], env={"COLUMNS": "80"}).stdout.split())
    assert document["state"] == "running"
    for key in document:
        assert key in help_text


def test_it_fits_80_columns_of_a_terminal(run, monkeypatch):
    monkeypatch.setattr("musc_ray.cli.output_lists.stdout_console", lambda: Console(width=80))
    with lease(run.fs, run.lease, "Run"):
        text = printed(run)
    assert max(map(len, text.splitlines())) <= 80
    assert "and more of it" in " ".join(text.split())
    table = text.splitlines()[: text.splitlines().index("")]
    assert any(RUN in line and "running" in line and "about " in line and "1,000" in line for line in table)


@pytest.mark.parametrize(
    ("settings", "chosen", "sets"),
    [
        ({"crops": "2x3", "crop_references": "same"}, None, 7),
        ({"crops": "2x3", "crop_references": "all"}, None, 2),
        ({"crops": "2x3"}, None, 2),
        ({"crops": "2x3"}, "same", 7),
        ({"crops": "2x3"}, "all", 2),
        ({"crops": "2x3", "matching": "near", "radius": 2}, None, 7),
    ],
)
def test_bands_of_crops_are_counted(run, settings, chosen, sets):
    record = started_record(RUN, {"all": 1000})
    record["settings"] |= settings
    record["groups"]["all"] |= {"crops": 6, "shards": [0, 1, 2]}
    write_json(run.fs, run.started_json, record)
    if chosen is not None:
        write_json(run.fs, run.settled("crop_references"), {"all": {"meeting": chosen, "reason": "as measured"}})
    layers = record["layers"]
    assert only(run).bands == 3 * sets * len(layers)
    write_array(run.fs, run.band("all", layers[0], 2), np.zeros((2, 2)))
    write_array(run.fs, run.band("all", layers[0], 0, sets - 1), np.zeros((2, 2)))
    assert only(run).bands_done == 2
