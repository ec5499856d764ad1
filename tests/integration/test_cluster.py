"""A cluster on this machine, from the command line: the local script, ray job submit, stop, resume, metrics."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import psutil
import pytest
import s3fs
from pyarrow import dataset
from pyarrow.fs import FSSpecHandler, PyFileSystem
from ray._private.runtime_env.packaging import create_package

from musc_ray.cli.errors import STOPPED
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.runtime.telemetry import COUNTERS, GAUGES, metric_name
from tests.helpers import brute_force
from tests.helpers.documents import Document, documents
from tests.helpers.pictures import write_pictures

ROOT = Path(__file__).parents[2]
README = Document(ROOT / "cluster" / "README.md")
GOOD = 10
TOLERANCE = {"patch_map": 1e-2, "score_raw": 1e-2, "score": 1e-2}  # precision auto may be bfloat16
STEP = {"RAY_metrics_report_interval_ms": "1000", "OMP_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Place:
    """A clone of the repository with images and weights beside it, as a user has it."""

    folder: Path

    def sh(self, command: str, **environment: str) -> subprocess.CompletedProcess:
        """A command as typed there, after env.sh if there is one."""
        exports = self.folder / "musc-ray-cluster" / "env.sh"
        given = f". {exports}\n{command}" if exports.exists() else command
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        variables = {**os.environ, "PATH": path, **STEP, **environment}
        variables.pop("PYTHONPATH", None)
        if command.startswith("musc-ray"):
            variables["PYTHONPATH"] = str(self.folder)
        return subprocess.run(
            ["bash", "-c", given], cwd=self.folder, env=variables, capture_output=True, text=True, timeout=600
        )

    @property
    def exports(self) -> dict[str, str]:
        """What env.sh exports."""
        return dict(each.split("=", 1) for each in self.sh("env -0").stdout.split("\0") if "=" in each)

    def store(self) -> s3fs.S3FileSystem:
        given = self.exports
        return s3fs.S3FileSystem(
            key=given["AWS_ACCESS_KEY_ID"],
            secret=given["AWS_SECRET_ACCESS_KEY"],
            endpoint_url=given["AWS_ENDPOINT_URL"],
            skip_instance_cache=True,
            use_listings_cache=False,
        )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("clone"))
    for name in ("cluster", "jobs", "musc_ray"):
        shutil.copytree(ROOT / name, made.folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / ".rayignore", made.folder)
    write_pictures(made.folder / "photos", GOOD)
    (made.folder / "photos" / "broken.png").write_bytes(b"no image")
    write_dinov2_weights(made.folder / "dinov2_vit_s_14.safetensors")
    yield made
    if (made.folder / "musc-ray-cluster").exists():
        made.sh("python cluster/local/cluster.py stop")


@pytest.fixture(scope="module")
def commands() -> dict[str, str]:
    """The commands of cluster/README.md that need a cluster on this machine, by what they do."""
    lines = [line for block in README.blocks if block.need == "cluster" for line in block.lines]
    names = ["start", "env", "put images", "put weights", "submit", "status", "nightly", "stop"]
    return dict(zip(names, lines, strict=True))


@pytest.fixture(scope="module")
def cluster(place, commands) -> str:
    """Start it; returns what was printed."""
    started = place.sh(commands["start"])
    assert started.returncode == 0, started.stdout + started.stderr
    for name in ("put images", "put weights"):
        put = place.sh(commands[name])
        assert put.returncode == 0, put.stderr
    return started.stdout


def metrics(port: str) -> dict[str, dict[str, float]]:
    """Our metrics as Prometheus sees them: by name and stage, summed over drivers."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as answer:
        text = answer.read().decode()
    found: dict[str, dict[str, float]] = {}
    for name, labels, value in re.findall(r"^(ray_musc_ray_\w+)\{(.*)\} (\S+)$", text, flags=re.MULTILINE):
        stage = re.search(r'stage="(\w+)"', labels)[1]
        found.setdefault(name, {}).setdefault(stage, 0.0)
        found[name][stage] += float(value)
    return found


def wait_for(what: Callable[[], object], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.3)


