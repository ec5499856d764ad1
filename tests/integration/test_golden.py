"""Scores of a small stored run, computed before the code was rearranged: equal to the last bit on the same machine."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from tests.helpers import golden_run

EXACT = ["variant", "image", "group", "rank"]
VALUES = ["score_raw", "score", "percentile", "patch_map"]
OTHER_MACHINE_TOLERANCE = 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["ray", "process"])
def test_scores_are_those_of_the_stored_run(shared_ray, invoke, executor):
    def run(arguments: list[str]) -> None:
        result = invoke(*arguments, "--executor", executor)
        assert result.exit_code == 0, result.output

    computed, stored = golden_run.compute(run), pq.read_table(golden_run.STORED)
    for name in EXACT:
        assert computed[name].to_pylist() == stored[name].to_pylist(), name
    same_machine = stored.schema.metadata[b"machine"].decode() == golden_run.machine()
    same_machine &= executor == "ray"  # which it was computed with; other numbers of threads round in other places
    for name in VALUES:
        got = np.array(computed[name].to_pylist(), np.float32)
        want = np.array(stored[name].to_pylist(), np.float32)
        if same_machine:
            assert got.tobytes() == want.tobytes(), name
        else:
            np.testing.assert_allclose(got, want, rtol=0, atol=OTHER_MACHINE_TOLERANCE, err_msg=name)
