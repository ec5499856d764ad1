"""TIFF files of every kind show the picture that a viewer shows."""

import io

import numpy as np
import pytest
import tifffile

from musc_ray.core.crops import InputShape
from musc_ray.errors import ImageError
from musc_ray.sources.decoding import decode_for_model, decode_original, upright_size
from musc_ray.sources.deep import Range
from tests.helpers.tiff_files import packed_tiff, tiff

ROWS, COLUMNS = np.mgrid[0:48, 0:64]
GREY = ((COLUMNS * 3 + ROWS) % 256).astype(np.uint8)
RGB = np.stack([GREY, np.roll(GREY, 7, 1), np.roll(GREY, 9, 0)], -1)
DEEP = np.rint(GREY * (4095 / 255)).astype(np.uint16)
DEEP_RGB = RGB.astype(np.uint16) * 257
NEAR_INFRARED = (255 - GREY)[..., None]
TWELVE, UNIT = Range(0, 4095, "integer"), Range(0, 1, "float")


def separate(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(values, -1, 0))


def bands(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate([part.reshape(48, 64, -1) for part in parts], -1)


FILES = {
    "12 of 16 bits": (tiff(DEEP), TWELVE, GREY),
    "LZW": (tiff(DEEP, compression="lzw"), TWELVE, GREY),
    "LZW with predictor": (tiff(DEEP, compression="lzw", predictor=True), TWELVE, GREY),
    "deflate": (tiff(DEEP, compression="deflate"), TWELVE, GREY),
    "Zstandard": (tiff(DEEP, compression="zstd"), TWELVE, GREY),
    "LZMA": (tiff(DEEP, compression="lzma"), TWELVE, GREY),
    "PackBits": (tiff(DEEP, compression="packbits"), TWELVE, GREY),
    "LERC": (tiff(DEEP, compression="lerc"), TWELVE, GREY),
    "JPEG 2000": (tiff(DEEP, compression="jpeg2000"), TWELVE, GREY),
    "lossless JPEG": (
        tiff(DEEP, compression="jpeg", compressionargs={"lossless": True, "bitspersample": 12}), TWELVE, GREY,
    ),
    "tiles": (tiff(DEEP, tile=(32, 48), compression="zstd"), TWELVE, GREY),
    "strips": (tiff(DEEP, rowsperstrip=5), TWELVE, GREY),
    "BigTIFF": (tiff(DEEP, bigtiff=True), TWELVE, GREY),
    "big-endian": (tiff(DEEP, byteorder=">"), TWELVE, GREY),
    "packed 12 bits": (packed_tiff(DEEP), "format", GREY),
    "pages": (tiff(np.stack([DEEP, 0 * DEEP]), photometric="minisblack"), TWELVE, GREY),
    "white is zero": (tiff(255 - GREY, photometric="miniswhite"), "format", GREY),
    "white is zero, Zstandard": (tiff(255 - GREY, photometric="miniswhite", compression="zstd"), "format", GREY),
    "white is zero, 16 bits": (tiff(65535 - GREY.astype(np.uint16) * 257, photometric="miniswhite"), "format", GREY),
    "float": (tiff((GREY / 255).astype(np.float32)), UNIT, GREY),
    "float of 16 bits": (tiff((GREY / 255).astype(np.float16)), UNIT, GREY),
    "float of 64 bits": (tiff(GREY / 255), UNIT, GREY),
    "float with predictor": (
        tiff((GREY / 255).astype(np.float32), compression="deflate", predictor=True), UNIT, GREY,
    ),
    "signed": (tiff((GREY.astype(np.int16) - 100) * 10), Range(-1000, 1550), GREY),
    "signed, 8 bits": (tiff((GREY.astype(np.int16) - 128).astype(np.int8)), None, GREY),
    "32 bits": (tiff(GREY.astype(np.uint32) * 1000), Range(0, 255_000), GREY),
    "colour": (tiff(RGB, photometric="rgb"), None, RGB),
    "colour in planes": (tiff(separate(RGB), photometric="rgb", planarconfig="separate"), None, RGB),
    "deep colour": (tiff(DEEP_RGB, photometric="rgb"), "format", RGB),
    "deep colour in planes and tiles": (
        tiff(separate(DEEP_RGB), photometric="rgb", planarconfig="separate", tile=(16, 32)), "format", RGB,
    ),
    "JPEG": (tiff(GREY, compression="jpeg", compressionargs={"level": 100}), None, GREY),
    "near infrared": (
        tiff(bands(RGB, NEAR_INFRARED), photometric="rgb", extrasamples=["unspecified"]), None, RGB,
    ),
    "deep near infrared": (
        tiff(bands(RGB, NEAR_INFRARED).astype(np.uint16) * 257, photometric="rgb", extrasamples=["unspecified"]),
        "format", RGB,
    ),
    "5 bands": (tiff(bands(RGB, GREY, GREY), photometric="minisblack", planarconfig="contig"), None, RGB),
    "5 bands in planes": (
        tiff(separate(bands(RGB, GREY, GREY)), photometric="minisblack", planarconfig="separate"), None, RGB,
    ),
    "2 bands": (tiff(bands(GREY, NEAR_INFRARED), photometric="minisblack", planarconfig="contig"), None, GREY),
    "opaque alpha": (
        tiff(bands(DEEP_RGB, 0 * DEEP + 65535), photometric="rgb", extrasamples=["unassalpha"]), "format", RGB,
    ),
    "alpha of zeros": (
        tiff(bands(DEEP_RGB, 0 * DEEP), photometric="rgb", extrasamples=["unassalpha"]), "format", RGB,
    ),
    "alpha": (
        tiff(bands(DEEP_RGB, (DEEP * 0 + 65535) * (ROWS > 9)).astype(np.uint16), photometric="rgb",
             extrasamples=["unassalpha"]),
        "format", RGB * (ROWS > 9)[..., None],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_a_viewer_shows(name):
    data, intensity, expected = FILES[name]
    found = np.asarray(decode_original(data, intensity=intensity)).astype(int)
    shown = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, 2)
    assert np.abs(found - shown).max() <= (name == "JPEG")
    assert upright_size(data) == expected.shape[:2]


@pytest.mark.parametrize(
    ("name", "remark"),
    [("near infrared", "of 4 bands the first 3 are used"), ("5 bands", "of 5 bands the first 3 are used"),
     ("2 bands", "of 2 bands the first is used"), ("alpha", None), ("colour", None), ("12 of 16 bits", None)],
)  # fmt: skip
def test_bands_that_are_not_used_are_named(name, remark):
    data, intensity, _ = FILES[name]
    found = decode_for_model(data, InputShape((14, 14)), 10_000, intensity)
    assert found.remarks == (() if remark is None else (remark,))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tile": (4096, 8192)}, "tiles of 8192 x 4096 pixels"),
        ({"photometric": "cfa", "compression": "jpegxl"}, "compression"),
    ],
)
def test_what_is_too_large_or_unknown_is_refused(options, words):
    with pytest.raises(ImageError, match=words):
        decode_original(tiff(DEEP, **options), max_pixels=10_000)


