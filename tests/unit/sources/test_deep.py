"""The range of deep pixels: found from a sample, applied to every image, and what does not fit is said."""

import numpy as np
import pytest

from musc_ray.errors import ImageError
from musc_ray.sources.deep import (
    BY_FORMAT,
    CLIPPED,
    NAN,
    OTHER_KIND,
    SAMPLE_VALUES,
    DeepPixels,
    Range,
    find_range,
    sample_of,
    scaled,
    to_eight_bits,
)

RAMP = np.arange(256).reshape(16, 16)


def deep(values: np.ndarray, bits: int | None = None, declared: int | None = None) -> DeepPixels:
    return DeepPixels(values, bits or values.dtype.itemsize * 8, declared)


def found(rule: str, *images: DeepPixels) -> Range:
    return find_range([sample_of(image) for image in images], rule)[0]


def up_to(highest: float, dtype: type = np.uint16) -> DeepPixels:
    return deep((RAMP * (highest / 255)).astype(dtype))


@pytest.mark.parametrize(
    ("images", "expected"),
    [
        ([up_to(200)], (0, 255)),
        ([up_to(255)], (0, 255)),
        ([up_to(256)], (0, 1023)),
        ([up_to(1023)], (0, 1023)),
        ([up_to(1000), up_to(3000), up_to(500)], (0, 4095)),
        ([up_to(4095)], (0, 4095)),
        ([up_to(16_000)], (0, 16_383)),
        ([up_to(65_520)], (0, 65_535)),
        ([up_to(4095, np.int32)], (0, 4095)),
        ([up_to(4095, np.int16)], (0, 4095)),
        ([deep(RAMP.astype(np.uint16), declared=12)], (0, 4095)),
        ([deep(RAMP.astype(np.uint16) * 16, declared=12)], (0, 4095)),
        ([deep(RAMP.astype(np.uint16) * 64, declared=12)], (0, 65_535)),  # scaled to the whole format
        ([deep(RAMP.astype(np.uint16), declared=12), up_to(16_000)], (0, 16_383)),
        ([up_to(1, np.float32)], (0, 1)),
        ([up_to(0.2, np.float32)], (0, 1)),
    ],
)
def test_the_range_of_a_group_is_that_of_its_depth(images, expected):
    range_ = found("auto", *images)
    assert (range_.low, range_.high) == expected
    assert not range_.robust


@pytest.mark.parametrize(
    "values",
    [RAMP.astype(np.float32) * 3 + 50, RAMP.astype(np.int32) * 1000, RAMP.astype(np.int16) - 100],
)
def test_floats_and_large_or_negative_integers_have_the_percentiles_of_the_sample(values):
    range_ = found("auto", deep(values))
    low, high = (float(value) for value in np.percentile(values, (0.1, 99.9)))
    assert range_ == Range(low, high, "float" if values.dtype.kind == "f" else "integer", robust=True)


def test_hot_pixels_do_not_decide():
    values = np.random.default_rng(0).normal(100, 10, (200, 200)).astype(np.float32)
    values[0, 0], values[0, 1], values[0, 2] = 1e6, np.inf, np.nan
    range_ = found("auto", deep(values))
    assert 60 < range_.low < 80
    assert 120 < range_.high < 140


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (up_to(4095), (0, 65_535)),
        (deep(RAMP.astype(np.uint16), bits=12), (0, 4095)),
        (up_to(100, np.int16), (-32_768, 32_767)),
        (up_to(100, np.uint32), (0, 2**32 - 1)),
        (up_to(0.5, np.float32), (0, 1)),
    ],
)
def test_full_is_the_whole_range_of_the_format(image, expected):
    range_ = found("full", image)
    assert (range_.low, range_.high) == expected


def test_percentile_is_that_of_the_pooled_sample():
    low, high = np.percentile(np.concatenate([RAMP.ravel() * 16, RAMP.ravel() * 8]), (0.1, 99.9))
    range_ = found("percentile", up_to(4080), up_to(2040))
    assert (range_.low, range_.high) == (pytest.approx(low), pytest.approx(high))


def test_a_constant_sample_has_a_range_still():
    range_ = found("percentile", deep(np.full((4, 4), 7, np.uint16)))
    assert range_.low < 7 < range_.high


def test_the_sample_of_a_large_image_is_small():
    values = np.zeros((600, 600), np.uint16)
    values[17, 17] = 4000
    sample = sample_of(deep(values))
    assert sample.high == 4000
    assert len(sample.values) <= 2 * SAMPLE_VALUES


