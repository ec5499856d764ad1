"""Where patch maps are largest, in pixels, against the maximum of the upsampled map."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from musc_ray.core.peaks import peak_pixels
from musc_ray.core.pixel_map import pixel_map

SIDES = st.integers(1, 9)


@given(h=SIDES, w=SIDES, height=st.integers(60, 200), width=st.integers(60, 200), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_the_peak_is_where_the_pixel_map_is_largest(h, w, height, width, seed):
    chance = np.random.default_rng(seed)
    patch_maps = chance.random((2, h, w), np.float32)
    patch_maps[:, chance.integers(h), chance.integers(w)] = 3.0
    values = pixel_map(torch.from_numpy(patch_maps), (height, width)).numpy()
    for (y, x), shown in zip(peak_pixels(patch_maps, [(height, width)] * 2), values, strict=True):
        row, column = np.unravel_index(shown.argmax(), shown.shape)
        # a patch lies between two pixels: the pixel map is largest on one of them; along a single row it is constant
        assert abs(y - row) <= 1 or h == 1
        assert abs(x - column) <= 1 or w == 1


def test_corners_lie_on_corner_pixels_and_a_single_patch_in_the_middle():
    corners = np.zeros((4, 5, 7), np.float32)
    for number, (row, column) in enumerate([(0, 0), (0, 6), (4, 0), (4, 6)]):
        corners[number, row, column] = 1
    assert list(peak_pixels(corners, [(2000, 3000)] * 4)) == [(0, 0), (0, 2999), (1999, 0), (1999, 2999)]
    assert list(peak_pixels(np.ones((1, 1, 1), np.float32), [(101, 51)])) == [(50, 25)]


def test_patches_that_are_not_scored_and_unknown_sizes_have_no_peak():
    patch_maps = np.full((4, 2, 3), np.nan, np.float32)
    patch_maps[:2, 1, 1] = -2.0
    sizes = [(11, 21), (None, None), (11, 21), (11, None)]
    assert list(peak_pixels(patch_maps, sizes)) == [(10, 10), *[(None, None)] * 3]
