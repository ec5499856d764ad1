"""Tiles of images with several places (crops), against loops in float64."""

from functools import cache

import numpy as np
import pytest
import torch

from musc_ray.core import tile_product
from musc_ray.core.kernels import int8_dot
from musc_ray.core.lnamd import layer_norm
from musc_ray.core.operands import base, int8_cpu, near
from musc_ray.core.operands.cpu import GramShard
from musc_ray.core.operands.gpu import UnitVectorShard
from musc_ray.core.operands.int8 import Int8Shard
from musc_ray.core.operands.near import NearShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.tile_product import multiply_tile
from tests.helpers import brute_force

GRID, DEGREES, CHANNELS, IMAGES, RADIUS = (3, 4), (1, 3), 24, 5, 1
TOLERANCES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.5e-2, torch.int8: 4e-2}
PREPARED = [  # dtype, radius
    (torch.float32, None),
    (torch.bfloat16, None),
    (torch.int8, None),
    (torch.float32, RADIUS),
    (torch.bfloat16, RADIUS),
    (torch.int8, RADIUS),
]


def places_of(places: int, copies: bool = True) -> torch.Tensor:
    """Make the places of images, one after the other; with copies within an image and between two."""
    generator = torch.Generator().manual_seed(0)
    product = torch.randn(1, GRID[0] * GRID[1], CHANNELS, generator=generator)
    tokens = product + 0.7 * torch.randn(IMAGES * places, *product.shape[1:], generator=generator)
    if copies:
        tokens[-1] = tokens[0]  # the last place of the last image is the first of the first
    if copies and places > 1:
        tokens[1] = tokens[0]  # and within the first image
    return tokens


@cache
def minima_of(places: int, copies: bool, aggregation: str, radius: int | None) -> torch.Tensor:
    """`expected` of `places_of`."""
    return expected(places_of(places, copies), places, aggregation, radius)


def expected(tokens: torch.Tensor, places: int, aggregation: str = "lnamd", radius: int | None = None) -> torch.Tensor:
    """Distances (D, N, P*L, N), inf on the diagonal."""
    if aggregation == "snamd":
        vectors = [brute_force.snamd(tokens.numpy(), GRID, DEGREES)]
    else:
        vectors = [brute_force.lnamd(tokens.numpy(), GRID, degree) for degree in DEGREES]
    minima = [
        brute_force.minima_over_places(z, places)
        if radius is None
        else brute_force.near_minima_over_places(z, GRID, radius, places)
        for z in vectors
    ]
    return torch.from_numpy(np.nan_to_num(np.stack(minima), nan=np.inf)).float()


def limit_chunks(monkeypatch, side: int) -> None:
    """Let chunks of every form have this many places a side."""
    patches = GRID[0] * GRID[1]
    monkeypatch.setitem(base.PRODUCT_CHUNK, "cpu", (side * patches) ** 2)
    monkeypatch.setitem(near.CHUNK_SIDE, "cpu", side)
    monkeypatch.setattr(int8_cpu, "CHUNK_PATCHES", side * patches)


def check_exact(found: torch.Tensor, truth: torch.Tensor, dtype: torch.dtype) -> None:
    torch.testing.assert_close(found, truth, atol=TOLERANCES[dtype], rtol=0)


@pytest.mark.parametrize("side", [1, 2, 5, 64])
@pytest.mark.parametrize("places", [1, 2, 6])
@pytest.mark.parametrize(("dtype", "radius"), PREPARED)
@pytest.mark.parametrize("aggregation", ["lnamd", "snamd"])
def test_places_against_loops(monkeypatch, aggregation, dtype, radius, places, side):
    limit_chunks(monkeypatch, side)
    with_copies = dtype != torch.bfloat16  # of so few channels, their products in bfloat16 are too inexact
    tokens = places_of(places, with_copies)
    truth = minima_of(places, with_copies, aggregation, radius)
    whole = prepare(tokens, GRID, DEGREES, dtype, aggregation, radius, places=places)
    found, columns = multiply_tile(whole, whole)
    assert columns is found
    check_exact(found, truth, dtype)
    a, b = (
        prepare(part, GRID, DEGREES, dtype, aggregation, radius, places=places)
        for part in tokens.split([2 * places, 3 * places])
    )
    rows, columns = multiply_tile(a, b)
    check_exact(rows, truth[:, :2, :, 2:], dtype)
    check_exact(columns, truth[:, 2:, :, :2], dtype)
    if with_copies:  # at another place, and found exactly
        assert (found[:, 0, : GRID[0] * GRID[1], -1] == 0).all()
        assert (found[:, -1, -GRID[0] * GRID[1] :, 0] == 0).all()


@pytest.mark.parametrize("places", [1, 2, 6])
@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        (GramShard, torch.float32),
        (UnitVectorShard, torch.float32),
        (UnitVectorShard, torch.float16),
        (UnitVectorShard, torch.bfloat16),
        (Int8Shard, torch.int8),
        (NearShard, torch.int8),
    ],
)
def test_places_of_every_form_against_loops(monkeypatch, form, dtype, places):
    limit_chunks(monkeypatch, 4)
    tokens = places_of(places, dtype in (torch.float32, torch.int8))
    if form is Int8Shard:
        shard = Int8Shard(tokens, GRID, DEGREES)
    elif form is NearShard:
        shard = NearShard(tokens, GRID, DEGREES, dtype, RADIUS)
    else:
        shard = form(tokens, GRID, DEGREES, dtype, layer_norm)
    shard.places = places
    truth = expected(tokens, places, radius=RADIUS if form is NearShard else None)
    check_exact(multiply_tile(shard, shard)[0], truth, dtype)


def test_an_image_never_meets_its_own_places():
    tokens = places_of(2)
    tokens[1::2] = tokens[::2]  # both places of each image are the same
    shard = prepare(tokens, GRID, DEGREES, places=2)
    found, _ = multiply_tile(shard, shard)
    assert found[:, range(IMAGES), :, range(IMAGES)].isinf().all()
    check_exact(found, expected(tokens, 2), torch.float32)
    assert (found[:, 1, :, 2] > 0.1).all()


@pytest.mark.parametrize("side", [1, 3, 64])
@pytest.mark.parametrize("radius", [None, RADIUS])
def test_only_pairs_of_images_that_score_each_other_are_finite(monkeypatch, side, radius):
    limit_chunks(monkeypatch, side)
    tokens = places_of(3)
    shard = prepare(tokens, GRID, DEGREES, radius=radius, places=3)
    pairs = torch.zeros(IMAGES, IMAGES, dtype=torch.bool)
    pairs[0, 3] = pairs[3, 0] = pairs[1, 2] = pairs[2, 1] = True
    found, _ = multiply_tile(shard, shard, pairs=pairs)
    truth = expected(tokens, 3, radius=radius).permute(0, 1, 3, 2)
    truth[:, ~pairs] = torch.inf
    check_exact(found.permute(0, 1, 3, 2), truth, torch.float32)


def test_products_of_many_places_are_no_larger_than_those_of_few(monkeypatch):
    limit_chunks(monkeypatch, 4)
    multiplied = []
    product = GramShard.product

    def counted(self, other, i, j):
        multiplied.append((i.stop - i.start, j.stop - j.start))
        return product(self, other, i, j)

    monkeypatch.setattr(GramShard, "product", counted)
    tokens = torch.randn(2 * 35, GRID[0] * GRID[1], CHANNELS, generator=torch.Generator().manual_seed(0))
    shard = prepare(tokens, GRID, DEGREES, places=35)
    found, _ = multiply_tile(shard, shard)
    assert sum(a * b for a, b in multiplied) == 35 * 35
    assert max(a for pair in multiplied for a in pair) == 4
    check_exact(found, expected(tokens, 35), torch.float32)


def test_one_place_multiplies_as_without_places(monkeypatch):
    tokens = places_of(1)
    shard = prepare(tokens, GRID, DEGREES, torch.bfloat16)
    monkeypatch.setattr(tile_product, "_place_parts", None)  # is not called
    found, _ = multiply_tile(shard, shard)
    again = prepare(tokens, GRID, DEGREES, torch.bfloat16, places=1)
    assert torch.equal(multiply_tile(again, again)[0], found)


@pytest.mark.skipif(not int8_dot.AVAILABLE, reason="this CPU has no AVX-512 VNNI")
def test_int8_forms_agree_bit_by_bit():
    tokens = places_of(6)
    packed, plain = prepare(tokens, GRID, DEGREES, torch.int8, places=6), Int8Shard(tokens, GRID, DEGREES)
    plain.places = 6
    assert type(packed) is not type(plain)
    assert torch.equal(multiply_tile(packed, packed)[0], multiply_tile(plain, plain)[0])
