"""The public functions against the brute force: formulas, properties, and what they refuse."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import musc_ray
from musc_ray.core.interval_average import interval_average
from musc_ray.core.kernels import gram
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.operands.cpu import GramShard
from musc_ray.core.operands.gpu import UnitVectorShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.pixel_map import image_scores, pixel_map
from musc_ray.core.rescoring import similar_images
from musc_ray.core.tile_product import multiply_tile
from tests.helpers import brute_force

GRIDS = [(1, 1), (1, 7), (3, 5), (4, 4), (6, 2)]
LONG_GRIDS = [(2, 17), (3, 35), (18, 1)]


def tokens_of(images: int, grid: tuple[int, int], channels: int, seed: int = 0, spread: float = 0.5) -> np.ndarray:
    """Images of one product: a common pattern and each its own noise."""
    generator = np.random.default_rng(seed)
    common = generator.standard_normal((1, grid[0] * grid[1], channels))
    return common + spread * generator.standard_normal((images, grid[0] * grid[1], channels))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("degree", [1, 3, 5])
def test_lnamd(grid, degree):
    tokens = tokens_of(3, grid, 8)
    result = aggregate(layer_norm(torch.from_numpy(tokens)), grid, degree)
    np.testing.assert_allclose(result.numpy(), brute_force.lnamd(tokens, grid, degree), atol=2e-6)


@pytest.mark.parametrize("grid", GRIDS + LONG_GRIDS)
@pytest.mark.parametrize("images", [2, 3, 9])
@pytest.mark.parametrize("interval", [(0.0, 0.3), (0.2, 0.9), (0.0, 1.0)])
def test_patch_maps(grid, images, interval):
    features = [tokens_of(images, grid, 8, seed=1), tokens_of(images, grid, 12, seed=2)]
    expected = brute_force.patch_maps(features, grid, (1, 3, 5), interval)
    result = musc_ray.score_features(features, grid, interval=interval, precision="float32")
    assert result.dtype == torch.float32
    assert result.shape == (images, grid[0] * grid[1])
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(("precision", "tolerance"), [("auto", 1e-3), ("bfloat16", 5e-3), ("float16", 5e-4)])
@pytest.mark.parametrize("images", [12, 70])
def test_low_precision_is_close(precision, tolerance, images):
    features = [tokens_of(images, (4, 3), 64, seed=3).astype(np.float16)]
    expected = brute_force.patch_maps(features, (4, 3))
    result = musc_ray.score_features(features, (4, 3), precision=precision)
    np.testing.assert_allclose(result.numpy(), expected, atol=tolerance)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_both_forms_of_a_shard_give_the_same(precision):
    """What a GPU multiplies, run on the CPU, against what a CPU multiplies."""
    grid, dtype = (3, 4), getattr(torch, precision)
    normalised = layer_norm(torch.from_numpy(tokens_of(6, grid, 32, seed=5)))
    normalised[5] = normalised[2]
    one = multiply_tile(*[GramShard(normalised, grid, (1, 3, 5), dtype)] * 2)[0]
    other = multiply_tile(*[UnitVectorShard(normalised, grid, (1, 3, 5), dtype)] * 2)[0]
    np.testing.assert_allclose(one, other, atol=1e-5 if precision == "float32" else 2e-2)


def test_threads_change_nothing():
    grid = (3, 4)
    shard = prepare(torch.from_numpy(tokens_of(7, grid, 8)), grid, (1, 3))
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(multiply_tile(shard, shard)[0])
    torch.set_num_threads(before)
    np.testing.assert_allclose(results[0], results[1], atol=1e-6)
    np.testing.assert_allclose(results[0], results[2], atol=1e-6)


@pytest.mark.parametrize("degrees", [(7,), (33,), (1, 9, 17)])
@pytest.mark.parametrize("grid", [(3, 5), (5, 20), (19, 2)])
@pytest.mark.slow
def test_wide_neighbourhoods(degrees, grid):
    features = [tokens_of(4, grid, 24, seed=2)]
    expected = brute_force.patch_maps(features, grid, degrees)
    result = musc_ray.score_features(features, grid, degrees=degrees, precision="float32")
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)


@given(
    rows=st.integers(1, 5),
    length=st.integers(1, 80),
    seed=st.integers(0, 1000),
    levels=st.sampled_from([1, 3, 1000]),
    interval=st.sampled_from([(0.0, 0.3), (0.2, 0.5), (0.0, 1.0), (0.9, 1.0)]),
    half=st.booleans(),
)
def test_interval_average_is_a_mean_of_sorted_distances(rows, length, seed, levels, interval, half):
    """With ties, zeros and distances that do not count."""
    generator = np.random.default_rng(seed)
    values = np.sort(generator.integers(0, levels, (rows, length)) / levels * 2, axis=1).astype(np.float32)
    if half:
        values = values.astype(np.float16)
    padded = np.full((rows, length + 3), np.inf, values.dtype)
    places = generator.permutation(length + 3)[:length]
    padded[:, places] = values
    start = min(int(interval[0] * length), length - 1)
    expected = values[:, start : max(start + 1, int(interval[1] * length))].astype(np.float64).mean(axis=1)
    result = interval_average(torch.from_numpy(padded), length, interval)
    np.testing.assert_allclose(result, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_negative_zero_is_the_smallest_distance(dtype):
    values = torch.tensor([[0.5, -0.0, torch.inf, 1.0], [-0.0, -0.0, torch.inf, 0.25]], dtype=dtype)
    assert interval_average(values, 3, (0.0, 0.67)).tolist() == [0.25, 0.0]


def test_duplicates_and_constant_images_come_out_exact():
    features = tokens_of(8, (3, 4), 16)
    features[5] = features[2]  # an exact copy
    features[6] = features[2] + 1e-4 * features[3]  # and nearly one
    features[7] = 3.0  # no structure at all: zero vectors after LNAMD
    expected = brute_force.patch_maps([features], (3, 4), interval=(0.0, 0.1))
    result = musc_ray.score_features([features], (3, 4), interval=(0.0, 0.1), precision="float32")
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-4)
    assert result[2].max() < 1e-4
    assert result[2].max() == result[5].max()


@given(seed=st.integers(0, 10_000), images=st.integers(2, 8), grid=st.sampled_from(GRIDS + LONG_GRIDS))
@hypothesis_settings(max_examples=25)
def test_permuting_images_permutes_scores(seed, images, grid):
    features = tokens_of(images, grid, 8, seed)
    order = np.random.default_rng(seed).permutation(images)
    straight = musc_ray.score_features([features], grid, precision="float32")
    permuted = musc_ray.score_features([features[order]], grid, precision="float32")
    np.testing.assert_allclose(permuted.numpy(), straight.numpy()[order], atol=1e-6)


@given(seed=st.integers(0, 10_000), cut=st.integers(1, 8))
@hypothesis_settings(max_examples=25)
def test_sharding_changes_nothing(seed, cut):
    """Minima of a whole equal those of its tiles put together, in both directions."""
    grid = (3, 4)
    tokens = torch.from_numpy(tokens_of(9, grid, 8, seed))
    whole, _ = multiply_tile(*[prepare(tokens, grid, (1, 3))] * 2)
    a, b = prepare(tokens[:cut], grid, (1, 3)), prepare(tokens[cut:], grid, (1, 3))
    rows, columns = multiply_tile(a, b)
    own_a, own_b = multiply_tile(a, a)[0], multiply_tile(b, b)[0]
    np.testing.assert_allclose(torch.cat([own_a, rows], dim=3), whole[:, :cut], atol=1e-5)
    np.testing.assert_allclose(torch.cat([columns, own_b], dim=3), whole[:, cut:], atol=1e-5)


@pytest.mark.parametrize("kept_bytes", [1, 2**12])
def test_strips_of_a_grid_fit_together(monkeypatch, kept_bytes):
    grid = (7, 19)
    shard = prepare(torch.from_numpy(tokens_of(4, grid, 8)), grid, (1, 3, 5))
    whole, _ = multiply_tile(shard, shard)
    monkeypatch.setattr(gram, "KEPT_BYTES", kept_bytes)
    torch.testing.assert_close(multiply_tile(shard, shard)[0], whole, atol=1e-6, rtol=0)


def test_chunks_of_a_tile_fit_together(monkeypatch):
    grid = (2, 3)
    tokens = torch.from_numpy(tokens_of(7, grid, 8))
    shard = prepare(tokens, grid, (1, 3))
    whole, _ = multiply_tile(shard, shard)
    monkeypatch.setitem(musc_ray.core.operands.base.PRODUCT_CHUNK, "cpu", 4 * 6**2)  # chunks of 2 x 2 images
    chunks, _ = multiply_tile(shard, shard)
    np.testing.assert_allclose(chunks, whole, atol=1e-6)
    assert torch.isinf(whole.diagonal(dim1=1, dim2=3)).all()


@pytest.mark.parametrize("image_size", [(1, 1), (7, 9), (28, 14)])
@pytest.mark.parametrize("grid", GRIDS)
def test_pixel_map_and_raw_score(grid, image_size):
    maps = np.random.default_rng(0).random((3, *grid)).astype(np.float32)
    expected = np.stack([brute_force.pixel_map(m, image_size) for m in maps])
    np.testing.assert_allclose(pixel_map(torch.from_numpy(maps), image_size), expected, atol=1e-6)
    np.testing.assert_allclose(image_scores(torch.from_numpy(maps), image_size), expected.max(axis=(1, 2)), atol=1e-6)


@given(
    seed=st.integers(0, 10_000), images=st.integers(1, 12), k_list=st.lists(st.integers(1, 15), min_size=1, max_size=4)
)
def test_rscin(seed, images, k_list):
    generator = np.random.default_rng(seed)
    scores, tokens = generator.random(images), generator.standard_normal((images, 6)) + 2.0
    result = musc_ray.rescore(scores, tokens, k_list)
    np.testing.assert_allclose(result, brute_force.rscin(scores, tokens, k_list), atol=1e-5)
    np.testing.assert_allclose(musc_ray.rescore(scores, 7.5 * tokens, k_list), result, atol=1e-6)
    order = generator.permutation(images)
    np.testing.assert_allclose(musc_ray.rescore(scores[order], tokens[order], k_list), result[order], atol=1e-5)


def test_rscin_of_copies_counts_the_image_itself_first():
    scores = np.array([0.0, 1.0, 0.5])
    tokens = np.ones((3, 4))
    np.testing.assert_allclose(musc_ray.rescore(scores, tokens, [1]), scores, atol=1e-6)


@pytest.mark.parametrize("sizes", [[300], [100, 1, 2, 197], [64] * 4 + [44]])
def test_neighbours_found_part_by_part_are_those_of_the_whole(sizes):
    tokens = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    tokens[7] = tokens[250]  # each must come first in its own row
    parts = np.split(tokens, np.cumsum(sizes)[:-1])
    unit = tokens / np.linalg.norm(tokens.astype(np.float64), axis=1, keepdims=True)
    cosines = unit @ unit.T
    others = cosines - 3 * np.eye(300)
    nearest = -np.sort(-others, axis=1)[:, :4]
    for queries in (range(300), range(3, 10), range(299, 300)):
        own = np.array(queries)
        similarities, indices = similar_images(tokens[own], own, parts, 5)
        np.testing.assert_array_equal(indices[:, 0], own)
        np.testing.assert_allclose(others[own[:, None], indices[:, 1:]], nearest[own], atol=1e-6)
        np.testing.assert_allclose(similarities, np.hstack([np.ones((len(own), 1)), nearest[own]]), atol=1e-6)


@pytest.mark.parametrize(
    ("features", "grid", "options", "what"),
    [
        ([], (1, 1), {}, "at least one layer"),
        ([np.zeros((3, 4, 2))], (3, 3), {}, "grid"),
        ([np.zeros((3, 4))], (2, 2), {}, "N, h\\*w, C"),
        ([np.zeros((1, 4, 2))], (2, 2), {}, "at least 2 images"),
        ([np.zeros((3, 4, 2)), np.zeros((2, 4, 2))], (2, 2), {}, "features\\[1\\]"),
        ([np.full((3, 4, 2), np.nan)], (2, 2), {}, "NaN"),
        ([np.zeros((3, 4, 2), int)], (2, 2), {}, "float"),
        ([np.zeros((3, 4, 2))], (2, 2), {"degrees": (2,)}, "odd"),
        ([np.zeros((3, 4, 2))], (2, 2), {"degrees": (1, 35)}, "from 1 to 33"),
        ([np.zeros((3, 4, 2))], (2, 2), {"interval": (0.5, 0.5)}, "interval"),
        ([np.zeros((3, 4, 2))], (2, 2), {"precision": "float8"}, "precision"),
    ],
)
def test_score_features_refuses_what_it_cannot_score(features, grid, options, what):
    with pytest.raises(ValueError, match=what):
        musc_ray.score_features(features, grid, **options)


@pytest.mark.parametrize(
    ("scores", "tokens", "k_list", "what"),
    [
        ([0.1, 0.2], np.ones((3, 2)), [1], "same N"),
        ([0.1, float("nan")], np.ones((2, 2)), [1], "NaN"),
        ([0.1, 0.2], np.ones((2, 2)), [0], "k_list"),
        ([0.1, 0.2], np.ones((2, 2)), [], "k_list"),
    ],
)
def test_rescore_refuses_what_it_cannot_rescore(scores, tokens, k_list, what):
    with pytest.raises(ValueError, match=what):
        musc_ray.rescore(scores, tokens, k_list)


@pytest.mark.parametrize("matching", ["anywhere", "near"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_an_image_and_its_copy_are_at_distance_zero(precision, matching):
    tokens = np.random.default_rng(0).normal(size=(5, 12, 16))
    found = musc_ray.score_features([np.concatenate([tokens, tokens])], (3, 4), precision=precision, matching=matching)
    nearest = musc_ray.score_features(
        [np.concatenate([tokens, tokens])], (3, 4), interval=(0.0, 0.1), precision=precision, matching=matching
    )
    assert (nearest == 0).all()
    assert (found > 0).all()  # the second nearest counts, too
