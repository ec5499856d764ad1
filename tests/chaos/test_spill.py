"""Ray's spill volume runs full of distances that wait for others: the run ends, and goes on when there is room."""

import subprocess

import numpy as np
import pytest
from ray.cluster_utils import Cluster

from tests.chaos.plant import volume
from tests.integration.test_nodes import EXACT, figures, scores, start

SPEC = {"images": 500, "grid": [16, 16], "channels": 64, "layers": 1, "shard_size": 25, "settings": EXACT}
"""Up to 770 MB of distances wait at a time."""

STORE_MB, SPILL_MB = 80, 40


@pytest.mark.slow
def test_a_full_spill_volume_ends_the_run_and_a_larger_one_lets_it_go_on(tmp_path):
    with volume(tmp_path / "spill", SPILL_MB) as spill:
        if spill is None:
            pytest.skip("only root can mount a small file system")
        head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": STORE_MB * 2**20}
        cluster = Cluster(initialize_head=True, head_node_args={**head, "object_spilling_directory": str(spill)})
        try:
            process = start(tmp_path / "out", SPEC, cluster.address)
            _, stderr = process.communicate(timeout=300)
            assert process.returncode == 1
            assert "StorageError: The storage failed (Local disk is full" in stderr
            assert not list(tmp_path.glob("out/runs/*/scores/*"))
            subprocess.run(["mount", "-o", "remount,size=2g", str(spill)], check=True)
            assert figures(start(tmp_path / "out", SPEC, cluster.address))["failed"] == {}
        finally:
            cluster.shutdown()
    figures(start(tmp_path / "calm", SPEC))
    result, expected = scores(tmp_path / "out"), scores(tmp_path / "calm")
    assert result.keys() == expected.keys()
    for image_id, row in result.items():
        for name in ("score_raw", "score", "patch_map"):
            np.testing.assert_allclose(row[name], expected[image_id][name], rtol=0, atol=1e-6)
