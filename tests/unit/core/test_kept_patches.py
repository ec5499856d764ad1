"""Patches that are kept: from masks, and as what alone is multiplied, against loops over kept patches in float64."""

import numpy as np
import pytest
import torch

import musc_ray
from musc_ray.core.kept_patches import KeptPatches, kept_of_mask
from musc_ray.core.operands.base import FARTHEST
from musc_ray.core.operands.cpu import GramShard
from musc_ray.core.operands.gpu import UnitVectorShard
from musc_ray.core.operands.int8 import Int8Shard
from musc_ray.core.operands.near import NearShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.tile_product import multiply_tile
from tests.helpers import brute_force

GRID = (6, 7)
DEGREES = (1, 3, 5)
CHANNELS = 32
IMAGES = 7
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 1.5e-2, torch.int8: 2.5e-2}


def tokens_of(seed: int = 0) -> torch.Tensor:
    """Make images of one product; the last equals the first, and all begin with the same patches."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randn(1, 42, CHANNELS, generator=generator)
    tokens = tokens + 0.7 * torch.randn(IMAGES, 42, CHANNELS, generator=generator)
    tokens[-1] = tokens[0]
    return tokens


def same_for_all() -> np.ndarray:
    flags = np.ones(GRID, np.bool_)
    flags[:2], flags[3, 2:5], flags[:, -1] = False, False, False
    return np.tile(flags.ravel(), (IMAGES, 1))


def of_each() -> np.ndarray:
    flags = np.random.default_rng(3).random((IMAGES, 42)) < np.linspace(0.2, 0.9, IMAGES)[:, None]
    flags[-1] = flags[0]
    return flags


KEPT = {"the same for all": same_for_all(), "of each image": of_each()}


def minima(tokens: torch.Tensor, kept: np.ndarray, radius: int | None = None) -> np.ndarray:
    """Distances (D, N, L, N) of kept patches to kept ones in float64: NaN of others, inf on the diagonal."""
    y, x = np.divmod(np.arange(42), GRID[1])
    near = np.maximum(abs(y[:, None] - y), abs(x[:, None] - x)) <= (99 if radius is None else radius)
    found = np.full((len(DEGREES), IMAGES, 42, IMAGES), np.nan)
    for d, degree in enumerate(DEGREES):
        z = brute_force.lnamd(tokens.numpy(), GRID, degree)
        for i in range(IMAGES):
            for j in range(IMAGES):
                for m in np.flatnonzero(kept[i]):
                    others = kept[j] & near[m]
                    distances = np.sqrt(((z[j][others] - z[i, m]) ** 2).sum(axis=1))
                    found[d, i, m, j] = np.inf if i == j else distances.min(initial=FARTHEST)
    return found


def spread(kept: KeptPatches, distances: torch.Tensor) -> np.ndarray:
    return np.stack([kept.spread(of_degree.numpy(), np.nan) for of_degree in distances])


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("radius", [None, 1])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_only_kept_patches_are_compared(dtype, radius, name):
    tokens, kept = tokens_of(), KeptPatches(KEPT[name])
    expected = minima(tokens, kept.flags, radius)
    shard = prepare(tokens, GRID, DEGREES, dtype, radius=radius, kept=kept)
    assert shard.patches == kept.flags.sum(axis=1).max()
    found, _ = multiply_tile(shard, shard)
    assert found.shape == (len(DEGREES), IMAGES, kept.most, IMAGES)
    tolerance = max(TOLERANCES[dtype], 1e-4 if radius and dtype == torch.float32 else 0)
    np.testing.assert_allclose(spread(kept, found), expected, atol=tolerance)
    np.testing.assert_array_equal(spread(kept, found)[:, 0, kept.flags[0], -1], 0)  # copies
    parts = [slice(0, 4), slice(4, IMAGES)]
    a, b = (
        prepare(tokens[part], GRID, DEGREES, dtype, radius=radius, kept=KeptPatches(kept.flags[part])) for part in parts
    )
    rows, columns = multiply_tile(a, b)
    np.testing.assert_allclose(spread(a.kept, rows), expected[:, :4, :, 4:], atol=tolerance)
    np.testing.assert_allclose(spread(b.kept, columns), expected[:, 4:, :, :4], atol=tolerance)


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("form", [UnitVectorShard, Int8Shard, NearShard])
def test_forms_that_this_machine_does_not_choose(form, name):
    tokens, kept = tokens_of(), KeptPatches(KEPT[name])
    radius = 2 if form is NearShard else None
    if form is NearShard:
        shard = NearShard(tokens, GRID, DEGREES, torch.int8, radius).keep(kept)
    elif form is Int8Shard:
        shard = Int8Shard(tokens, GRID, DEGREES, kept=kept)
    else:
        shard = UnitVectorShard(tokens, GRID, DEGREES, torch.float32, kept=kept)
    found, _ = multiply_tile(shard, shard)
    tolerance = 1e-5 if form is UnitVectorShard else 2.5e-2
    np.testing.assert_allclose(spread(kept, found), minima(tokens, kept.flags, radius), atol=tolerance)


@pytest.mark.parametrize("radius", [None, 1])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_an_image_that_keeps_nothing_is_as_far_as_can_be(dtype, radius):
    flags = of_each()
    flags[2] = False
    tokens, kept = tokens_of(), KeptPatches(flags)
    tokens[2] = 0  # zero vectors are computed apart
    shard = prepare(tokens, GRID, DEGREES, dtype, radius=radius, kept=kept)
    found = spread(kept, multiply_tile(shard, shard)[0])
    assert np.isnan(found[:, 2]).all()
    others = np.delete(found, 2, axis=1)
    assert (others[..., 2][~np.isnan(others[..., 2])] == FARTHEST).all()
    np.testing.assert_allclose(found, np.where(flags[:, :, None], minima(tokens, flags, radius), np.nan), atol=2.5e-2)


def test_excluded_patches_are_further_ones_that_nobody_is_near_to():
    """Repeated defects are excluded among the kept patches."""
    tokens, kept = tokens_of(), KeptPatches(of_each())
    excluded = kept.flags & (np.random.default_rng(5).random(kept.flags.shape) < 0.3)
    excluded[(excluded == kept.flags).all(axis=1)] = False
    expected = minima(tokens, kept.flags & ~excluded)[:, 0]
    for dtype in (torch.float32, torch.int8):
        left, right = (prepare(tokens[part], GRID, DEGREES, dtype, kept=kept.rows(part)) for part in ([0], range(7)))
        right.exclude(torch.from_numpy(kept.gather(excluded)))
        rows = spread(left.kept, multiply_tile(left, right)[0])
        wanted = np.where(kept.flags[0][:, None], expected, np.nan)
        counted = ~excluded[0]
        np.testing.assert_allclose(rows[:, 0, counted, 1:], wanted[:, counted, 1:], atol=TOLERANCES[dtype])


def test_products_are_of_kept_patches_alone():
    """CPUs multiply the rectangle of the grid that holds the kept patches and what they are averaged with."""
    flags = np.zeros((IMAGES, *GRID), np.bool_)
    flags[:, 1:3, 3:5] = True
    kept = KeptPatches(flags.reshape(IMAGES, -1), flags[0].ravel())
    gram = prepare(tokens_of(), GRID, (1, 3), kept=kept)
    assert isinstance(gram, GramShard)
    assert gram.box == (4, 4)
    assert gram.product(gram, slice(0, 1), slice(0, 1)).shape[1] == 16
    int8 = prepare(tokens_of(), GRID, (1, 3), torch.int8, kept=kept)
    assert int8.patches == 4
    assert int8.nbytes < 0.5 * prepare(tokens_of(), GRID, (1, 3), torch.int8).nbytes


def test_scores_of_the_python_api():
    features = [tokens_of(seed)[:-1] for seed in (0, 1)]
    for flags in (same_for_all()[0], of_each()[:-1]):
        found = musc_ray.score_features(features, GRID, precision="float32", kept=flags).numpy()
        kept = np.broadcast_to(flags, (IMAGES - 1, 42))
        layers = [
            np.stack([_averaged(m) for m in minima(torch.cat([tokens, tokens[:1]]), _with_last(kept))[:, :-1, :, :-1]])
            for tokens in features
        ]
        np.testing.assert_allclose(found, np.where(kept, np.mean(layers, axis=(0, 1)), np.nan), atol=1e-5)
    with pytest.raises(ValueError, match="kept must be"):
        musc_ray.score_features(features, GRID, kept=np.ones(41, bool))
    with pytest.raises(ValueError, match="keeps no patch"):
        musc_ray.score_features(features, GRID, kept=np.zeros(42, bool))


def _with_last(kept: np.ndarray) -> np.ndarray:
    return np.concatenate([kept, kept[:1]])


def _averaged(distances: np.ndarray) -> np.ndarray:
    """Mean of the lowest 30 % of (N, L, N), as `interval: 0,0.3` says: the nearest of 5 others; NaN stays NaN."""
    return np.where(np.isnan(distances).any(axis=2), np.nan, np.sort(distances, axis=2)[..., 0])


def test_patches_that_a_mask_covers_by_half_are_ignored():
    mask = np.zeros((8, 12), bool)
    mask[:4, :6] = True  # patches 0 and 1 of a row of 4
    mask[4:6, 9:] = True  # half of the last patch below
    mask[4:8, 6:7] = True  # a third of the third
    kept = kept_of_mask(mask, (2, 4))
    assert kept.tolist() == [False, False, True, True, True, True, True, False]
    assert kept_of_mask(mask, (1, 1)).tolist() == [True]
    assert kept_of_mask(~mask, (1, 1)).tolist() == [False]


@pytest.mark.parametrize("grid", [(3, 5), (16, 16), (7, 2)])
@pytest.mark.parametrize("box", [(0.0, 0.0, 1.0, 1.0), (0.25, 0.4, 0.8, 1.0)])
def test_masks_of_any_size_and_parts_of_images(grid, box):
    """The share of a patch that is covered, by counting pixels of a mask drawn fine enough."""
    mask = np.random.default_rng(1).random((9, 11)) < 0.5
    fine = mask.repeat(560, axis=0).repeat(560, axis=1)
    height, width = fine.shape
    rows = np.rint(np.linspace(box[0], box[2], grid[0] + 1) * height).astype(int)
    columns = np.rint(np.linspace(box[1], box[3], grid[1] + 1) * width).astype(int)
    shares = [
        fine[rows[y] : rows[y + 1], columns[x] : columns[x + 1]].mean() for y in range(grid[0]) for x in range(grid[1])
    ]
    clear = np.abs(np.array(shares) - 0.5) > 1e-3
    np.testing.assert_array_equal(kept_of_mask(mask, grid, box)[clear], (np.array(shares) < 0.5)[clear])


def test_kept_patches_of_images_with_fewer_repeat_their_first():
    kept = KeptPatches(np.array([[False, True, True], [False, False, True], [False, False, False]]))
    assert (kept.most, kept.patches) == (2, 3)
    assert kept.index.tolist()[:2] == [[1, 2], [2, 2]]
    assert kept.empty.tolist() == [False, False, True]
    values = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(kept.spread(values, np.nan), [[np.nan, 0, 1], [np.nan, np.nan, 2], [np.nan] * 3])
    assert KeptPatches.of(np.ones((2, 2), bool)) is None


@pytest.mark.parametrize("dtype", list(TOLERANCES))
@pytest.mark.parametrize("radius", [None, 1])
def test_places_of_an_image_keep_their_own_patches(dtype, radius):
    """Six grids are two places of three images: the nearest kept patch of both places; one place keeps nothing."""
    tokens, flags = tokens_of()[:6], of_each()[:6]
    flags[3] = False
    kept = KeptPatches(flags)
    shard = prepare(tokens, GRID, DEGREES, dtype, radius=radius, places=2, kept=kept)
    found, _ = multiply_tile(shard, shard)
    assert found.shape == (len(DEGREES), 3, 2 * kept.most, 3)
    grids = torch.cat([tokens, tokens[:1]])
    expected = (
        minima(grids, np.concatenate([flags, flags[:1]]), radius)[:, :6, :, :6].reshape(3, 3, 2, 42, 3, 2).min(-1)
    )
    for d in range(len(DEGREES)):
        by_grid = kept.spread(found[d].reshape(6, kept.most, 3).numpy(), np.nan).reshape(3, 2, 42, 3)
        for image in range(3):
            others = [other for other in range(3) if other != image]
            wanted, got = expected[d, image][..., others], by_grid[image][..., others]
            np.testing.assert_allclose(got, wanted, atol=max(TOLERANCES[dtype], 1e-4 if radius else 0))
