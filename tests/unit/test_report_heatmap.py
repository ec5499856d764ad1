"""Heat maps of the report: colours, align_corners upsampling against torch, alpha, thumbnails, data URIs."""

import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from musc_ray.errors import MuscRayError
from musc_ray.report.heatmap import colormap, data_uri, heatmap, thumbnail, upsample


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


@pytest.mark.parametrize(
    ("grid", "size"), [((37, 37), (320, 200)), ((5, 9), (1, 64)), ((16, 3), (7, 4)), ((1, 4), (9, 6)), ((1, 1), (8, 8))]
)
def test_upsample_equals_torch_align_corners(grid: tuple[int, int], size: tuple[int, int]) -> None:
    patch_map = np.random.default_rng(0).random(grid, dtype=np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(patch_map).double()[None, None], size=(size[1], size[0]), mode="bilinear", align_corners=True
    )[0, 0]
    np.testing.assert_allclose(upsample(patch_map, size), expected.numpy(), rtol=0, atol=1e-12)


def test_heatmap_puts_the_hot_corner_where_it_is_and_leaves_the_rest_clear() -> None:
    patch_map = np.zeros((4, 6), dtype=np.float32)
    patch_map[0, 5] = 1.0
    image = heatmap(patch_map, (60, 40), low=0.0, high=1.0)
    assert (image.mode, image.size) == ("RGBA", (60, 40))
    alpha = np.asarray(image)[..., 3]
    assert alpha[0, 59] == alpha.max() == 255
    assert (alpha[:, :40] == 0).all()
    assert (alpha[20:, :] == 0).all()


def test_heatmap_alpha_rises_with_the_value_and_clips_beyond_the_scale() -> None:
    ramp = np.linspace(0.0, 2.0, 50, dtype=np.float32)[np.newaxis]
    pixels = np.asarray(heatmap(ramp, (50, 1), low=0.5, high=1.5))[0]
    assert (np.diff(pixels[:, 3].astype(int)) >= 0).all()
    assert (pixels[ramp[0] < 0.5, 3] == 0).all()
    assert (pixels[ramp[0] > 1.5] == pixels[-1]).all()
    assert pixels[24, 3] < 127  # below linear: the middle of the scale hides less than half of the picture


def test_heatmap_of_a_scale_without_extent_is_transparent() -> None:
    image = np.asarray(heatmap(np.full((3, 3), 0.7, dtype=np.float32), (12, 12), low=0.7, high=0.7))
    assert (image[..., 3] == 0).all()


@pytest.mark.parametrize(
    ("patch_map", "low", "high", "says"),
    [
        (np.zeros(9), 0.0, 1.0, "two-dimensional"),
        (np.zeros((0, 3)), 0.0, 1.0, "not empty"),
        (np.array([[0.0, np.nan]]), 0.0, 1.0, "finite"),
        (np.zeros((2, 2)), 0.0, np.inf, "finite"),
        (np.zeros((2, 2)), 1.0, 0.0, "low <= high"),
    ],
)
def test_heatmap_says_what_is_wrong_with_bad_input(patch_map: np.ndarray, low: float, high: float, says: str) -> None:
    with pytest.raises(MuscRayError, match=says):
        heatmap(patch_map, (8, 8), low, high)


@pytest.mark.parametrize(
    ("size", "expected"),
    [((1600, 800), (320, 160)), ((30, 90), (30, 90)), ((5000, 4), (320, 1)), ((321, 640), (160, 320))],
)
def test_thumbnail_keeps_the_aspect_ratio_and_never_enlarges(size: tuple[int, int], expected: tuple[int, int]) -> None:
    small = thumbnail(Image.new("L", size, 90), 320)
    assert (small.mode, small.size) == ("RGB", expected)
    assert small.getpixel((0, 0)) == (90, 90, 90)


@pytest.mark.parametrize(("image_format", "mode"), [("JPEG", "RGB"), ("WEBP", "RGBA"), ("PNG", "RGBA")])
def test_data_uri_decodes_to_the_same_picture(image_format: str, mode: str) -> None:
    uri = data_uri(Image.new(mode, (16, 9), (200, 40, 10, 255)[: len(mode)]), image_format, 90)
    match = re.fullmatch(rf"data:image/{image_format.lower()};base64,([A-Za-z0-9+/=]+)", uri)
    assert match
    decoded = Image.open(io.BytesIO(base64.b64decode(match[1])))
    assert (decoded.format, decoded.size) == (image_format, (16, 9))
    assert np.abs(np.array(decoded.convert("RGB").getpixel((8, 4))) - (200, 40, 10)).max() <= 6
