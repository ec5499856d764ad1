"""Pixel maps and regions in parts: the same counts as of whole images."""

import numpy as np
import pytest

from musc_ray.core import pixel_map
from musc_ray.core.metrics.aupimo import NO_TAIL, normal_tail
from musc_ray.core.metrics.counting import BinCounter, PlaceCounter
from musc_ray.evaluate.maps import PixelImage
from musc_ray.evaluate.masks import no_regions, regions_of

SIZE = (41, 30)


def image(good: bool) -> PixelImage:
    chance = np.random.default_rng(0)
    mask = np.zeros(SIZE, bool)
    mask[3:9, 4:25] = mask[20:, 11] = True
    regions = no_regions(0, "good", SIZE) if good else regions_of(0, "cut", mask)
    patch_map = chance.integers(0, 9, (5, 4)).astype(np.float32)
    return PixelImage(patch_map, regions)


@pytest.mark.parametrize("rows", [1, 7, 40])
@pytest.mark.parametrize("good", [True, False])
def test_parts_are_the_image(monkeypatch, rows, good):
    whole = image(good)
    ((values, regions),) = whole.parts()
    monkeypatch.setattr(pixel_map, "PIXELS_CHUNK", rows * SIZE[1])
    parts = list(whole.parts())
    assert len(parts) == -(-SIZE[0] // rows)
    joined = np.concatenate([part for part, _ in parts])
    np.testing.assert_allclose(joined, values, atol=3e-6)
    np.testing.assert_array_equal(np.concatenate([part for _, part in parts]), regions)
    shares = whole.regions.shares()
    at_once, in_parts = BinCounter(), BinCounter()
    at_once.add(joined, regions, shares, good)
    in_parts.add_parts(parts, shares, good)
    for name, expected in vars(at_once.counts()).items():
        np.testing.assert_allclose(getattr(in_parts.counts(), name), expected, rtol=1e-12)
    bins = at_once.counts().bins
    places = PlaceCounter(bins, whole.pixels), PlaceCounter(bins, whole.pixels)
    places[0].add(joined, regions, shares)
    for part in parts:
        places[1].add(*part, shares)
    for name in ("negatives", "positives", "overlaps"):
        np.testing.assert_allclose(getattr(places[1], name), getattr(places[0], name), rtol=1e-12)
    tail = sum((normal_tail(part, 0, whole.pixels) for part, _ in parts), NO_TAIL)
    expected_tail = normal_tail(joined, 0, whole.pixels)
    np.testing.assert_array_equal(tail.keys, expected_tail.keys)
    np.testing.assert_allclose(tail.weights, expected_tail.weights)
