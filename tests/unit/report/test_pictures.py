"""Pictures of the report: colours, patch maps as bytes, thumbnails and their sheets."""

import io

import numpy as np
import pytest
from PIL import Image

from musc_ray.errors import MuscRayError
from musc_ray.report.colormap import colormap, quantise
from musc_ray.report.pictures import SHEET_COLUMNS, SHEET_IMAGES, THUMBNAIL_SIDE, jpeg, sheet, thumbnail
from musc_ray.sources.decoding import decode_original


def test_colormap_is_close_to_the_published_inferno_table() -> None:
    # Entries 0, 64, 128, 192, 255 of matplotlib's inferno.
    published = [(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)]
    colours = colormap(np.array([0, 64, 128, 192, 255]) / 255)
    assert colours.dtype == np.uint8
    assert np.abs(colours.astype(int) - published).max() <= 9


def test_colormap_gets_lighter_all_the_way_and_clips() -> None:
    luminance = colormap(np.linspace(0, 1, 256)) @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(luminance[::8]) > 0).all()
    assert (colormap(np.array([-3.0, 7.0])) == colormap(np.array([0.0, 1.0]))).all()
    assert colormap(np.zeros((4, 5))).shape == (4, 5, 3)


def test_bytes_of_a_patch_map_lie_on_its_scale() -> None:
    maps = np.random.default_rng(0).uniform(0, 1.2, (7, 30)).astype(np.float32)
    found = quantise(maps, 0.9)
    assert found.dtype == np.uint8
    np.testing.assert_allclose(found / 255 * 0.9, np.clip(maps, 0, 0.9), atol=0.9 / 510 + 1e-6)
    assert (found[maps >= 0.9] == 255).all()


def test_a_scale_without_extent_shows_nothing() -> None:
    assert (quantise(np.zeros((3, 3), dtype=np.float32), 0.0) == 0).all()


@pytest.mark.parametrize(
    ("patch_map", "high"),
    [(np.array([[0.0, np.nan]]), 1.0), (np.zeros((2, 2)), np.inf), (np.zeros((2, 2)), -1.0)],
)
def test_a_map_that_is_not_usable_is_refused(patch_map: np.ndarray, high: float) -> None:
    with pytest.raises(MuscRayError, match="score the run again"):
        quantise(patch_map, high)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1600, 800), (320, 160)), ((30, 90), (30, 90)), ((5000, 4), (320, 1)), ((321, 640), (160, 320))],
)
def test_thumbnail_keeps_the_aspect_ratio_and_never_enlarges(size: tuple[int, int], expected: tuple[int, int]) -> None:
    small = thumbnail(Image.new("L", size, 90), 320)
    assert (small.mode, small.size) == ("RGB", expected)
    assert small.getpixel((0, 0)) == (90, 90, 90)


def test_thumbnails_of_a_sheet_do_not_bleed_into_each_other() -> None:
    colours = [(37 * i % 256, 91 * i % 256, 53 * i % 256) for i in range(SHEET_COLUMNS + 3)]
    thumbnails = [Image.new("RGB", (THUMBNAIL_SIDE, THUMBNAIL_SIDE), colour) for colour in colours]
    thumbnails[4] = None
    whole = sheet(thumbnails)
    assert whole.size == (SHEET_COLUMNS * THUMBNAIL_SIDE, 2 * THUMBNAIL_SIDE)
    decoded = np.asarray(Image.open(io.BytesIO(jpeg(whole, 75)))).astype(int)
    for place, colour in enumerate(colours):
        row, column = divmod(place, SHEET_COLUMNS)
        cell = decoded[row * THUMBNAIL_SIDE :, column * THUMBNAIL_SIDE :][:THUMBNAIL_SIDE, :THUMBNAIL_SIDE]
        cell = cell[1:-1, 1:-1]  # decoders smooth colours over the edge of a block
        assert np.abs(cell - ((0, 0, 0) if place == 4 else colour)).max() <= 6
    assert SHEET_IMAGES % SHEET_COLUMNS == 0


def test_a_jpeg_may_be_decoded_at_a_fraction_but_not_below_what_is_asked_for() -> None:
    gradient = Image.merge("RGB", [Image.linear_gradient("L").resize((1000, 600))] * 3)
    data = jpeg(gradient, 90)
    small = decode_original(data, at_least=160)
    assert small.size == (250, 150)  # an eighth would be 125 x 75, too small
    np.testing.assert_allclose(
        np.asarray(thumbnail(small, 100)), np.asarray(thumbnail(decode_original(data), 100)), atol=6
    )
    buffer = io.BytesIO()
    gradient.save(buffer, "PNG")
    assert decode_original(buffer.getvalue(), at_least=160).size == (1000, 600)