def test_how_the_range_was_found_is_said():
    assert find_range([sample_of(up_to(4000))], "auto")[1] == "16-bit images hold 12-bit data"
    assert find_range([sample_of(up_to(1, np.float32))], "auto")[1] == "32-bit float images hold values from 0 to 1"


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.uint32, np.float32, np.float64])
def test_values_are_scaled_and_rounded(dtype):
    values = (RAMP * 16).astype(dtype)
    np.testing.assert_array_equal(scaled(values, 0, 4095), np.rint(RAMP * 16 * (255 / 4095)))
    np.testing.assert_array_equal(scaled(values, 1000, 2000), np.rint(((RAMP * 16.0 - 1000) / 1000).clip(0, 1) * 255))
    assert scaled((RAMP - 128).astype(np.int16), -128, 127).ravel().tolist() == list(range(256))


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("rounded", [False, True])
def test_copies_of_8_bit_images_in_more_bits_are_the_same_pixels(bits, rounded):
    """Copies by a factor of two, and copies that reach the highest value."""
    factor = (2**bits - 1) / 255 if rounded else 2 ** (bits - 8)
    copy = deep(np.rint(RAMP * factor).astype(np.uint16))
    picture, _ = to_eight_bits(copy, found("auto", copy))
    np.testing.assert_array_equal(np.asarray(picture), RAMP)


def test_what_is_not_a_number_is_the_lowest_or_highest_value():
    values = np.array([[np.nan, np.inf], [-np.inf, 0.5]], np.float32)
    assert scaled(values, 0, 1).tolist() == [[0, 255], [0, 128]]


@pytest.mark.parametrize(
    ("image", "range_", "remarks"),
    [
        (up_to(4095), Range(0, 4095), ()),
        (up_to(4096), Range(0, 4095), (CLIPPED,)),
        (up_to(4095), Range(100, 4095), (CLIPPED,)),
        (up_to(4096), Range(0, 4095, robust=True), ()),
        (deep(np.array([[np.nan, 0.5]], np.float32)), Range(0, 1), (NAN,)),
        (deep(np.array([[np.nan, 1.5]], np.float32)), Range(0, 1), (CLIPPED, NAN)),
        (deep(RAMP.astype(np.uint8)), None, ()),
    ],
)
def test_what_the_range_does_to_an_image_is_said(image, range_, remarks):
    assert to_eight_bits(image, range_)[1] == remarks


@pytest.mark.parametrize(
    ("image", "intensity", "words"),
    [
        (up_to(4095), None, "--intensity"),
        (up_to(1.1, np.float32), Range(0, 4095, "integer"), "integers"),
        (deep(np.full((2, 2), np.nan, np.float32)), Range(0, 1), "NaN"),
        (deep(np.full((2, 2), np.nan, np.float32)), BY_FORMAT, "NaN"),
    ],
)
def test_what_fits_no_range_is_an_error_and_not_black(image, intensity, words):
    with pytest.raises(ImageError, match=words):
        to_eight_bits(image, intensity)


@pytest.mark.parametrize(
    ("image", "range_", "brightest"),
    [(up_to(1, np.float32), Range(0, 4095, "integer"), 255), (up_to(65_535), Range(0, 1, "float"), 255)],
)
def test_numbers_of_another_kind_than_the_others_are_scaled_by_their_format(image, range_, brightest):
    picture, remarks = to_eight_bits(image, range_)
    assert picture.getextrema() == (0, brightest)
    assert remarks == (OTHER_KIND,)


@pytest.mark.parametrize(("stated", "kind"), [((0, 4095), "integer"), ((0, 1), "float"), ((12.5, 60), "float")])
def test_the_kind_of_a_stated_range_shows(stated, kind):
    assert Range.stated(*stated) == Range(*stated, kind)


def test_inverted_values_are_white_where_they_are_low():
    picture, _ = to_eight_bits(DeepPixels((RAMP * 16).astype(np.uint16), 16, is_inverted=True), Range(0, 4080))
    np.testing.assert_array_equal(np.asarray(picture), 255 - RAMP)


def test_inks_become_a_picture_of_inks():
    inks = np.stack([RAMP * 257] * 4, -1).astype(np.uint16)
    assert to_eight_bits(deep(inks), BY_FORMAT)[0].mode == "CMYK"
