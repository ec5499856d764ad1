"""Masks on their images: aspect ratios that differ by rounding or more, and orientations."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from musc_ray.errors import ImageError
from musc_ray.evaluate.mask_fit import ImageShape, fit_mask, image_shape, same_aspect
from musc_ray.evaluate.mask_pixels import turn

SHADES = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)


def stored(orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    Image.fromarray(SHADES).save(buffer, kind, exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mask", "image", "same"),
    [
        ((40, 60), (40, 60), True),
        ((400, 600), (40, 60), True),
        ((224, 224), (518, 518), True),
        ((333, 500), (667, 1001), True),  # half of an odd size
        ((17, 30), (1080, 1920), True),  # 16.875
        ((1080, 1920), (135, 240), True),
        ((40, 61), (40, 60), True),  # one pixel
        ((60, 40), (40, 60), False),
        ((40, 65), (40, 60), False),
        ((224, 224), (480, 640), False),
        ((1024, 1024), (1000, 1024), False),
    ],
)
def test_aspect_ratios(mask, image, same):
    assert same_aspect(mask, image) == same_aspect(image, mask) == same


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_of_the_stored_image_is_turned_as_the_image(orientation, kind):
    shape = image_shape(stored(orientation, kind))
    assert (shape.stored, shape.orientation) == ((40, 60), orientation)
    upright = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(stored(orientation)))))
    assert shape.upright == upright.shape
    np.testing.assert_array_equal(turn(SHADES, orientation), upright)
    np.testing.assert_array_equal(fit_mask(upright, shape), upright)
    if orientation > 4:
        np.testing.assert_array_equal(fit_mask(SHADES, shape), upright)


def test_what_fits_neither_is_not_stretched():
    assert fit_mask(np.zeros((50, 50), np.uint8), ImageShape((40, 60))) is None
    assert fit_mask(np.zeros((60, 40), np.uint8), ImageShape((40, 60))) is None
    assert fit_mask(np.zeros((50, 50), np.uint8), ImageShape((60, 40), 6)) is None


def test_what_is_not_an_image_has_no_shape():
    with pytest.raises(ImageError):
        image_shape(b"text")
