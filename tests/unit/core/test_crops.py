"""Crops cover an image exactly, at the same fractions of images of all sizes, and are as few as the rule allows."""

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.core.crops import MAX_CROPS, CropLayout, fewest_crops, layout_of_size

LAYOUTS = st.builds(CropLayout, st.integers(1, 9), st.integers(1, 9), st.floats(0, 0.5))


@given(LAYOUTS, st.integers(1, 700), st.integers(1, 700))
def test_boxes_cover_every_pixel_and_stay_inside(layout, height, width):
    covered = np.zeros((height, width), np.int64)
    boxes = layout.boxes(height, width)
    assert len(boxes) == layout.count
    for top, left, bottom, right in boxes:
        assert 0 <= top < bottom <= height
        assert 0 <= left < right <= width
        covered[top:bottom, left:right] += 1
    assert covered.min() >= 1
    if min(height / layout.rows, width / layout.columns) > 20:
        assert covered.max() <= 9  # an overlap of half meets two neighbours at a point


@given(LAYOUTS)
def test_spans_are_equally_large_and_share_the_overlap(layout):
    high, wide = layout.sides
    spans = layout.spans
    assert (spans[0][:2], spans[-1][2:]) == ((0, 0), (1, 1))
    for top, left, bottom, right in spans:
        assert math.isclose(bottom - top, high)
        assert math.isclose(right - left, wide)
    for row, column in product(range(layout.rows), range(layout.columns - 1)):
        first, second = spans[row * layout.columns + column], spans[row * layout.columns + column + 1]
        assert math.isclose(first[3] - second[1], layout.overlap * wide, abs_tol=1e-9)
    for row, column in product(range(layout.rows - 1), range(layout.columns)):
        first, second = spans[row * layout.columns + column], spans[(row + 1) * layout.columns + column]
        assert math.isclose(first[2] - second[0], layout.overlap * high, abs_tol=1e-9)


def test_boxes_are_row_major_top_left_bottom_right():
    assert CropLayout(2, 2, 0.0).boxes(100, 60) == [
        (0, 0, 50, 30), (0, 30, 50, 60), (50, 0, 100, 30), (50, 30, 100, 60),
    ]  # fmt: skip
    assert CropLayout(1, 1).boxes(5, 7) == [(0, 0, 5, 7)]
    assert CropLayout(1, 2, 0.5).boxes(10, 300) == [(0, 0, 10, 200), (0, 100, 10, 300)]


@given(st.integers(50, 9000), st.integers(50, 9000), st.integers(50, 3000), st.floats(0, 0.5))
def test_crops_of_a_size_are_the_fewest_that_are_no_larger(height, width, size, overlap):
    try:
        layout = layout_of_size(height, width, size, overlap)
    except ValueError:
        return
    assert max(layout.crop_size(height, width)) <= size * (1 + 1e-6)
    if layout.rows > 1:
        assert CropLayout(layout.rows - 1, layout.columns, overlap).crop_size(height, width)[0] > size
    if layout.columns > 1:
        assert CropLayout(layout.rows, layout.columns - 1, overlap).crop_size(height, width)[1] > size


@given(st.integers(50, 4000), st.integers(50, 4000), st.floats(0, 0.5))
def test_the_fewest_crops_show_the_model_enough_and_no_fewer_would(height, width, overlap):
    def square(_ratio):
        return 224, 224

    layout = fewest_crops(height, width, overlap, square)
    high, wide = layout.crop_size(height, width)
    assert max(high, wide) <= 448 * (1 + 1e-9)
    assert max(high / wide, wide / high) <= max(2, height / width, width / height) * (1 + 1e-6)
    exact = layout_of_size(height, width, 448, overlap)
    assert layout.count >= exact.count
    if max(high, wide) > 224 and max(height / width, width / height) < 2:
        assert layout.count <= 1.5 * exact.count + 1


def test_an_image_that_the_model_sees_well_is_one_crop_and_the_squarest_of_equals_wins():
    assert fewest_crops(400, 440, 0.2, lambda _: (224, 224)).count == 1
    shaped = fewest_crops(1000, 1000, 0.0, lambda ratio: (round(250 * ratio**0.5), round(250 / ratio**0.5)))
    assert (shaped.rows, shaped.columns) == (2, 2)  # 1 x 4 and 4 x 1 would do as well
    long = fewest_crops(1000, 1500, 0.2, lambda ratio: (round(224 * ratio**0.5), round(224 / ratio**0.5)))
    assert (long.rows, long.columns) == (2, 5)  # not 5 x 2, which are strips
    strip = fewest_crops(100, 9000, 0.0, lambda _: (224, 224))
    assert (strip.rows, strip.columns) == (1, 21)


def test_what_no_layout_can_be_is_refused():
    for rows, columns, overlap in [(0, 1, 0.2), (1, -1, 0.2), (MAX_CROPS, 2, 0.2), (2, 2, 0.6), (2, 2, -0.1)]:
        with pytest.raises(ValueError, match=r"crops are not|overlap of"):
            CropLayout(rows, columns, overlap)
    with pytest.raises(ValueError, match="crops are not"):
        layout_of_size(10**6, 10**6, 10, 0.2)
    with pytest.raises(ValueError, match="needs more than"):
        fewest_crops(10**6, 10**6, 0.2, lambda _: (224, 224))
