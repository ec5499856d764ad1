"""Lengths of box sums: equal to sums of neighbours, and on several threads equal to those on one.

The kernel once used memory that it had freed: another thread that got it made wrong lengths, or ended the process.
Hence a process of its own, in which allocations are checked where the C library can.
"""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from musc_ray.core.kernels.gram import box_lengths

CHECKING = Path("/lib/x86_64-linux-gnu/libc_malloc_debug.so.0")

PROGRAM = """
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from musc_ray.core.kernels.gram import box_lengths

vectors = np.random.default_rng(0).standard_normal((16, 64, 384), dtype=np.float32)
want = box_lengths(vectors, (8, 8), 3)
with ThreadPoolExecutor(4) as pool:
    found = pool.map(lambda _: np.array_equal(box_lengths(vectors, (8, 8), 3), want), range(400))
print(all(found))
"""


@pytest.mark.parametrize("channels", [16, 40])
@pytest.mark.parametrize("degree", [1, 3, 5])
@pytest.mark.parametrize("grid", [(1, 1), (3, 5), (8, 8)])
def test_lengths_are_those_of_sums_of_neighbours(grid, degree, channels):
    vectors = np.random.default_rng(0).standard_normal((2, grid[0] * grid[1], channels), dtype=np.float32)
    reach = degree // 2
    planes = np.pad(vectors.reshape(2, *grid, channels).astype(float), ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    sums = sum(planes[:, y : y + grid[0], x : x + grid[1]] for y in range(degree) for x in range(degree))
    want = np.linalg.norm(sums, axis=-1).reshape(2, -1)
    np.testing.assert_allclose(box_lengths(vectors, grid, degree), want, rtol=1e-5)


def test_threads_do_not_disturb_each_other():
    checking = {"LD_PRELOAD": str(CHECKING), "GLIBC_TUNABLES": "glibc.malloc.check=3"} if CHECKING.exists() else {}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, **checking},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr
