"""Shards in int8 against differences of their own rounded vectors in float64, for every form that a CPU can run."""

import numpy as np
import pytest
import torch

from musc_ray.core.kernels import int8_dot
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.operands import prepare as choice
from musc_ray.core.operands.int8 import Int8Shard
from musc_ray.core.operands.int8_cpu import PackedInt8Shard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.quantised import int8_scale, quantise, rotation
from musc_ray.core.tile_product import multiply_tile
from tests.helpers import brute_force

DEGREES = (1, 3, 5)
NEEDS_VNNI = pytest.mark.skipif(not int8_dot.AVAILABLE, reason="this CPU lacks AVX-512 VNNI")
FORMS = [Int8Shard, pytest.param(PackedInt8Shard, marks=NEEDS_VNNI)]
GRIDS = [(1, 1), (1, 7), (3, 5), (4, 4), (6, 17), (9, 12)]


def tokens_of(images: int, grid: tuple[int, int], channels: int, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    common = generator.standard_normal((1, grid[0] * grid[1], channels))
    return torch.from_numpy(common + 0.5 * generator.standard_normal((images, grid[0] * grid[1], channels))).float()


def rounded(tokens: torch.Tensor, grid: tuple[int, int], degree: int) -> np.ndarray:
    """The int8 vectors as numbers of about unit length, (A, L, C) float64."""
    vectors = quantise(aggregate(layer_norm(tokens), grid, degree)).double()
    return (vectors / int8_scale(tokens.shape[2])).numpy()


def nearest(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """(L,) distances of each x to its nearest y, from differences."""
    return np.sqrt(((x[:, None] - y) ** 2).sum(axis=2)).min(axis=1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("channels", [5, 24, 66])
def test_distances_of_two_shards_are_those_of_their_rounded_vectors(form, grid, channels):
    tokens = tokens_of(5, grid, channels)
    a, b = (form(part, grid, DEGREES) for part in (tokens[:2], tokens[2:]))
    rows, columns = multiply_tile(a, b)
    for d, degree in enumerate(DEGREES):
        z = rounded(tokens, grid, degree)
        for i in range(2):
            for j in range(3):
                np.testing.assert_allclose(rows[d, i, :, j], nearest(z[i], z[2 + j]), atol=1e-6)
                np.testing.assert_allclose(columns[d, j, :, i], nearest(z[2 + j], z[i]), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_a_diagonal_tile_in_chunks_with_unwanted_pairs(form, monkeypatch):
    grid, images = (3, 6), 7
    tokens = tokens_of(images, grid, 20)
    pairs = torch.ones(images, images, dtype=torch.bool)
    pairs[1, 4] = pairs[4, 1] = False
    monkeypatch.setattr(form, "chunk_side", property(lambda self: 2))
    shard = form(tokens, grid, (1, 3))
    rows, _ = multiply_tile(shard, shard, pairs=pairs)
    for d, degree in enumerate((1, 3)):
        z = rounded(tokens, grid, degree)
        for i in range(images):
            for j in range(images):
                if i == j or not pairs[i, j]:
                    assert torch.isinf(rows[d, i, :, j]).all()
                else:
                    np.testing.assert_allclose(rows[d, i, :, j], nearest(z[i], z[j]), atol=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_copies_are_at_distance_0_whatever_the_shard_they_lie_in(form):
    grid = (4, 5)
    tokens = tokens_of(40, grid, 33)
    tokens[7] = tokens[39]
    tokens[8, 3:] = tokens[9, 3:]  # a background that stays
    tokens[10] = 3.0  # zero vectors
    whole, part = form(tokens, grid, DEGREES), form(tokens[5:12], grid, DEGREES)
    rows, columns = multiply_tile(part, whole)
    assert (rows[:, 2, :, 39] == 0).all()
    assert (columns[:, 39, :, 2] == 0).all()
    for i in range(7):
        assert (rows[:, i, :, 5 + i] == 0).all()
    np.testing.assert_allclose(
        rows[0, 5, :, 0], nearest(rounded(tokens[10:11], grid, 1)[0], rounded(tokens, grid, 1)[0])
    )
    assert (rows[0, 5, :, 0] > 0.9).all()  # of a zero vector from unit vectors


@pytest.mark.parametrize("form", FORMS)
def test_excluded_patches_are_nobodys_nearest(form):
    grid, images = (4, 5), 5
    tokens = tokens_of(images, grid, 24, seed=3)
    tokens[4] = tokens[1]
    generator = np.random.default_rng(3)
    excluded = generator.random((images, 20)) < 0.4
    excluded[2] = False
    excluded[3, 1:] = True
    excluded[3, 0] = False
    left, right = (form(tokens, grid, DEGREES) for _ in range(2))
    right.exclude(torch.from_numpy(excluded))
    rows, _ = multiply_tile(left, right)
    again, _ = multiply_tile(left, form(tokens, grid, DEGREES))
    for d, degree in enumerate(DEGREES):
        z = rounded(tokens, grid, degree)
        for i in range(images):
            for j in range(images):
                np.testing.assert_allclose(rows[d, i, :, j], nearest(z[i], z[j][~excluded[j]]), atol=1e-6)
                np.testing.assert_allclose(again[d, i, :, j], nearest(z[i], z[j]), atol=1e-6)
    for image in range(images):
        own = rounded(tokens, grid, 3)[image]
        read = right.unit_vectors(1, image).numpy()
        np.testing.assert_allclose(read[~excluded[image]], own[~excluded[image]], atol=1e-6)
        kept = own[~excluded[image]]
        assert all(np.isclose(vector, kept, atol=1e-6).all(axis=1).any() for vector in read)


@NEEDS_VNNI
def test_both_forms_give_the_same_numbers():
    tokens = tokens_of(9, (5, 7), 50)
    one, other = (multiply_tile(*[form(tokens, (5, 7), DEGREES)] * 2)[0] for form in (Int8Shard, PackedInt8Shard))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("capabilities", "channels", "form"),
    [
        ({}, 96, Int8Shard),
        ({"avx512_vnni": True}, 1024, PackedInt8Shard),
        ({"avx512_vnni": True, "amx_int8": True}, 1024, Int8Shard),
        ({"avx512_vnni": True, "amx_int8": True}, 96, PackedInt8Shard),
        ({"avx_vnni": True, "bf16": True}, 96, Int8Shard),
    ],
)
def test_the_form_follows_from_what_the_processor_has(monkeypatch, capabilities, channels, form):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert choice.int8_form(torch.device("cpu"), channels) is form


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
@pytest.mark.parametrize("radius", [None, 1])
def test_compressed_tokens_are_not_normalised_again(dtype, radius):
    grid = (3, 4)
    z = layer_norm(tokens_of(4, grid, 32)) * 3.0 + 1.0  # unlike what a second LayerNorm would make of them
    if dtype == torch.int8:
        z = z @ rotation(32).T
    shard = prepare(z, grid, DEGREES, dtype, radius=radius, normalised=True)
    for d, degree in enumerate(DEGREES):
        expected = aggregate(z, grid, degree)
        for image in range(4):
            vectors = shard.unit_vectors(d, image)
            lengths = vectors @ vectors.T
            atol = 1e-5 if dtype == torch.float32 else 0.02
            np.testing.assert_allclose(lengths, expected[image] @ expected[image].T, atol=atol)


def test_turned_tokens_are_not_turned_again():
    grid = (3, 4)
    z = tokens_of(2, grid, 32)
    shard = prepare(z, grid, (1,), torch.int8, normalised=True)
    np.testing.assert_allclose(shard.unit_vectors(0, 1), aggregate(z, grid, 1)[1], atol=0.6 / int8_scale(32))


def test_snamd_takes_int8():
    tokens = tokens_of(4, (3, 4), 40)
    shard = prepare(tokens, (3, 4), DEGREES, torch.int8, "snamd")
    rows, _ = multiply_tile(shard, shard)
    expected = brute_force.mutual_minima(brute_force.snamd(tokens.numpy(), (3, 4), DEGREES))
    wanted = ~np.isnan(expected)
    np.testing.assert_allclose(rows[0].numpy()[wanted], expected[wanted], atol=0.01)


def test_memory_of_a_shard_is_a_few_bytes_a_channel():
    shard = prepare(tokens_of(3, (12, 12), 96), (12, 12), (1, 3), torch.int8)
    vectors = 3 * 144 * 2
    assert vectors * 96 <= shard.nbytes <= vectors * (2 * 96 + 16)
