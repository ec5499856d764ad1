"""Stages 3 to 5 on clusters of several nodes: the same scores with any workers and shards, and whatever dies."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import pytest
from ray._private.node import Node as ClusterNode
from ray.cluster_utils import Cluster

import musc_ray
from musc_ray.core.references import reference_window
from musc_ray.runtime.pool import TASKS_PER_WORKER
from musc_ray.scoring import driver as scoring
from musc_ray.storage.retry import StorageError
from tests.helpers import brute_force
from tests.helpers.generated import DEFAULTS, group_features, role, score_generated
from tests.helpers.processes import kill, named

EXACT = {"precision": "float32", "model_precision": "float32"}
LONG = {"images": 300, "grid": [8, 8], "channels": 64, "layers": 3, "shard_size": 6, "settings": EXACT}
"""Enough tiles to die among: 50 shards, 1,275 tiles a layer."""


def start(out: Path, spec: dict, address: str | None = None) -> subprocess.Popen:
    settings = {**spec.get("settings", {}), **({"address": address} if address else {})}
    command = [sys.executable, "-m", "tests.helpers.generated", str(out), json.dumps({**spec, "settings": settings})]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def figures(process: subprocess.Popen) -> dict:
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    return json.loads(stdout.splitlines()[-1])


def scores(out: Path) -> dict[str, dict]:
    return {row["image_id"]: row for row in ds.dataset(out / "runs/generated/scores").to_table().to_pylist()}


def expected(spec: dict) -> dict[str, tuple[np.ndarray, float]]:
    """Patch map and score of every image, from the whole group at once, without Ray."""
    spec = {**DEFAULTS, **spec}
    result = {}
    for group in range(spec["groups"]):
        ids, class_tokens, layers = group_features(spec, group, range(spec["images"]))
        maps = musc_ray.score_features(layers, tuple(spec["grid"]), precision="float32").numpy()
        size = (14 * spec["grid"][0], 14 * spec["grid"][1])
        raw = [brute_force.pixel_map(m.reshape(spec["grid"]), size).max() for m in maps]
        final = musc_ray.rescore(np.array(raw), class_tokens)
        result |= {image_id: (maps[i], final[i]) for i, image_id in enumerate(ids)}
    return result


def assert_same(out: Path, wanted: dict[str, tuple[np.ndarray, float]]) -> None:
    rows = scores(out)
    assert rows.keys() == wanted.keys()
    for image_id, (patch_map, score) in wanted.items():
        np.testing.assert_allclose(rows[image_id]["patch_map"], patch_map, atol=1e-6)
        np.testing.assert_allclose(rows[image_id]["score"], score, atol=1e-5)


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without CPUs and three nodes with one each."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    for _ in range(3):
        made.add_node(num_cpus=1, object_store_memory=2**27)
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def long_expected() -> dict[str, tuple[np.ndarray, float]]:
    return expected(LONG)


@pytest.mark.slow
def test_workers_and_shards_change_nothing(tmp_path, shared_ray):
    """Each run equals the formulas, and the runs each other."""
    runs, wanted = [], expected({"groups": 2})
    for workers, shard_size in ((1, 60), (2, 7), (4, 13)):
        out = tmp_path / str(workers)
        spec = {"shard_size": shard_size, "groups": 2, "settings": {**EXACT, "workers": workers}}
        stats = score_generated(str(out), spec)
        assert stats["mutual"]["pairs"] == 2 * 2 * 60 * 59 // 2  # groups, layers: each pair of images once
        assert stats["mutual"]["lost_workers"] == 0
        assert_same(out, wanted)
        runs.append(scores(out))
    for column in ("score", "score_raw", "patch_map"):
        first, *others = [np.array([run[image_id][column] for image_id in sorted(run)]) for run in runs]
        for other in others:
            np.testing.assert_allclose(other, first, atol=1e-6, rtol=0)


@pytest.mark.parametrize("references", [10, pytest.param(24, marks=pytest.mark.slow)])
def test_references_are_the_same_ones_whatever_the_shards(tmp_path, shared_ray, references):
    """Scores against M references equal the formula with just those distances."""
    spec = {**DEFAULTS, "settings": {**EXACT, "references": references, "seed": 1}}
    for workers, shard_size in ((1, 60), (2, 7)):
        given = {**spec, "shard_size": shard_size, "settings": {**spec["settings"], "workers": workers}}
        out = tmp_path / str(shard_size)
        stats = score_generated(str(out), given)
        assert stats["mutual"]["pairs"] == 2 * 60 * references // 2
        rows = scores(out)
        ids, _, layers = group_features(spec, 0, range(60))
        related = reference_window(60, references, 1).contains(range(60), range(60))
        z = [brute_force.lnamd(layer, (4, 4), degree) for layer in layers for degree in (1, 3, 5)]
        minima = [brute_force.mutual_minima(part) for part in z]
        for i, image_id in enumerate(ids):
            nearest = np.sort(np.stack([part[i][:, related[i]] for part in minima]), axis=2)
            wanted = nearest[:, :, : max(1, int(0.3 * references))].mean(axis=(0, 2))
            np.testing.assert_allclose(rows[image_id]["patch_map"], wanted, atol=1e-5)


@pytest.mark.slow
def test_summaries_of_many_references_are_within_their_bound(tmp_path):
    spec = {"images": 120, "summaries": True, "settings": {**EXACT, "workers": 2}}
    stats = figures(start(tmp_path, spec))
    bound = stats["mutual"]["largest_summary_error"]
    assert 0 < bound < 2e-3
    rows = scores(tmp_path)
    for image_id, (patch_map, _) in expected(spec).items():
        np.testing.assert_allclose(rows[image_id]["patch_map"], patch_map, atol=bound)


@pytest.mark.slow
def test_three_nodes_give_the_same(tmp_path, cluster, long_expected):
    assert figures(start(tmp_path, LONG, cluster.address))["mutual"]["lost_workers"] == 0
    assert_same(tmp_path, long_expected)


def bands(out: Path) -> dict[Path, int]:
    """The bands that are written, and when."""
    found = {}
    for path in out.glob("runs/generated/work/bands/*/*/*.npy"):
        with contextlib.suppress(FileNotFoundError):
            found[path] = path.stat().st_mtime_ns
    return found


def wait_for_bands(out: Path, process: subprocess.Popen, count: int = 3) -> dict[Path, int]:
    """Wait until the mutual stage is under way."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if len(found := bands(out)) >= count:
            return found
        time.sleep(0.02)
    raise AssertionError(process.communicate()[1])


