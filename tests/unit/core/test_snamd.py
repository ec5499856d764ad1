"""SNAMD against the brute force: formula, border, properties, both forms of a shard, memory."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import musc_ray
from musc_ray.core import snamd
from musc_ray.core.operands.cpu import GramShard
from musc_ray.core.operands.gpu import UnitVectorShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.tile_product import multiply_tile
from tests.helpers import brute_force

CLEAR_REFS = Path("/proc/self/clear_refs")
GRIDS = [(1, 1), (1, 7), (3, 5), (4, 4), (6, 2), (2, 17)]

PEAK_MEMORY = """
import re, torch
from pathlib import Path
from musc_ray.core import snamd

def kilobytes(name):
    return int(re.search(name + r":\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
tokens = torch.randn(12, 37 * 37, 1024)
snamd.aggregate(tokens[:1], (37, 37), (1, 3, 5))
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = kilobytes("VmRSS")
snamd.aggregate(tokens, (37, 37), (1, 3, 5))
print((kilobytes("VmHWM") - before) * 1024 / tokens.nbytes)
"""


def tokens_of(images: int, grid: tuple[int, int], channels: int, seed: int = 0, near: float = 0.5) -> np.ndarray:
    """Images of one product whose neighbouring patches are alike: weights far from 0 and 1."""
    generator = np.random.default_rng(seed)
    patch = generator.standard_normal((1, 1, channels))
    own = generator.standard_normal((images, grid[0] * grid[1], channels))
    common = generator.standard_normal((1, grid[0] * grid[1], channels))
    return patch + near * (common + 0.5 * own)


def aggregated(tokens: np.ndarray, grid: tuple[int, int], degrees: tuple[int, ...]) -> np.ndarray:
    vectors = snamd.aggregate(torch.from_numpy(tokens), grid, degrees)
    return torch.nn.functional.normalize(vectors, dim=-1).numpy()


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("degrees", [(1,), (3,), (1, 3, 5), (3, 7), (9, 1)])
def test_vectors(grid, degrees):
    tokens = tokens_of(3, grid, 8)
    np.testing.assert_allclose(aggregated(tokens, grid, degrees), brute_force.snamd(tokens, grid, degrees), atol=2e-6)


def test_a_border_by_hand():
    """Two patches (6) and (2) in a row, degree 3: each sees the other, and seven zeros of weight exp(-|itself|)."""
    result = snamd.aggregate(torch.tensor([[[6.0], [2.0]]]), (1, 2), (3,))
    other = np.exp(-4.0)
    expected = [(6 + 2 * other) / (1 + other + 7 * np.exp(-6.0)), (2 + 6 * other) / (1 + other + 7 * np.exp(-2.0))]
    np.testing.assert_allclose(result.flatten(), expected, rtol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("interval", [(0.0, 0.3), (0.2, 0.9)])
def test_patch_maps(grid, interval):
    features = [tokens_of(9, grid, 8, seed=1), tokens_of(9, grid, 12, seed=2)]
    expected = brute_force.patch_maps(features, grid, (1, 3, 5), interval, "snamd")
    result = musc_ray.score_features(features, grid, interval=interval, precision="float32", aggregation="snamd")
    assert (result.dtype, result.shape) == (torch.float32, (9, grid[0] * grid[1]))
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-5)
    plain = musc_ray.score_features(features, grid, interval=interval, precision="float32")
    assert grid == (1, 1) or (result - plain).abs().max() > 1e-3


@pytest.mark.parametrize(("precision", "tolerance"), [("auto", 1e-3), ("bfloat16", 5e-3), ("float16", 5e-4)])
@pytest.mark.parametrize("images", [12, 70])
def test_low_precision_is_close(precision, tolerance, images):
    features = [tokens_of(images, (4, 3), 64, seed=3).astype(np.float16)]
    expected = brute_force.patch_maps(features, (4, 3), aggregation="snamd")
    result = musc_ray.score_features(features, (4, 3), precision=precision, aggregation="snamd")
    np.testing.assert_allclose(result.numpy(), expected, atol=tolerance)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_both_forms_of_a_shard_give_the_same(precision):
    """What a GPU multiplies, run on the CPU, against what a CPU multiplies: one product each."""
    grid, dtype = (3, 4), getattr(torch, precision)
    tokens = torch.from_numpy(tokens_of(6, grid, 32, seed=5))
    tokens[5] = tokens[2]

    def plain(part):
        return snamd.aggregate(part, grid, (1, 3, 5))

    gram = GramShard(tokens, grid, (1,), dtype, plain)
    product = UnitVectorShard(tokens, grid, (1,), dtype, plain)
    assert len(product.operands) == 1
    one, other = (multiply_tile(shard, shard)[0] for shard in (gram, product))
    assert one.shape == (1, 6, 12, 6)
    np.testing.assert_allclose(one, other, atol=1e-5 if precision == "float32" else 2e-2)


def test_duplicates_and_constant_images_come_out_exact():
    features = tokens_of(8, (3, 4), 16)
    features[5] = features[2]  # an exact copy
    features[6] = features[2] + 1e-4 * features[3]  # and nearly one
    features[7] = 3.0  # no structure at all: zero vectors
    expected = brute_force.patch_maps([features], (3, 4), interval=(0.0, 0.1), aggregation="snamd")
    result = musc_ray.score_features([features], (3, 4), interval=(0.0, 0.1), precision="float32", aggregation="snamd")
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-4)
    assert result[2].max() < 1e-4
    assert result[2].max() == result[5].max()


@given(seed=st.integers(0, 10_000), images=st.integers(2, 8), grid=st.sampled_from(GRIDS))
@hypothesis_settings(max_examples=25, deadline=None)
def test_permuting_images_permutes_scores(seed, images, grid):
    features = tokens_of(images, grid, 8, seed)
    order = np.random.default_rng(seed).permutation(images)
    straight = musc_ray.score_features([features], grid, precision="float32", aggregation="snamd")
    permuted = musc_ray.score_features([features[order]], grid, precision="float32", aggregation="snamd")
    np.testing.assert_allclose(permuted.numpy(), straight.numpy()[order], atol=1e-6)


@given(
    seed=st.integers(0, 10_000),
    grid=st.sampled_from(GRIDS),
    degrees=st.lists(st.sampled_from([1, 3, 5, 7]), min_size=1, max_size=3, unique=True),
    cut=st.integers(1, 4),
)
@hypothesis_settings(max_examples=50, deadline=None)
def test_properties_of_the_vectors(seed, grid, degrees, cut):
    """Mirroring mirrors; the order of degrees and what is aggregated together change nothing."""
    tokens = torch.from_numpy(tokens_of(5, grid, 6, seed)).float()
    vectors = snamd.aggregate(tokens, grid, degrees)
    mirrored = snamd.aggregate(tokens.view(5, *grid, 6).flip(1, 2).flatten(1, 2), grid, degrees[::-1])
    torch.testing.assert_close(mirrored.view(5, *grid, 6).flip(1, 2).flatten(1, 2), vectors, atol=1e-5, rtol=1e-5)
    parts = [snamd.aggregate(part, grid, degrees) for part in tokens.split(cut)]
    torch.testing.assert_close(torch.cat(parts), vectors, atol=1e-6, rtol=1e-6)


@given(seed=st.integers(0, 10_000), degree=st.sampled_from([3, 5]))
@hypothesis_settings(max_examples=25, deadline=None)
def test_between_the_patch_and_the_plain_mean(seed, degree):
    """Neighbours far away count for nothing; those that are all alike count the same, as in LNAMD."""
    grid = (5, 5)
    tokens = torch.from_numpy(np.random.default_rng(seed).standard_normal((2, 25, 8)) * 1000).float()
    torch.testing.assert_close(snamd.aggregate(tokens, grid, (1, degree)), tokens)
    alike = tokens[:, :1] / 1000 + tokens * 1e-7
    middle = snamd.aggregate(alike, grid, (degree,))[:, 12]
    window = alike.view(2, 5, 5, 8)[:, 2 - degree // 2 : 3 + degree // 2, 2 - degree // 2 : 3 + degree // 2]
    torch.testing.assert_close(middle, window.mean(dim=(1, 2)), atol=1e-5, rtol=1e-5)


def test_images_aggregated_at_a_time_change_nothing(monkeypatch):
    tokens = torch.from_numpy(tokens_of(7, (3, 4), 8)).float()
    whole = snamd.aggregate(tokens, (3, 4), (1, 3))
    monkeypatch.setitem(snamd.VALUES_CHUNK, "cpu", 2 * 12 * 9)
    torch.testing.assert_close(snamd.aggregate(tokens, (3, 4), (1, 3)), whole)


@given(seed=st.integers(0, 10_000), cut=st.integers(1, 8))
@hypothesis_settings(max_examples=25, deadline=None)
def test_sharding_changes_nothing(seed, cut):
    grid = (3, 4)
    tokens = torch.from_numpy(tokens_of(9, grid, 8, seed))
    whole, _ = multiply_tile(*[prepare(tokens, grid, (1, 3), aggregation="snamd")] * 2)
    a, b = (prepare(part, grid, (1, 3), aggregation="snamd") for part in (tokens[:cut], tokens[cut:]))
    rows, columns = multiply_tile(a, b)
    np.testing.assert_allclose(torch.cat([multiply_tile(a, a)[0], rows], dim=3), whole[:, :cut], atol=1e-5)
    np.testing.assert_allclose(torch.cat([columns, multiply_tile(b, b)[0]], dim=3), whole[:, cut:], atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not CLEAR_REFS.exists(), reason="needs Linux to begin a peak of memory anew")
def test_a_window_is_never_held_for_a_shard_at_once():
    """ViT-L at 518 px, windows of 25 patches: the result, and a few images' worth on the way."""
    result = subprocess.run([sys.executable, "-c", PEAK_MEMORY], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert 0.9 < float(result.stdout) < 1.6


def test_an_unknown_aggregation_is_refused():
    with pytest.raises(ValueError, match="aggregation must be one of lnamd, snamd, not 'mean'"):
        musc_ray.score_features([np.zeros((3, 4, 2))], (2, 2), aggregation="mean")