def shards(fs: s3fs.S3FileSystem) -> dict[str, str]:
    """Feature shards and their versions."""
    fs.invalidate_cache()
    return {path: info["ETag"] for path, info in fs.find("plant/results/features", detail=True).items()}


@pytest.mark.slow
def test_a_job_that_is_stopped_goes_on_where_it_was(cluster, place, commands):
    fs, (head_port, *_) = place.store(), re.findall(r"http://127\.0\.0\.1:(\d+)/metrics", cluster)
    small = " --shard-size 2 --set workers=1 --set max_error_fraction=0.2"
    submitted = place.sh(commands["submit"].replace("submit", "submit --no-wait --submission-id first") + small)
    assert submitted.returncode == 0, submitted.stderr
    seen: set[str] = set()
    wait_for(lambda: seen.update(metrics(head_port)) or (len(shards(fs)) >= 1 and "ray_musc_ray_queue" in seen))
    stopped = place.sh("ray job stop first")
    assert "was stopped" in stopped.stdout + stopped.stderr
    log = place.sh("ray job logs first").stdout
    assert STOPPED in log
    assert f"Error: {STOPPED}" not in log
    assert "Traceback" not in log
    first = shards(fs)
    assert len(first) >= 1

    done = place.sh(commands["submit"] + small)
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path: tag for path, tag in shards(fs).items() if path in first} == first
    assert f"{GOOD} images scored, 1 failed" in done.stdout
    readable(done.stdout)

    totals = metrics(head_port)
    counters = {f"ray_{metric_name(figure)}_total" for figure in COUNTERS}
    gauges = {f"ray_{metric_name(figure)}" for figure in GAUGES}
    assert gauges <= seen
    assert counters >= totals.keys() - gauges >= counters - {"ray_musc_ray_errors_total"}
    assert totals["ray_musc_ray_images_total"]["reduce"] == GOOD
    # what the first job had just written when it was stopped may be counted by neither
    assert GOOD + 1 - 4 <= totals["ray_musc_ray_images_total"]["extract"] <= GOOD + 1
    assert totals.get("ray_musc_ray_errors_total", {}).get("extract", 0) <= 1
    assert totals["ray_musc_ray_groups_total"] == {"rank": 1}

    status = place.sh(commands["status"])
    assert status.returncode == 0, status.stderr
    assert "complete" in status.stdout
    secret = place.exports["AWS_SECRET_ACCESS_KEY"]
    (run,) = fs.ls("plant/results/runs", detail=False)
    assert secret not in fs.cat_file(f"{run}/run.json").decode() + done.stdout + log
    assert_scores_are_right(place, fs, run)


def readable(log: str) -> None:
    """Line by line: what the job itself wrote has no control characters and tells its stages."""
    lines = log.splitlines()
    own = lines[next(n for n, line in enumerate(lines) if line.startswith("catalog: started")) :]
    own = own[: next(n for n, line in enumerate(own) if line.startswith("Report: "))]
    assert all(line.isprintable() for line in own)
    for stage in ("catalog", "extract", "mutual", "reduce", "rank"):
        assert any(line.startswith(f"{stage}: started") for line in own)
        assert any(line.startswith(f"{stage}: done after") for line in own)


def assert_scores_are_right(place: Place, fs: s3fs.S3FileSystem, run: str) -> None:
    """What the job wrote equals the formulas over the features that it wrote."""
    table = dataset.dataset(f"{run}/scores", format="parquet", filesystem=PyFileSystem(FSSpecHandler(fs))).to_table()
    rows = {row["image_id"]: row for row in table.to_pylist()}
    assert len(rows) == GOOD
    fs.get("plant/results/features", str(place.folder / "features"), recursive=True)
    (folder,) = (place.folder / "features").glob("*/group=all")
    used = json.loads(fs.cat_file(f"{run}/run.json"))["settings"]
    assert (used["method"], used["degrees"], used["rescoring"]) == ("tuned", [1, 3], "rscon")
    expected_of = brute_force.score_features_folder(folder, (1, 3), rescoring="rscon")
    for image_id, expected in expected_of.items():
        for name, tolerance in TOLERANCE.items():
            assert rows[image_id][name] == pytest.approx(getattr(expected, name), abs=tolerance)