def working_node(cluster: Cluster) -> ClusterNode:
    """A node whose worker is in a call; others may still be starting."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for node in cluster.worker_nodes:
            if named("WorkerProcess.call", node.all_processes["raylet"][0].process.pid):
                return node
        time.sleep(0.02)
    raise AssertionError("no worker is in a call")


def assert_little_was_repeated(stats: dict) -> None:
    """The tasks of the actor that died, and the bands whose parts were lost with it; all tiles are counted once."""
    assert stats["repeated_tasks"] <= TASKS_PER_WORKER
    assert stats["repaired_bands"] <= LONG["images"] / LONG["shard_size"]  # those of the layer in flight, of 3
    assert stats["tiles"] == 3 * 50 * 51 // 2


@pytest.mark.slow
def test_a_worker_killed_among_tiles_changes_nothing(tmp_path, long_expected):
    process = start(tmp_path, {**LONG, "settings": {**EXACT, "workers": 2}})
    wait_for_bands(tmp_path, process)
    kill(named("WorkerProcess.call", process.pid)[0])
    stats = figures(process)
    assert stats["mutual"]["lost_workers"] == 1
    assert_little_was_repeated(stats["mutual"])
    assert_same(tmp_path, long_expected)


@pytest.mark.slow
def test_a_node_removed_among_tiles_changes_nothing(tmp_path, cluster, long_expected):
    process = start(tmp_path, LONG, cluster.address)
    wait_for_bands(tmp_path, process)
    cluster.remove_node(working_node(cluster), allow_graceful=False)
    stats = figures(process)
    assert stats["mutual"]["lost_workers"] == 1
    assert_little_was_repeated(stats["mutual"])
    assert_same(tmp_path, long_expected)


@pytest.mark.slow
def test_a_killed_driver_is_taken_up_at_its_bands(tmp_path, long_expected):
    process = start(tmp_path, {**LONG, "settings": {**EXACT, "workers": 2}})
    wait_for_bands(tmp_path, process, 20)
    process.kill()
    process.communicate()
    written = bands(tmp_path)
    stats = figures(start(tmp_path, {**LONG, "settings": {**EXACT, "workers": 2}}))
    assert {path: when for path, when in bands(tmp_path).items() if path in written} == written
    assert stats["mutual"]["already_done"] > 0
    assert stats["mutual"]["tiles"] + stats["mutual"]["already_done"] == 3 * 50 * 51 // 2
    assert_same(tmp_path, long_expected)


@pytest.mark.slow
def test_an_actor_out_of_memory_goes_on_with_less(tmp_path):
    spec = {"oom": True, "settings": {**EXACT, "workers": 2}}
    stats = figures(start(tmp_path, spec))
    assert 1 <= stats["mutual"]["shrunk_blocks"] <= 2
    assert_same(tmp_path, expected(spec))


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_moment_changes_nothing(tmp_path, shared_ray, monkeypatch):
    monkeypatch.setattr(scoring, "SCORER", role("CrampedScorer"))
    spec = {"settings": {**EXACT, "workers": 2}}
    stats = score_generated(str(tmp_path), spec)
    assert 1 <= stats["mutual"]["repeated_tasks"] <= 2 * TASKS_PER_WORKER
    assert stats["failed"] == {}
    assert_same(tmp_path, expected(spec))


def test_a_disk_that_stays_full_ends_the_run_and_no_group_is_given_up(tmp_path, shared_ray, monkeypatch):
    monkeypatch.setattr(scoring, "SCORER", role("FullScorer"))
    with pytest.raises(StorageError, match=r"The storage failed .*No space left on device: 'scratch'"):
        score_generated(str(tmp_path), {"groups": 2, "settings": {**EXACT, "workers": 1}})


@pytest.mark.slow
def test_a_group_with_a_broken_shard_fails_alone(tmp_path, shared_ray):
    spec = {"groups": 3, "settings": {**EXACT, "workers": 1}}
    score_generated(str(tmp_path), spec)
    first = scores(tmp_path)
    shard = tmp_path / "features/generated/group=group-1/shard-00002.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    for path in bands(tmp_path):
        path.unlink()
    (tmp_path / "runs").rename(tmp_path / "earlier")
    stats = score_generated(str(tmp_path), spec)
    assert list(stats["failed"]) == ["group-1"]
    assert "shard-00002" in stats["failed"]["group-1"]
    assert {row["group"] for row in scores(tmp_path).values()} == {"group-0", "group-2"}
    assert all(row["score"] == pytest.approx(first[key]["score"], abs=1e-6) for key, row in scores(tmp_path).items())


def test_a_group_with_a_broken_band_fails_alone(tmp_path, shared_ray):
    spec = {"groups": 2, "images": 20, "settings": {**EXACT, "workers": 1}}
    band = tmp_path / "runs/generated/work/bands/group=group-0/layer-01/shard-00001.npy"
    band.parent.mkdir(parents=True)
    band.write_bytes(b"cut off")
    stats = score_generated(str(tmp_path), spec)
    assert list(stats["failed"]) == ["group-0"]
    assert f"{band} is not a readable array" in stats["failed"]["group-0"]
    assert {row["group"] for row in scores(tmp_path).values()} == {"group-1"}
