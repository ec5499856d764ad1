"""Scores of images against others that they stand on no ring with, against loops in float64 and against whole runs."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from musc_ray.core import against, patch_scores
from musc_ray.core.against import nearest_distances, scores_against
from musc_ray.core.kept_patches import KeptPatches
from musc_ray.core.known_good import NearestGood
from musc_ray.core.operands.gpu import UnitVectorShard
from musc_ray.core.operands.int8 import Int8Shard
from musc_ray.core.operands.near import NearShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.precision import distance_dtype
from musc_ray.core.tile_product import multiply_tile
from tests.helpers import brute_force

GRID, DEGREES, CHANNELS, RADIUS, INTERVAL = (3, 4), (1, 3), 24, 1, (0.0, 0.3)
PATCHES, CPU = GRID[0] * GRID[1], torch.device("cpu")
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2, torch.int8: 4e-2}


def tokens_of(grids: int, seed: int = 0) -> torch.Tensor:
    """Make images of one product, or places of them: (grids, L, C) float32."""
    generator = torch.Generator().manual_seed(seed)
    product = torch.randn(1, PATCHES, CHANNELS, generator=generator)
    return product + 0.7 * torch.randn(grids, PATCHES, CHANNELS, generator=generator)


def minima_of(tokens: torch.Tensor, radius: int | None = None, places: int = 1) -> np.ndarray:
    """Distances (D, N, P*L, N) in float64, NaN of an image to itself."""
    vectors = [brute_force.lnamd(tokens.numpy(), GRID, degree) for degree in DEGREES]
    if radius is None:
        return np.stack([brute_force.minima_over_places(z, places) for z in vectors])
    return np.stack([brute_force.near_minima_over_places(z, GRID, radius, places) for z in vectors])


def averages(minima: np.ndarray, count: np.ndarray, interval: tuple[float, float] = INTERVAL) -> np.ndarray:
    """Interval averages (D, A, L) of distances (D, A, L, B) to the images that count (A, B), inf where none does."""
    found = np.full(minima.shape[:3], np.inf)
    for image, of_image in enumerate(count):
        values = np.sort(minima[:, image][..., of_image], axis=-1)
        if of_image.any():
            low = min(int(interval[0] * of_image.sum()), of_image.sum() - 1)
            found[:, image] = values[..., low : max(low + 1, int(interval[1] * of_image.sum()))].mean(axis=-1)
    return found


@pytest.mark.parametrize("places", [1, 3])
@pytest.mark.parametrize("radius", [None, RADIUS])
@pytest.mark.parametrize("dtype", list(TOLERANCES))
def test_against_loops(dtype, radius, places):
    tokens = tokens_of(9 * places)
    minima = minima_of(tokens, radius, places)[:, :2, :, 2:]
    query, *references = (
        prepare(part, GRID, DEGREES, dtype, radius=radius, places=places)
        for part in tokens.split([2 * places, 4 * places, 3 * places])
    )
    everyone = np.ones((2, 7), bool)
    nearest = nearest_distances(query, references, [None, None])
    assert nearest.dtype == torch.float32
    np.testing.assert_allclose(nearest, minima.min(axis=3), atol=TOLERANCES[dtype])
    scores = scores_against(query, references, [None, None], INTERVAL, None, CPU)
    np.testing.assert_allclose(scores, averages(minima, everyone).mean(axis=0), atol=TOLERANCES[dtype])
    at_most = torch.full((len(DEGREES), 2, places * PATCHES), 0.5)
    at_most[0, 1] = torch.inf
    at_most[1, 0] = nearest[1, 0] / 2  # below the average of this degree alone
    limited = [brute_force.with_known_good(a, g, 3) for a, g in zip(averages(minima, everyone), at_most, strict=True)]
    found = scores_against(query, references, [None, None], INTERVAL, NearestGood(at_most, 3), CPU)
    np.testing.assert_allclose(found, np.mean(limited, axis=0), atol=TOLERANCES[dtype])


@pytest.mark.parametrize("form", [UnitVectorShard, Int8Shard, NearShard])
def test_forms_that_this_machine_does_not_choose(form):
    dtype = torch.float32 if form is UnitVectorShard else torch.int8
    tokens = tokens_of(8)
    arguments = {UnitVectorShard: (dtype,), Int8Shard: (), NearShard: (dtype, RADIUS)}[form]
    query, *references = (form(part, GRID, DEGREES, *arguments) for part in tokens.split([2, 3, 3]))
    minima = minima_of(tokens, RADIUS if form is NearShard else None)[:, :2, :, 2:]
    np.testing.assert_allclose(
        nearest_distances(query, references, [None, None]), minima.min(axis=3), atol=TOLERANCES[dtype]
    )


@pytest.mark.parametrize("radius", [None, RADIUS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_kept_patches(dtype, radius):
    """Only kept patches are scored, and compared with: the same numbers as those of a run of all images."""
    flags = np.random.default_rng(1).random((8, PATCHES)) < 0.6
    flags[:, 0] = True
    used = flags.any(axis=0)
    tokens = tokens_of(8)
    whole = prepare(tokens, GRID, DEGREES, dtype, radius=radius, kept=KeptPatches(flags, used))
    parts = [slice(0, 1), slice(1, 5), slice(5, 8)]
    query, *references = (
        prepare(tokens[part], GRID, DEGREES, dtype, radius=radius, kept=KeptPatches(flags[part], used))
        for part in parts
    )
    rows, _ = multiply_tile(whole, whole, distance_dtype(dtype))
    expected, _ = patch_scores.patch_scores([rows], 7, INTERVAL, CPU)
    found = scores_against(query, references, [None, None], INTERVAL, None, CPU)
    kept = query.patches
    assert found.shape == (1, kept) == (1, flags[0].sum())
    np.testing.assert_allclose(found[0], expected[0, :kept], atol=1e-5 if dtype != torch.bfloat16 else 5e-3)
    nearest = nearest_distances(query, references, [None, None])
    np.testing.assert_allclose(
        nearest[:, 0], rows[:, 0, :kept, 1:].float().amin(dim=2), atol=1e-5 if dtype != torch.bfloat16 else 5e-3
    )


@hypothesis_settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_scores_are_those_of_a_run_that_holds_the_images(data):
    """Of any split of any images into shards, one of which is asked about: the band of a run of all of them."""
    images = data.draw(st.integers(2, 9))
    low = data.draw(st.sampled_from([0.0, 0.2]))
    interval = (low, data.draw(st.sampled_from([0.3, 0.7, 1.0])))
    dtype = data.draw(st.sampled_from([torch.float32, torch.int8]))
    tokens = tokens_of(images, data.draw(st.integers(0, 5)))
    if data.draw(st.booleans()):
        tokens[-1] = tokens[0]  # a copy is a reference like others
    ends = sorted({0, images, *data.draw(st.lists(st.integers(1, images - 1), max_size=4))})
    shards = [prepare(tokens[a:b], GRID, DEGREES, dtype) for a, b in pairwise(ends)]
    asked = data.draw(st.integers(0, len(shards) - 1))
    whole = prepare(tokens, GRID, DEGREES, dtype)
    rows, _ = multiply_tile(whole, whole, distance_dtype(dtype))
    expected, _ = patch_scores.patch_scores([rows], images - 1, interval, CPU)
    found = scores_against(shards[asked], shards, [None] * len(shards), interval, None, CPU)
    np.testing.assert_allclose(found, expected[ends[asked] : ends[asked + 1]], atol=1e-5)


@hypothesis_settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_only_images_that_count_are_references(data):
    sizes = data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=3))
    tokens = tokens_of(2 + sum(sizes))
    query, *references = (prepare(part, GRID, DEGREES) for part in tokens.split([2, *sizes]))
    flag = st.lists(st.booleans(), min_size=2 * sum(sizes), max_size=2 * sum(sizes))
    count = np.array(data.draw(flag)).reshape(2, -1)
    others = list(torch.from_numpy(count).split(sizes, dim=1))
    minima = minima_of(tokens)[:, :2, :, 2:]
    nearest = nearest_distances(query, references, others)
    expected = np.where(count[None, :, None, :], minima, np.inf).min(axis=3)
    np.testing.assert_allclose(nearest, expected, atol=1e-5)
    scores = scores_against(query, references, others, INTERVAL, None, CPU)
    np.testing.assert_allclose(scores, averages(minima, count).mean(axis=0), atol=1e-5)
    limited = scores_against(query, references, others, INTERVAL, NearestGood(nearest, 0), CPU)
    np.testing.assert_allclose(limited, expected.mean(axis=0), atol=1e-5)
    assert (limited <= scores + 1e-6).all()


def test_a_shard_against_itself_leaves_each_image_out():
    tokens = tokens_of(4)
    minima = np.nan_to_num(minima_of(tokens), nan=np.inf)
    shard = prepare(tokens, GRID, DEGREES)
    np.testing.assert_allclose(nearest_distances(shard, [shard], [None]), minima.min(axis=3), atol=1e-5)
    count = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 0], [0, 0, 1, 1], [0, 0, 0, 1]], dtype=torch.bool)
    found = nearest_distances(shard, [shard], [count])
    for image, other in [(0, 1), (1, 2), (2, 3)]:
        np.testing.assert_allclose(found[:, image], minima[:, image, :, other], atol=1e-5)
    assert found[:, 3].isinf().all()


def test_nothing_to_compare_with():
    query = prepare(tokens_of(2), GRID, DEGREES)
    assert nearest_distances(query, [], []).isinf().all()
    assert scores_against(query, [], [], INTERVAL, None, CPU).isinf().all()
    at_most = torch.rand(len(DEGREES), 2, PATCHES)
    found = scores_against(query, [query], [torch.eye(2, dtype=torch.bool)], INTERVAL, NearestGood(at_most, 1), CPU)
    torch.testing.assert_close(found, at_most.mean(dim=0))
    with pytest.raises(ValueError, match="argument"):
        nearest_distances(query, [query], [])


def test_many_references_are_summarised(monkeypatch):
    """Beyond the largest number of exact references scores are those of a run, which summarises, too."""
    monkeypatch.setattr(against, "MAX_EXACT_REFERENCES", 6)
    monkeypatch.setattr(patch_scores, "MAX_EXACT_REFERENCES", 6)
    monkeypatch.setattr(against, "SUMMARY_CHUNK", 5)
    tokens = tokens_of(21)
    query, *references = (prepare(part, GRID, DEGREES) for part in tokens.split([2, 4, 4, 4, 4, 3]))
    rows, _ = multiply_tile(query, prepare(tokens[2:], GRID, DEGREES))
    at_most = torch.full((len(DEGREES), 2, PATCHES), 0.8)
    for limits in (None, NearestGood(at_most, 4)):
        expected, error = patch_scores.patch_scores([rows], 19, INTERVAL, CPU, limits)
        found = scores_against(query, references, [None] * 5, INTERVAL, limits, CPU)
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
        exact = patch_scores.exact_scores([rows], 19, INTERVAL, CPU, limits)
        assert 0 < error < 4e-3
        torch.testing.assert_close(found, exact, atol=error + 1e-6, rtol=0)
    others = [torch.ones(2, size, dtype=torch.bool) for size in (4, 4, 4, 4, 3)]
    others[0][0], others[1][0], others[2][0], others[3][0, :3] = False, False, False, False
    few = scores_against(query, references, others, INTERVAL, None, CPU)  # image 0 has 4, image 1 has 19
    torch.testing.assert_close(few[1], patch_scores.patch_scores([rows], 19, INTERVAL, CPU)[0][1], atol=1e-6, rtol=0)
    exact = averages(minima_of(tokens)[:, :2, :, 2:], torch.cat(others, dim=1).numpy()).mean(axis=0)
    np.testing.assert_allclose(few, exact, atol=4e-3)
