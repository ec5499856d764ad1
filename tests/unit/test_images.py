"""Every mode decodes to upright 8-bit RGB; what is no image says so."""

import io

import numpy as np
import pytest
from PIL import Image

from musc_ray.images import ImageError, decode_image, decode_original
from tests.pictures import write_broken_pictures, write_odd_pictures

GRADIENT = Image.linear_gradient("L").resize((40, 30))


def encoded(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def test_every_odd_picture_decodes_to_the_asked_size(tmp_path):
    for path in write_odd_pictures(tmp_path):
        pixels = decode_image(path.read_bytes(), (28, 42))
        assert pixels.shape == (28, 42, 3), path.name
        assert pixels.dtype == np.uint8
        assert pixels.std() > 1, path.name  # there is a picture in it


def test_grey_equals_pillow():
    expected = np.asarray(GRADIENT.convert("RGB").resize((14, 28), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(decode_image(encoded(GRADIENT), (28, 14)), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(kind):
    deep = np.asarray(GRADIENT).astype(np.uint16) * 257
    pixels = np.asarray(decode_original(encoded(Image.fromarray(deep), kind)))
    np.testing.assert_array_equal(pixels[..., 0], np.asarray(GRADIENT))


def test_floats_are_scaled_by_their_own_range():
    values = np.asarray(GRADIENT, np.float32) / 1000 - 5
    pixels = np.asarray(decode_original(encoded(Image.fromarray(values), "TIFF")))
    assert (pixels.min(), pixels.max()) == (0, 255)


def test_float_nan_is_refused():
    values = np.asarray(GRADIENT, np.float32).copy()
    values[3, 3] = np.nan
    with pytest.raises(ImageError, match="NaN"):
        decode_original(encoded(Image.fromarray(values), "TIFF"))


def test_transparent_pixels_hide_their_colour():
    picture = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert np.asarray(decode_original(encoded(picture))).max() == 0


def test_exif_rotation_is_applied():
    turned = Image.Exif()
    turned[0x0112] = 6
    assert decode_original(encoded(GRADIENT, "JPEG", exif=turned)).size == (30, 40)


def test_broken_files_are_one_sentence(tmp_path):
    for path in write_broken_pictures(tmp_path):
        with pytest.raises(ImageError) as error:
            decode_image(path.read_bytes(), (14, 14))
        assert "\n" not in str(error.value)


def test_too_many_pixels_are_refused_before_decoding():
    with pytest.raises(ImageError, match="40 x 30"):
        decode_original(encoded(GRADIENT), max_pixels=1199)
    assert decode_original(encoded(GRADIENT), max_pixels=1200).size == (40, 30)
