"""Distances of near duplicates against differences of the shard's own vectors in float64."""

import numpy as np
import pytest
import torch

from musc_ray.core import near_duplicates
from musc_ray.core.lnamd import layer_norm
from musc_ray.core.operands.cpu import GramShard
from musc_ray.core.operands.gpu import UnitVectorShard
from musc_ray.core.tile_product import multiply_tile

GRID, DEGREES, IMAGES = (4, 5), (1, 3), 6
FORMS = [(GramShard, "float32"), (GramShard, "bfloat16"), (UnitVectorShard, "float32"), (UnitVectorShard, "float16")]


def tokens_of(case: str) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    common = torch.randn(1, 20, 32, generator=generator)
    tokens = common + 0.5 * torch.randn(IMAGES, 20, 32, generator=generator)
    noise = torch.randn(tokens.shape, generator=generator)
    if case == "copies":
        tokens[3:] = tokens[:3]
    elif case == "background":
        tokens[:, :12] = tokens[:1, :12]
    elif case == "background with noise":
        tokens[:, :12] = tokens[:1, :12] + 1e-3 * noise[:, :12]
    elif case == "moved copies":  # nearest at another place
        tokens[3:] = tokens[:3].roll(1, dims=1) + 1e-3 * noise[3:]
    elif case == "alike within an image":  # the nearest of many near ones
        tokens[:] = common[:, :1] + 2e-3 * noise
        tokens[:, :2] = noise[:, :2]
    elif case == "one vector":
        tokens[:, :10] = common[:, :1]
    else:
        raise ValueError(case)
    return tokens


CASES = ["copies", "background", "background with noise", "moved copies", "alike within an image", "one vector"]


def expected(a, b, d: int, i: int, j: int, kept: np.ndarray | None = None) -> np.ndarray:
    """(L,) distances of the patches of image i of a to the nearest ones of image j of b."""
    x, y = a.unit_vectors(d, i).double().numpy(), b.unit_vectors(d, j).double().numpy()
    y = y if kept is None else y[kept]
    return np.sqrt(((x[:, None] - y) ** 2).sum(axis=2)).min(axis=1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("form", "precision"), FORMS)
@pytest.mark.parametrize("kept_bytes", [1, 2**28])
def test_distances_below_the_limit_are_exact(monkeypatch, case, form, precision, kept_bytes):
    monkeypatch.setattr(near_duplicates, "KEPT_BYTES", kept_bytes)
    shard = form(layer_norm(tokens_of(case)), GRID, DEGREES, getattr(torch, precision))
    rows, _ = multiply_tile(shard, shard)
    below = 0
    for d in range(len(DEGREES)):
        limit = 0.9 * float(shard.near_duplicate_limits[d])  # just below it a product may fall on the other side
        for i in range(IMAGES):
            for j in range(IMAGES):
                if i != j:
                    exact = expected(shard, shard, d, i, j)
                    near = exact < limit
                    np.testing.assert_allclose(rows[d, i, :, j].numpy()[near], exact[near], atol=2e-6)
                    below += int(near.sum())
    assert below > 30
    if case == "copies":
        assert all((rows[:, i, :, (i + 3) % IMAGES] == 0).all() for i in range(IMAGES))


@pytest.mark.parametrize("case", CASES)
def test_both_directions_of_two_shards(case):
    tokens = layer_norm(tokens_of(case))
    a, b = GramShard(tokens[:2], GRID, DEGREES, torch.bfloat16), GramShard(tokens[2:], GRID, DEGREES, torch.bfloat16)
    rows, columns = multiply_tile(a, b)
    limits = torch.maximum(a.near_duplicate_limits, b.near_duplicate_limits)
    for d in range(len(DEGREES)):
        for i in range(2):
            for j in range(IMAGES - 2):
                there, back = expected(a, b, d, i, j), expected(b, a, d, j, i)
                for found, exact in ((rows[d, i, :, j], there), (columns[d, j, :, i], back)):
                    near = exact < 0.9 * float(limits[d])
                    np.testing.assert_allclose(found.numpy()[near], exact[near], atol=2e-6)


@pytest.mark.parametrize(("form", "precision"), FORMS)
def test_an_excluded_patch_is_not_the_nearest_though_it_is_a_copy(form, precision):
    tokens = layer_norm(tokens_of("copies"))
    left, right = (form(tokens, GRID, DEGREES, getattr(torch, precision)) for _ in range(2))
    excluded = torch.zeros(IMAGES, 20, dtype=torch.bool)
    excluded[:, ::3] = True
    right.exclude(excluded)
    rows, _ = multiply_tile(left, right)
    kept = ~excluded[0].numpy()
    for d in range(len(DEGREES)):
        for i in range(3):
            exact = expected(left, left, d, i, i + 3, kept)
            np.testing.assert_allclose(rows[d, i, kept, i + 3], 0, atol=0)
            np.testing.assert_allclose(rows[d, i, :, i + 3], exact, atol=1e-5 if precision == "float32" else 0.05)
            assert (rows[d, i, ~kept, i + 3] > 0.1).all()


def test_images_of_one_patch():
    tokens = layer_norm(torch.randn(4, 1, 8, generator=torch.Generator().manual_seed(1)))
    tokens[1] = tokens[0]
    shard = GramShard(tokens, (1, 1), (1,), torch.float32)
    rows, _ = multiply_tile(shard, shard)
    assert rows[0, 0, 0, 1] == rows[0, 1, 0, 0] == 0
    np.testing.assert_allclose(rows[0, 2, 0, 3], expected(shard, shard, 0, 2, 3)[0], atol=1e-5)
