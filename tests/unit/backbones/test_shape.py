"""The grid that follows the shape of images: as many patches as a square of the side, in their aspect ratio."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.backbones.shape import shaped_grid

RATIOS = st.floats(1e-3, 1e3)


@pytest.mark.parametrize(
    ("ratio", "side", "grid"),
    [
        (2.5, 16, (25, 10)),
        (0.4, 16, (10, 25)),
        (4 / 3, 16, (18, 14)),
        (1.0, 37, (37, 37)),
        (1.04, 16, (16, 16)),
        (1000.0, 16, (128, 2)),
        (1000.0, 1, (1, 1)),
        (9.0, 2, (2, 2)),
    ],
)
def test_known_grids(ratio, side, grid):
    assert shaped_grid(ratio, side) == grid


@given(ratio=RATIOS, side=st.integers(2, 64))
def test_the_number_of_patches_and_the_ratio_are_kept(ratio, side):
    h, w = shaped_grid(ratio, side)
    assert min(h, w) >= 2
    shorter = max(2.0, side * math.exp(-abs(math.log(ratio)) / 2))  # patches of the shorter side, not rounded
    assert abs(math.log(h * w / side**2)) <= 1 / shorter
    if side**2 / 4 >= max(ratio, 1 / ratio):
        assert abs(math.log(h / w / ratio)) <= 1 / shorter


@given(ratio=RATIOS, side=st.integers(1, 64))
def test_turned_images_have_the_turned_grid(ratio, side):
    ratio = max(ratio, 1.0)
    assert shaped_grid(1 / ratio, side) == shaped_grid(1 / (1 / ratio), side)[::-1]


@given(side=st.integers(2, 64), step=st.floats(-1, 1))
def test_a_ratio_near_1_keeps_the_square(side, step):
    assert shaped_grid(math.exp(0.5 * step / side), side) == (side, side)