@pytest.mark.slow  # it goes on from the archive of the test above
def test_a_night_scores_what_came_in(cluster, place, commands):
    fs = place.store()
    known = {*(place.folder / "photos").rglob("*.*")}
    write_pictures(place.folder / "photos", GOOD + 3)
    new = {path.name for path in {*(place.folder / "photos").rglob("*.*")} - known}
    put = place.sh(commands["put images"])
    assert put.returncode == 0, put.stderr
    done = place.sh(commands["nightly"] + " --references 6 --set workers=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(new)} new images against 6 earlier ones" in done.stdout
    fs.invalidate_cache()
    runs = [json.loads(fs.cat_file(path)) for path in fs.glob("plant/results/runs/*/run.json")]
    (night,) = [run for run in runs if "night" in run]
    folder = f"plant/results/runs/{night['run_id']}/scores"
    table = dataset.dataset(folder, format="parquet", filesystem=PyFileSystem(FSSpecHandler(fs))).to_table()
    assert {uri.rsplit("/", 1)[-1] for uri in table["uri"].to_pylist()} == new
    assert night["stages"]["extract"]["images"] == len(new)
    again = place.sh(commands["nightly"] + " --set workers=1")
    assert "No new images to score." in again.stdout
    assert again.returncode == 0


@pytest.mark.slow
def test_wrong_settings_fail_the_job_with_one_sentence(cluster, place, commands):
    failed = place.sh(commands["submit"] + " --set shard_sizes=3 2>&1")
    assert failed.returncode == 1  # as ray job submit does for a job that failed
    assert "Error: Unknown setting 'shard_sizes': did you mean 'shard_size'?" in failed.stdout
    assert "failed with exit code 2" in failed.stdout
    assert "Traceback" not in failed.stdout


@pytest.mark.slow
def test_only_code_is_sent_to_the_cluster(cluster, place):
    """Keys, tokens and data lie beside it."""
    for folder in (place.folder, place.folder / "musc-ray-cluster"):
        target = place.folder.parent / f"{folder.name}.zip"
        create_package(str(folder), target, include_gitignore=True)
        with zipfile.ZipFile(target) as package:
            sent = {name.split("/")[0] for name in package.namelist()}
        assert sent == ({"jobs", "musc_ray"} if folder == place.folder else set())


@pytest.mark.slow
def test_nobody_gets_in_without_the_token(cluster, place):
    address = place.exports["RAY_API_SERVER_ADDRESS"]
    with pytest.raises(HTTPError) as refused, urlopen(f"{address}/api/jobs/", timeout=30):
        pass
    assert refused.value.code == 401
    assert (place.folder / "musc-ray-cluster" / "token").stat().st_mode & 0o077 == 0


@pytest.mark.slow
def test_stop_ends_what_start_began(cluster, place, commands):
    state = json.loads((place.folder / "musc-ray-cluster" / "processes.json").read_text())
    family = [child.pid for pid, _ in state["processes"] for child in psutil.Process(pid).children(recursive=True)]
    assert len(family) >= 3
    assert "exists already" in place.sh(commands["start"]).stderr
    assert place.sh(commands["stop"]).returncode == 0
    gone = [*family, *(pid for pid, _ in state["processes"])]
    wait_for(lambda: not any(psutil.pid_exists(pid) and _alive(pid) for pid in gone), 30)
    assert not (place.folder / "musc-ray-cluster").exists()
    assert not Path(state["sockets"]).exists()
    assert "there is no cluster" in place.sh(commands["stop"]).stderr


def _alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_the_command_that_submits_is_the_same_everywhere(commands):
    """What the documents and the jobs show; options may follow."""
    assert {block.need for block in README.blocks} == {"cluster", "cloud"}
    assert commands["submit"] in (ROOT / "jobs" / "archive.py").read_text(encoding="utf-8")
    shown = [command for document in documents() for command in document.commands("ray job submit")]
    archive = [command for command in shown if "jobs/archive.py" in command and "--address" not in command]
    assert len(archive) >= 2
    assert all(command.startswith(commands["submit"]) for command in archive)
