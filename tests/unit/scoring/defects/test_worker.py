"""The steps on a scoring worker: arrays of a whole group are read once, however many shards need them."""

from collections import Counter

import numpy as np
import pytest

from musc_ray.scoring.defects import worker
from musc_ray.scoring.ring import GroupImages
from musc_ray.storage.arrays import read_array, write_array
from musc_ray.storage.paths import OutPaths

SHARDS, GRID = 5, (2, 2)


@pytest.fixture
def reads(monkeypatch):
    counts = Counter()

    def counting(fs, path):
        counts[path.rpartition("/")[2]] += 1
        return read_array(fs, path)

    monkeypatch.setattr(worker, "read_array", counting)
    return counts


def test_arrays_of_a_group_are_read_once_for_all_shards(tmp_path, reads):
    run_paths = OutPaths.at(str(tmp_path)).run("run")
    group = GroupImages.of("a", {n: [f"{n}{i}" for i in range(3)] for n in range(SHARDS)}, GRID)
    arrays, fs, folder = worker.ArrayCache(run_paths.fs), run_paths.fs, run_paths.repeats("a")
    write_array(fs, f"{folder}/labels.npy", np.ones(group.images, np.int32))
    defects = np.arange(group.images, dtype=np.int32) % 2
    write_array(fs, f"{folder}/defects.npy", defects)
    for shard in group.ring:
        triples = np.array([[shard.first], [1], [(shard.first + 1) % group.images]], np.int64)
        write_array(fs, f"{folder}/links/shard-{shard.number:05d}.npy", triples)
    for shard in group.ring:
        steps = worker.DefectWorker(run_paths, group, arrays)  # as an actor does, one a call
        steps.mark(shard.number)
        found, patches = steps.defects(shard.number)
        assert found.tolist() == defects[shard.slice].tolist()
        assert patches.shape == (3, 4)
        assert steps.affected_images(shard.number)
        steps.excluded(shard.number)
    assert reads["labels.npy"] == 1
    assert reads["defects.npy"] == 1
