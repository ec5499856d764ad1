"""Masks of every kind as pixels and as regions, and the files that keep them between passes."""

import io

import fsspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as npst
from PIL import Image
from scipy import ndimage

from musc_ray.errors import ImageError
from musc_ray.evaluate.masks import decode_mask, no_regions, read_regions, regions_of, write_regions


def encoded(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def square(value: int = 255) -> np.ndarray:
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 30:50] = value
    return mask


def test_resized_masks_hold_whole_half_or_any_pixels():
    data = encoded(Image.fromarray(square()))
    whole, half, some = (decode_mask(data, (24, 36), level) for level in (255, 128, 1))
    assert whole.shape == (24, 36)
    assert whole.sum() < half.sum() < some.sum()
    assert not (whole & ~half).any()
    assert not (half & ~some).any()
    assert half.sum() == pytest.approx(200 * 0.36, abs=12)


def test_no_picture_is_refused():
    with pytest.raises(ImageError):
        decode_mask(b"text", None, 128)


@given(mask=npst.arrays(np.bool_, (5, 7)))
def test_regions_lead_back_to_the_mask_and_touching_pixels_share_one(mask):
    regions = regions_of(3, "cut", mask)
    pixels = regions.pixels().reshape(mask.shape) if mask.any() else np.zeros(mask.shape, int)
    np.testing.assert_array_equal(pixels > 0, mask)
    padded = np.pad(pixels, 1)
    for y, x in zip(*np.nonzero(mask), strict=True):
        around = padded[y : y + 3, x : x + 3]
        assert set(around[around > 0]) == {pixels[y, x]}
    shares = regions.shares()
    assert shares[pixels].sum() == pytest.approx(len(shares) - 1)


@given(mask=npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, max_side=12)))
def test_regions_are_those_of_scipy(mask):
    numbered, count = ndimage.label(mask, np.ones((3, 3), bool))
    regions = regions_of(0, "cut", mask)
    pixels = regions.pixels().reshape(mask.shape) if mask.any() else np.zeros(mask.shape, int)
    assert len(regions.shares()) - 1 == count
    assert len({*zip(numbered.ravel().tolist(), pixels.ravel().tolist(), strict=True)}) == count + (not mask.all())
    for start in range(0, len(mask), 3):
        rows = range(start, min(start + 3, len(mask)))
        if mask.any():
            np.testing.assert_array_equal(regions.pixels(rows).reshape(len(rows), -1), pixels[start : rows.stop])


def test_regions_survive_their_file(tmp_path):
    images = [regions_of(4, "cut", square() > 0), no_regions(5, "good", (7, 9))]
    fs, path = fsspec.filesystem("file"), str(tmp_path / "regions.parquet")
    write_regions(fs, path, images)
    for image, back in zip(images, read_regions(fs, path), strict=True):
        assert (image.row, image.defect, image.size) == (back.row, back.defect, back.size)
        np.testing.assert_array_equal(image.pixels(), back.pixels())
        np.testing.assert_array_equal(image.shares(), back.shares())
