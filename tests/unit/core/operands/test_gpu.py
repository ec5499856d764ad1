"""What runs on a GPU, as far as it can be checked without one; and which libraries scoring needs."""

import os
import subprocess
import sys

import pytest
import torch

from musc_ray.core.operands.gpu import UnitVectorShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.tile_product import multiply_tile

pytest.importorskip("triton")

FUSED_AGAINST_PRODUCT = """
import torch
from musc_ray.core.operands.gpu import UnitVectorShard
generator = torch.Generator().manual_seed(0)
for dtype, tolerance in ((torch.float32, 1e-5), (torch.float16, 1e-3)):
    for grid, channels in (((3, 5), 24), ((11, 13), 72)):
        common = torch.randn(1, grid[0] * grid[1], channels, generator=generator)
        a, b = (
            UnitVectorShard(common + torch.randn(images, *common.shape[1:], generator=generator), grid, (1, 3), dtype)
            for images in (3, 2)
        )
        for d in range(2):
            for i, j in ((slice(0, 3), slice(0, 2)), (slice(1, 2), slice(1, 2))):
                fused, product = a._fused_maxima(b, d, i, j), a._product_maxima(b, d, i, j)
                for one, other in zip(fused, product):
                    torch.testing.assert_close(one, other.float(), atol=tolerance, rtol=0)
print("same")
"""

TORCH_AND_NUMBA = """
import sys
for name in ("ray", "faiss", "pyarrow", "fsspec", "pydantic"):
    sys.modules[name] = None
import torch
import musc_ray
generator = torch.Generator().manual_seed(0)
features = [torch.randn(6, 12, 16, generator=generator) for _ in range(2)]
for precision in ("float32", "auto"):
    print(musc_ray.score_features(features, (3, 4), precision=precision).double().sum().item())
"""

ONLY_TORCH = """
import sys
for name in ("ray", "numba", "llvmlite", "faiss", "pyarrow", "fsspec", "pydantic"):
    sys.modules[name] = None
import torch
from musc_ray.core.operands.gpu import UnitVectorShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.score_features import score_features
from musc_ray.core.tile_product import multiply_tile
generator = torch.Generator().manual_seed(0)
shard = UnitVectorShard(torch.randn(6, 12, 16, generator=generator), (3, 4), (1, 3, 5), torch.float32)
distances = multiply_tile(shard, shard)[0]
print(distances[distances.isfinite()].double().sum().item())
"""


def output_of(code: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.slow
def test_the_fused_kernel_gives_what_the_product_gives():
    """In Triton's interpreter, which runs on a CPU."""
    assert output_of(FUSED_AGAINST_PRODUCT, TRITON_INTERPRET="1") == "same\n"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_rows_are_aligned_for_tensor_cores(dtype):
    shard = UnitVectorShard(torch.randn(2, 6, 20), (2, 3), (1, 3), dtype)
    assert all(operand.stride(0) % 8 == 0 for operand in shard.operands)


def test_a_gpu_needs_nothing_but_torch():
    """Its form of a shard, on the CPU: importing and multiplying leave numba, which compiles for CPUs, alone."""
    generator = torch.Generator().manual_seed(0)
    shard = prepare(torch.randn(6, 12, 16, generator=generator), (3, 4), (1, 3, 5))
    distances = multiply_tile(shard, shard)[0]
    expected = distances[distances.isfinite()].double().sum().item()
    assert float(output_of(ONLY_TORCH)) == pytest.approx(expected, abs=1e-3)


def test_scoring_on_a_cpu_needs_nothing_but_torch_and_numba():
    import musc_ray

    generator = torch.Generator().manual_seed(0)
    features = [torch.randn(6, 12, 16, generator=generator) for _ in range(2)]
    expected = musc_ray.score_features(features, (3, 4), precision="float32").double().sum().item()
    assert [float(line) for line in output_of(TORCH_AND_NUMBA).split()] == pytest.approx([expected] * 2, abs=1e-4)
