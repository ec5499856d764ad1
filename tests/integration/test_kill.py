"""Killed without warning, again and again: what is written stays whole, and a re-run ends with the same scores."""

import itertools
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from tests.helpers.pictures import write_pictures
from tests.helpers.processes import kill, named
from tests.helpers.weights import write_tiny_weights

KILLS = 20
SEED = 0


@pytest.fixture(scope="module")
def command(tmp_path_factory) -> list[str]:
    """A job of many small shards, without its OUT."""
    folder = tmp_path_factory.mktemp("kill")
    weights = write_tiny_weights(folder)
    write_pictures(folder / "images", 60)
    options = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", str(weights), "--image-size", "224"]
    options += [
        "--shard-size",
        "4",
        "--precision",
        "float32",
        "--model-precision",
        "float32",
        "--executor",
        "ray",
        "--quiet",
    ]
    return [sys.executable, "-m", "musc_ray.cli", "run", str(folder / "images"), *options]


def start(command: list[str], out: Path) -> subprocess.Popen:
    return subprocess.Popen([*command[:4], command[4], str(out), *command[5:]], stdout=subprocess.DEVNULL)


def kill_somewhere(process: subprocess.Popen, chance: random.Random) -> str:
    """Kill the driver, or one of its workers, without warning."""
    workers = [child for child in named("ray::", process.pid) if "Agent" not in child.name()]
    victim = chance.choice([psutil.Process(process.pid), *workers])
    name = victim.name()
    kill(victim)
    return name


def scores(out: Path) -> dict[str, tuple]:
    table = ds.dataset(next((out / "runs").iterdir()) / "scores").to_table()
    return {row["image_id"]: (row["score"], row["score_raw"], row["patch_map"]) for row in table.to_pylist()}


@pytest.mark.slow
@pytest.mark.timeout(2400)  # about 25 runs
def test_killed_twenty_times_the_result_is_the_same(command, tmp_path):
    for calm in (tmp_path / "first", tmp_path / "calm"):  # the second finds compiled kernels and warm files
        started = time.monotonic()
        assert start(command, calm).wait() == 0
        whole = time.monotonic() - started
    chance = random.Random(SEED)
    outs = (tmp_path / f"out{number}" for number in itertools.count())
    out, killed = next(outs), []
    while len(killed) < KILLS:
        process = start(command, out)
        try:
            process.wait(timeout=chance.uniform(0.3, 0.9) * whole)
        except subprocess.TimeoutExpired:
            killed.append(kill_somewhere(process, chance))
            if process.poll() is None and killed[-1].startswith("ray::"):
                process.wait(timeout=300)  # a lost worker is made up for within the run
            process.wait()
        for shard in out.glob("features/*/*/shard-*.parquet"):
            assert pq.read_table(shard, columns=["image_id"]).num_rows == 4  # visible means whole
        if list(out.glob("runs/*/run.json")):
            assert len(scores(out)) == 60
            out = next(outs)  # done in spite of it: begin another
    assert start(command, out).wait() == 0
    expected = scores(calm)
    finished = [folder for folder in tmp_path.iterdir() if list(folder.glob("runs/*/run.json"))]
    assert len(finished) >= 2
    for folder in finished:
        result = scores(folder)
        assert result.keys() == expected.keys()
        for image_id, values in result.items():
            for value, wanted in zip(values, expected[image_id], strict=True):
                np.testing.assert_allclose(value, wanted, atol=1e-6)
    assert len(set(killed)) > 1, killed  # drivers and workers both had their turn