def test_pixels_are_counted_before_they_are_decoded():
    with pytest.raises(ImageError, match="64 x 48"):
        decode_original(tiff(DEEP, compression="lerc"), max_pixels=48 * 64 - 1)
    with pytest.raises(ImageError, match="pixels of 65 bands"):
        decode_original(tiff(np.zeros((65, 48, 64), np.uint8), planarconfig="separate", photometric="minisblack"))


@pytest.mark.parametrize("compression", ["jpeg2000", "lerc"])
def test_a_small_image_of_a_huge_codestream_is_refused(compression):
    small, large = tiff(DEEP, compression=compression), tiff(np.zeros((480, 640), np.uint16), compression=compression)
    data = bytearray(large)
    for tag, value in ((256, 64), (257, 48), (278, 48)):  # width, height, rows of a strip
        place = data.find(tag.to_bytes(2, "little") + b"\4\0\1\0\0\0")
        place = place if place >= 0 else data.find(tag.to_bytes(2, "little") + b"\3\0\1\0\0\0")
        data[place + 8 : place + 12] = value.to_bytes(4, "little")
    assert decode_original(small).size == (64, 48)
    with pytest.raises(ImageError, match="not what the header says"):
        decode_original(bytes(data))


@pytest.mark.parametrize("compression", [None, "lzw", "zstd", "lerc", "jpeg2000"])
def test_a_file_that_ends_early_is_an_error_and_no_black_rows(compression):
    data = tiff(DEEP, compression=compression, rowsperstrip=8, metadata=None)
    with pytest.raises(ImageError, match="truncated or broken"):
        decode_original(data[:-20])


@pytest.mark.parametrize(("kind", "expected"), [("assocalpha", 128), ("unassalpha", 64)])
def test_colours_that_are_multiplied_by_their_alpha_are_not_darkened_again(kind, expected):
    """Premultiplied half white is grey over black, in 16 bits as in 8."""
    values = np.full((8, 8, 4), 32768, np.uint16)
    values[0, 0, 3] = 65535
    file = io.BytesIO()
    tifffile.imwrite(file, values, photometric="rgb", extrasamples=[kind])
    assert decode_original(file.getvalue()).getpixel((4, 4)) == (expected,) * 3
