"""Patches compared near their own place, against loops in float64."""

import numpy as np
import pytest
import torch

from musc_ray.core.kernels import int8_dot
from musc_ray.core.operands import near
from musc_ray.core.operands.base import FARTHEST
from musc_ray.core.operands.near import NearShard
from musc_ray.core.operands.near_int8 import PackedNearShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.tile_product import multiply_tile
from tests.helpers import brute_force

GRIDS = ((3, 5), (4, 4), (1, 7), (6, 1), (1, 1))
DEGREES = (1, 3, 5)
TOLERANCES = {torch.float32: 1e-4, torch.float16: 2e-3, torch.bfloat16: 1.5e-2, torch.int8: 4e-2}
CHANNELS = 24


def images_of(grid: tuple[int, int], count: int = 7, seed: int = 0) -> torch.Tensor:
    """Make aligned images of one product; the last one but one nearly equals the first, the last is equal to it."""
    generator = torch.Generator().manual_seed(seed)
    product = torch.randn(1, grid[0] * grid[1], CHANNELS, generator=generator)
    tokens = product + 0.7 * torch.randn(count, *product.shape[1:], generator=generator)
    tokens[-2] = tokens[0] + 2e-4 * torch.randn(product.shape[1:], generator=generator)
    tokens[-1] = tokens[0]
    return tokens


def expected(tokens: torch.Tensor, grid: tuple[int, int], radius: int, aggregation: str) -> np.ndarray:
    """Distances (D, N, L, N) in float64, inf on the diagonal."""
    if aggregation == "snamd":
        vectors = [brute_force.snamd(tokens.numpy(), grid, DEGREES)]
    else:
        vectors = [brute_force.lnamd(tokens.numpy(), grid, degree) for degree in DEGREES]
    return np.nan_to_num(np.stack([brute_force.near_minima(z, grid, radius) for z in vectors]), nan=np.inf)


@pytest.mark.parametrize("aggregation", ["lnamd", "snamd"])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_distances_against_loops(grid, dtype, aggregation):
    tokens = images_of(grid)
    for radius in (1, 2, 9):
        shard = prepare(tokens, grid, DEGREES, dtype, aggregation, radius)
        assert isinstance(shard, NearShard)
        found, _ = multiply_tile(shard, shard)
        truth = expected(tokens, grid, radius, aggregation)
        torch.testing.assert_close(found, torch.from_numpy(truth).float(), atol=TOLERANCES[dtype], rtol=0)
        assert (found[:, 0, :, -1] == 0).all()
        assert (found[:, -1, :, 0] == 0).all()
        assert not found.signbit().any()  # -0.0 would sort last


def test_both_directions_of_a_tile_and_chunks_of_any_size(monkeypatch):
    grid, radius = (3, 5), 1
    tokens = images_of(grid, 11)
    truth = torch.from_numpy(expected(tokens, grid, radius, "lnamd")).float()
    for side in (1, 2, 3, 64):
        monkeypatch.setitem(near.CHUNK_SIDE, "cpu", side)
        a, b = (prepare(part, grid, DEGREES, radius=radius) for part in tokens.split([7, 4]))
        rows, columns = multiply_tile(a, b)
        torch.testing.assert_close(rows, truth[:, :7, :, 7:], atol=1e-4, rtol=0)
        torch.testing.assert_close(columns, truth[:, 7:, :, :7], atol=1e-4, rtol=0)
        own, _ = multiply_tile(a, a)
        torch.testing.assert_close(own, truth[:, :7, :, :7], atol=1e-4, rtol=0)


def test_only_pairs_of_the_window_are_finite():
    grid = (4, 4)
    tokens = images_of(grid)
    shard = prepare(tokens, grid, DEGREES, radius=1)
    pairs = torch.zeros(7, 7, dtype=torch.bool)
    pairs[0, 3] = pairs[3, 0] = True
    found, _ = multiply_tile(shard, shard, pairs=pairs)
    truth = torch.from_numpy(expected(tokens, grid, 1, "lnamd")).float()
    torch.testing.assert_close(found[:, 0, :, 3], truth[:, 0, :, 3], atol=1e-4, rtol=0)
    assert found.isinf().all(dim=2).sum() == 3 * (49 - 2)


