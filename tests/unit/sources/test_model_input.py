"""Crops for the model: cut from the upright original at full resolution, with the colour rules of whole images."""

import io

import numpy as np
import pytest
from PIL import Image

from musc_ray.core.crops import CropInput, CropLayout, InputShape
from musc_ray.sources.decoding import decode_for_model, decode_image, decode_original
from musc_ray.sources.deep import BY_FORMAT, Range
from tests.helpers.pictures import write_odd_pictures
from tests.helpers.tiff_files import tiff

LAYOUT = CropLayout(3, 2, 0.25)
SHAPE = InputShape((28, 14), CropInput(LAYOUT, (14, 42)))


def expected_crops(original: Image.Image, layout: CropLayout, size: tuple[int, int]) -> np.ndarray:
    boxes = layout.boxes(original.height, original.width)
    cut = [original.crop((left, top, right, bottom)) for top, left, bottom, right in boxes]
    return np.stack([np.asarray(each.resize(size[::-1], Image.Resampling.BICUBIC)) for each in cut])


def test_every_kind_of_picture_is_cut_as_it_is_shown(tmp_path):
    """EXIF, alpha, palettes, 16 bits, CMYK, grey: the crops are those of what a viewer shows."""
    for path in write_odd_pictures(tmp_path):
        data = path.read_bytes()
        found = decode_for_model(data, SHAPE, 10**6, BY_FORMAT)
        original = decode_original(data)
        assert original.mode == "RGB"
        assert found.size == (original.height, original.width), path.name
        np.testing.assert_array_equal(found.pictures.whole, decode_image(data, (28, 14)), err_msg=path.name)
        wanted = np.asarray(original.resize((14, 28), Image.Resampling.BICUBIC))
        np.testing.assert_array_equal(found.pictures.whole, wanted, err_msg=path.name)
        np.testing.assert_array_equal(
            found.pictures.crops, expected_crops(original, LAYOUT, (14, 42)), err_msg=path.name
        )


def test_crops_hold_the_pixels_of_the_original_at_their_place():
    picture = Image.fromarray(np.arange(60 * 40, dtype=np.uint32).view(np.uint8).reshape(60, 40, 4)[..., :3].copy())
    file = io.BytesIO()
    picture.save(file, "PNG")
    shape = InputShape((60, 40), CropInput(CropLayout(3, 2, 0.0), (20, 20)))
    crops = decode_for_model(file.getvalue(), shape, 10**6, None).pictures.crops
    assert crops is not None
    pixels = np.asarray(picture)
    np.testing.assert_array_equal(crops[1], pixels[:20, 20:])
    np.testing.assert_array_equal(crops[4], pixels[40:, :20])


@pytest.mark.parametrize("profile", [None, b"broken"])
def test_the_range_of_deep_pixels_is_that_of_the_whole_image(profile):
    values = np.random.default_rng(0).integers(0, 4096, (90, 70)).astype(np.uint16)
    values[:10] = 5000
    options = {} if profile is None else {"iccprofile": profile}
    found = decode_for_model(tiff(values, **options), SHAPE, 10**6, Range(0, 4095, "integer"))
    assert len(found.remarks) == 1
    assert "clipped" in found.remarks[0]
    original = decode_original(tiff(values), intensity=Range(0, 4095, "integer"))
    np.testing.assert_array_equal(found.pictures.crops, expected_crops(original, LAYOUT, (14, 42)))
