"""The part of a large image that is shown pixel for pixel."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from musc_ray.core.crops import CropLayout
from musc_ray.report.pictures import PICTURE_SIDE
from musc_ray.report.zoom import MAX_CROP_SIDE, ZOOM_SIDE, zoom_box

SIDES, SHARES = st.integers(1, 20_000), st.floats(0, 1)


def image(height: int, width: int, y: int | None, x: int | None) -> dict[str, int | None]:
    return {"height": height, "width": width, "peak_y": y, "peak_x": x}


@given(height=SIDES, width=SIDES, down=SHARES, across=SHARES, crops=st.sampled_from([None, (1, 2), (3, 5), (9, 20)]))
def test_the_part_lies_in_the_image_holds_the_peak_and_is_small(height, width, down, across, crops):
    y, x = round(down * (height - 1)), round(across * (width - 1))
    layout = None if crops is None else CropLayout(*crops)
    box = zoom_box(image(height, width, y, x), layout)
    assert (box is None) == (max(height, width) <= PICTURE_SIDE)
    if box is None:
        return
    top, left, bottom, right = box
    assert 0 <= top <= y < bottom <= height
    assert 0 <= left <= x < right <= width
    if layout is not None and box in layout.boxes(height, width):
        assert max(bottom - top, right - left) <= MAX_CROP_SIDE
    else:
        assert (bottom - top, right - left) == (min(ZOOM_SIDE, height), min(ZOOM_SIDE, width))


def test_of_overlapping_crops_the_one_is_shown_whose_middle_is_nearest():
    layout = CropLayout(1, 2, 0.5)  # 0 to 1000 and 500 to 1500
    assert zoom_box(image(300, 1500, 150, 700), layout) == (0, 0, 300, 1000)
    assert zoom_box(image(300, 1500, 150, 800), layout) == (0, 500, 300, 1500)
    assert zoom_box(image(300, 3000, 150, 1400), layout) == (0, 1176, 300, 1624), "such crops are too large"


@pytest.mark.parametrize("unknown", [image(5000, 5000, None, None), image(None, None, None, None)])
def test_without_a_peak_there_is_no_part(unknown):
    assert zoom_box(unknown) is None
