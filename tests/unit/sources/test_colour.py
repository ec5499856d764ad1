"""Colours as a viewer shows them: profiles, inks, transparency."""

import io

import numpy as np
import pytest
from PIL import Image, ImageCms

from musc_ray.sources import colour
from musc_ray.sources.decoding import decode_original
from tests.helpers.profiles import ADOBE_RGB, grey_profile, ink_profile, rgb_profile

GRADIENT = Image.linear_gradient("L").resize((40, 30))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def decoded(picture: Image.Image, kind: str = "PNG", **options) -> np.ndarray:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return np.asarray(decode_original(file.getvalue()))


def colours() -> Image.Image:
    red, green = np.meshgrid(np.arange(0, 256, 5), np.arange(0, 256, 5))
    return Image.fromarray(np.stack([red, green, 255 - red], -1).astype(np.uint8))


def srgb_of(linear: np.ndarray) -> np.ndarray:
    """The transfer function of IEC 61966-2-1."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 0) ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_wide_gamut_becomes_srgb(kind):
    picture = colours()
    linear = (np.asarray(picture) / 255) ** 2.19921875 @ np.array(ADOBE_RGB)
    to_srgb = np.array([[3.1339, -1.6169, -0.4906], [-0.9788, 1.9161, 0.0335], [0.0719, -0.2290, 1.4052]])  # from D50
    expected = np.rint(srgb_of((linear @ to_srgb.T).clip(0, 1)) * 255)
    found = decoded(picture, kind, icc_profile=rgb_profile()).astype(int)
    assert np.abs(found - expected).max() <= 4
    assert np.abs(found - np.asarray(picture)).max() > 40


def test_a_profile_of_srgb_changes_nothing():
    np.testing.assert_array_equal(decoded(colours(), icc_profile=SRGB), np.asarray(colours()))


@pytest.mark.parametrize("gamma", [1.5, 1.8])
def test_grey_of_another_gamma_is_shown_with_that_of_srgb(gamma):
    expected = np.rint(srgb_of((np.asarray(GRADIENT) / 255) ** gamma) * 255)
    found = decoded(GRADIENT, icc_profile=grey_profile(gamma))
    assert np.abs(found[..., 0].astype(int) - expected).max() <= 2
    assert (found == found[..., :1]).all()


def test_inks_are_shown_through_their_profile():
    ramp = Image.merge("CMYK", [Image.new("L", GRADIENT.size)] * 3 + [GRADIENT])
    found = decoded(ramp, "JPEG", quality=100, icc_profile=ink_profile())
    lightness = 100 - np.asarray(GRADIENT) / 255 * 100 / 3
    luminance = ((lightness + 16) / 116) ** 3
    assert np.abs(found[..., 1].astype(int) - np.rint(srgb_of(luminance) * 255)).max() <= 4


def test_inks_without_a_profile_are_the_picture():
    """Adobe's JPEG files hold inverted inks."""
    found = decoded(GRADIENT.convert("CMYK"), "JPEG", quality=100)
    assert np.abs(found[..., 0].astype(int) - np.asarray(GRADIENT)).max() <= 3


@pytest.mark.parametrize("profile", [b"junk", SRGB[:200], SRGB[:16] + b"XXXX" + SRGB[20:], grey_profile(1.0)])
def test_a_profile_that_is_broken_or_of_other_colours_is_ignored(profile):
    np.testing.assert_array_equal(decoded(colours(), icc_profile=profile), np.asarray(colours()))


@pytest.mark.parametrize("alpha", [0, 1, 128, 255])
@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_that_is_the_same_everywhere_hides_nothing(mode, alpha):
    picture = GRADIENT.copy()
    picture.putalpha(alpha)
    np.testing.assert_array_equal(decoded(picture.convert(mode))[..., 0], np.asarray(GRADIENT))


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_other_alpha_is_composited_over_black(mode):
    alpha = Image.linear_gradient("L").rotate(90).resize(GRADIENT.size)
    picture = GRADIENT.copy()
    picture.putalpha(alpha)
    expected = np.asarray(GRADIENT) * (np.asarray(alpha) / 255)
    assert np.abs(decoded(picture.convert(mode))[..., 0] - expected).max() <= 1


def test_colours_of_a_profile_under_alpha_become_srgb_too():
    picture = colours()
    picture.putalpha(Image.linear_gradient("L").point(lambda level: 255 * (level > 127)).resize(picture.size))
    found = decoded(picture, icc_profile=rgb_profile())
    opaque = decoded(colours(), icc_profile=rgb_profile())
    np.testing.assert_array_equal(found[-1], opaque[-1])
    assert found[0].max() == 0


def test_a_transparent_palette_entry_is_black_unless_it_is_the_whole_image():
    picture = Image.new("P", (4, 4), 1)
    picture.putpalette([0, 0, 0, 200, 100, 50, 10, 20, 30])
    assert (decoded(picture, transparency=1) == (200, 100, 50)).all()
    picture.putpixel((2, 0), 2)
    found = decoded(picture, transparency=1)
    assert found[0, 2].tolist() == [10, 20, 30]
    assert found.sum() == 60


@pytest.mark.parametrize("hidden", [200, 7])
def test_a_transparent_colour_is_black_unless_no_pixel_has_it(hidden):
    values = np.asarray(GRADIENT).copy()
    values[0] = 200
    expected = np.where(values == hidden, 0, values) if (values == hidden).any() else values
    np.testing.assert_array_equal(decoded(Image.fromarray(values), transparency=hidden)[..., 0], expected)


def test_profiles_are_built_once():
    colour._transform.cache_clear()
    for _ in range(3):
        decoded(colours(), icc_profile=rgb_profile())
    assert colour._transform.cache_info().misses == 1
