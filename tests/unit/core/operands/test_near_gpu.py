"""Shards of aligned images on a GPU: in Triton's interpreter, the distances of the form that needs PyTorch alone."""

import pytest
import torch

from musc_ray.core.operands import prepare as choice
from musc_ray.core.operands.base import FARTHEST
from musc_ray.core.operands.near import NearShard
from musc_ray.core.operands.near_gpu import FusedNearShard
from musc_ray.core.tile_product import multiply_tile
from tests.helpers.triton_kernels import interpret

TOLERANCES = {torch.int8: 1e-6, torch.float32: 2e-6, torch.float16: 1e-3}


def check_distances() -> None:
    """Both directions of a tile, a diagonal one, copies, near copies, and patches whose neighbours are all excluded."""
    generator = torch.Generator().manual_seed(0)
    for grid, channels, radius in (((1, 1), 5, 1), ((3, 4), 24, 1)):
        patches = grid[0] * grid[1]
        tokens = torch.randn(1, patches, channels, generator=generator)
        tokens = tokens + 0.5 * torch.randn(5, patches, channels, generator=generator)
        tokens[4] = tokens[0]
        tokens[3] = tokens[1] + 2e-4 * torch.randn(patches, channels, generator=generator)
        excluded = torch.zeros(3, patches, dtype=torch.bool)
        excluded.view(3, *grid)[0, : grid[0] - 1, : grid[1] - 1] = True
        for dtype, tolerance in TOLERANCES.items():
            found = []
            for form in (FusedNearShard, NearShard):
                a, b = (form(part, grid, (3,), dtype, radius) for part in tokens.split([2, 3]))
                rows, columns = multiply_tile(a, b)
                assert (rows[:, 0, :, 2] == 0).all()
                assert (columns[:, 2, :, 0] == 0).all()
                diagonal, _ = multiply_tile(b, b)
                b.exclude(excluded)
                without, _ = multiply_tile(a, b)
                assert patches == 1 or (without[:, :, 0, 0] == FARTHEST).all()
                found.append((rows, columns, diagonal, without))
            for one, other in zip(*found, strict=True):
                torch.testing.assert_close(one, other, atol=tolerance, rtol=0)
    print("close")


@pytest.mark.slow
def test_the_kernel_gives_the_distances_of_the_products():
    pytest.importorskip("triton")
    assert interpret(__name__, "check_distances") == "close\n"


def test_near_duplicates_in_float32_are_computed_from_differences():
    grid, generator = (3, 4), torch.Generator().manual_seed(0)
    tokens = torch.randn(3, 12, 24, generator=generator)
    tokens[2] = tokens[0]
    tokens[1] = tokens[0] + 1e-4 * torch.randn(12, 24, generator=generator)
    shard = FusedNearShard(tokens, grid, (1,), torch.float32, 1)
    excluded = torch.zeros(3, 12, dtype=torch.bool)
    excluded[2, 5] = True
    shard.exclude(excluded)
    whole = shard._images(0, slice(0, 3))
    distances = torch.full((3, 12, 3), 5e-3)
    distances[0, 1, 1] = 0.5
    shard._refine_near_duplicates(whole, whole, distances)
    z = shard.operands[0].double()
    assert distances[0, 1, 1] == 0.5
    assert (distances[0, :5, 2] == 0).all()
    assert distances[0, 5, 2] > 0.1
    assert float(distances[0, 7, 1]) == pytest.approx(float((z[7, 0] - z[7, 1]).norm()), rel=1e-3)


@pytest.mark.parametrize(("has_triton", "form"), [(True, FusedNearShard), (False, NearShard)])
def test_a_gpu_takes_the_kernel_where_triton_is(monkeypatch, has_triton, form):
    monkeypatch.setattr(choice, "HAS_TRITON", has_triton)
    assert choice.near_form(torch.device("cuda"), torch.int8) is form
    assert choice.near_form(torch.device("cpu"), torch.float32) is NearShard
