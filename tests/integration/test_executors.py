"""Both executors do the same: tasks, results, errors, one worker for all stages, and the scores of a run."""

import os
import subprocess
import sys

import pyarrow.dataset as ds
import pytest
from PIL import Image

from musc_ray.backbones.describe import describe_backbone
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.pipeline import run_archive
from musc_ray.runtime.executor import WorkerLostError, open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.pool import MAX_ATTEMPTS, Pool
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from tests.helpers.pictures import write_pictures
from tests.unit.runtime.players import role

EXECUTORS = ("process", "ray")
MAX_DIFFERENCE = 1e-6


@pytest.fixture(params=EXECUTORS)
def executor(request, shared_ray):
    with open_executor(ExecutorOptions(executor=request.param), Progress(quiet=True)) as opened:
        yield opened


def test_results_of_several_values_go_from_call_to_call(executor):
    with Pool(executor, role("Adder"), 2, 10.0) as pool:
        stored = executor.put(5.0)
        tasks = iter([2, 3])
        parts = []
        for _, references, error in pool.run(
            lambda _: next(tasks, None), lambda worker, task: worker.call("parts", task, returns=task)
        ):
            assert error is None
            parts += references
        sums = dict(pool.map(iter([0]), lambda worker, _: worker.call("add", stored, *parts)))
    assert sums == {0: 10 + 5 + 2**15 * (0 + 1 + 0 + 1 + 2)}


def test_a_worker_serves_all_stages(executor):
    """It imports what it needs once."""
    processes = set()
    with Pool(executor, role("Adder"), 1, 0.0) as pool:
        ((_, (process, _, _)),) = pool.map(iter([0]), lambda worker, _: worker.call("where"))
        processes.add(process)
    with Pool(executor, role("Multiplier"), 1, 2.0) as pool:
        assert dict(pool.map(iter([4]), lambda worker, task: worker.call("times", task))) == {4: 8.0}
        processes |= {process for _, process in pool.map(iter([0]), lambda worker, _: worker.call("where"))}
    assert len(processes) == 1


def test_shortages_are_tried_again_and_errors_are_as_they_were_raised(executor):
    with Pool(executor, role("Adder"), 1, 0.0) as pool:
        found = dict(pool.map(iter([7]), lambda worker, task: worker.call("short_of_memory", task, 2)))
        assert found == {7: 2}
        assert pool.repeated == 2
        with pytest.raises(KeyError, match="as it was raised"):
            list(pool.map(iter([0]), lambda worker, _: worker.call("fail")))
    with pytest.raises(MuscRayError, match="do not fit"), Pool(executor, role("Unfit"), 1, "do not fit") as pool:
        list(pool.map(iter([0]), lambda worker, _: worker.call("add")))


def test_a_function_runs_where_workers_run_and_its_errors_come_back(executor):
    here = executor.run_function(os.getpid) == os.getpid()
    assert here == (executor.name == "process")
    assert executor.run_function(max, 3, 5) == 5
    with pytest.raises(SettingsError, match="Unknown backbone"):
        executor.run_function(describe_backbone, "no-such-model")


def test_a_worker_of_ray_that_dies_is_replaced(shared_ray):
    with (
        open_executor(ExecutorOptions(executor="ray"), Progress(quiet=True)) as opened,
        Pool(opened, role("Adder"), 1, 0.0) as pool,
    ):
        ((_, _, error),) = list(pool.run(iter_once(1), lambda worker, _: worker.call("die")))
        assert isinstance(error, WorkerLostError)
        assert pool.lost == MAX_ATTEMPTS
        assert dict(pool.map(iter([1]), lambda worker, task: worker.call("add", task))) == {1: 1.0}


def iter_once(task: int):
    tasks = iter([task])
    return lambda _: next(tasks, None)


def test_scores_are_the_same(tmp_path, shared_ray, tiny_weights):
    """Of two groups, whose images are tall and wide."""
    for path in write_pictures(tmp_path / "images", 24):
        picture = Image.open(path)
        picture.resize((40, 80) if path.parent.name == "line 0" else (120, 60)).save(path)
    rows = {}
    for name in EXECUTORS:
        given = {
            "source": str(tmp_path / "images"), "out": str(tmp_path / name), "executor": name, "shard_size": 5,
            "backbone": "timm:vit_tiny_patch16_224", "weights": str(tiny_weights), "image_size": 64,
            "report_images": 3, "group_by": "{group}/**",
        }  # fmt: skip
        result = run_archive(load_settings(None, given), Progress(quiet=True))
        assert result.run.counts.scored == 24
        assert result.run.resolved.executor == name
        assert result.run.image_sizes == {"line 0": (96, 48), "line 1": (48, 96)}
        table = ds.dataset(result.scores_path).to_table(columns=["uri", "score_raw", "score", "rank", "patch_map"])
        rows[name] = table.sort_by("uri").to_pylist()
        assert (tmp_path / name / "runs" / result.run.run_id / "report" / "index.html").exists()
    for one, other in zip(rows["process"], rows["ray"], strict=True):
        assert (one["uri"], one["rank"]) == (other["uri"], other["rank"])
        for column in ("score_raw", "score", "patch_map"):
            assert one[column] == pytest.approx(other[column], abs=MAX_DIFFERENCE)


DRIVER = """
import sys
from musc_ray.cli import main
try:
    main(sys.argv[1:])
except SystemExit as ended:
    print(ended.code, *(name for name in "FORBIDDEN".split() if name in sys.modules))
"""
FORBIDDEN = "torch torchvision timm open_clip faiss numba pyarrow.dataset"


@pytest.mark.slow
def test_the_driver_of_a_ray_job_imports_no_torch(tmp_path, tiny_weights):
    """Not even for a model that only its library knows: a process of the cluster says what it is."""
    write_pictures(tmp_path / "images", 4)
    options = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", tiny_weights, "--image-size", "32", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER.replace("FORBIDDEN", FORBIDDEN)]
        + [str(part) for part in ("run", tmp_path / "images", tmp_path / "out", "--executor", "ray", *options)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.splitlines()[-1] == "0", done.stdout + done.stderr