@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_excluded_patches_never_match_and_without_any_other_the_distance_is_the_largest(dtype):
    grid, radius = (4, 5), 1
    tokens = images_of(grid)
    a, b = (prepare(part, grid, (1,), dtype, radius=radius) for part in tokens.split([3, 4]))
    excluded = torch.zeros(4, 20, dtype=torch.bool)
    excluded.view(4, 4, 5)[0, :3, :3] = True
    excluded.view(4, 4, 5)[3, 0, 0] = True  # of the copy of the first image
    b.exclude(excluded)
    rows, _ = multiply_tile(a, b)

    z = torch.from_numpy(brute_force.lnamd(tokens.numpy(), grid, 1)).view(7, 4, 5, -1)
    for i, row, column, j in np.ndindex(3, 4, 5, 4):
        neighbours = [
            (y, x)
            for y in range(max(0, row - radius), min(4, row + radius + 1))
            for x in range(max(0, column - radius), min(5, column + radius + 1))
            if not excluded.view(4, 4, 5)[j, y, x]
        ]
        distances = [float((z[3 + j, y, x] - z[i, row, column]).norm()) for y, x in neighbours]
        value = float(rows[0, i, 5 * row + column, j])
        assert value == pytest.approx(min(distances, default=FARTHEST), abs=TOLERANCES[dtype])
    assert (rows[0, :, 0, 0] == FARTHEST).all()


def test_zero_vectors_are_at_their_true_distances():
    tokens = images_of((3, 3), 4)
    tokens[1] = 0
    found, _ = multiply_tile(*[prepare(tokens, (3, 3), DEGREES, radius=1)] * 2)
    truth = torch.from_numpy(expected(tokens, (3, 3), 1, "lnamd")).float()
    torch.testing.assert_close(found, truth, atol=1e-4, rtol=0)


def test_int8_is_exact_in_its_integers():
    """Distances are those of the rounded vectors, to the last bit of float32."""
    grid, radius = (3, 4), 1
    tokens = images_of(grid, 5)
    shard = NearShard(tokens, grid, (3,), torch.int8, radius)
    q = shard.operands[0].transpose(0, 1).double().numpy()
    truth = brute_force.near_minima(q, grid, radius) / shard.scale
    found, _ = multiply_tile(shard, shard)
    torch.testing.assert_close(found[0], torch.from_numpy(np.nan_to_num(truth, nan=np.inf)).float(), atol=1e-6, rtol=0)


@pytest.mark.skipif(not int8_dot.AVAILABLE, reason="this CPU has no AVX-512 VNNI")
def test_the_kernel_in_int8_gives_the_numbers_of_plain_products(monkeypatch):
    """For chunks that end anywhere, and with excluded patches."""
    monkeypatch.setitem(near.CHUNK_SIDE, "cpu", 16)
    grid, radius = (5, 3), 1
    tokens = torch.cat([images_of(grid, 20, seed) for seed in (0, 1)])
    excluded = torch.rand(17, 15, generator=torch.Generator().manual_seed(3)) < 0.6
    found = []
    for form in (NearShard, PackedNearShard):
        a, b = (form(part, grid, DEGREES, torch.int8, radius) for part in tokens.split([23, 17]))
        results = [*multiply_tile(a, b), multiply_tile(a, a)[0], a.unit_vectors(1, 5)]
        b.exclude(excluded)
        found.append([*results, multiply_tile(a, b)[0]])
    for plain, packed in zip(*found, strict=True):
        torch.testing.assert_close(plain, packed, atol=5e-7, rtol=0)
    assert (found[1][-1] == FARTHEST).any()
