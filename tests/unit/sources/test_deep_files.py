"""Deep PNG, PNM and JPEG 2000 files: grey, colour, alpha, and the depth that they declare."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest

from musc_ray.errors import ImageError
from musc_ray.sources.decoding import decode_image, decode_original, sample_image
from musc_ray.sources.deep import Range

ROWS, COLUMNS = np.mgrid[0:48, 0:64]
GREY = ((COLUMNS * 3 + ROWS) % 256).astype(np.uint8)
RGB = np.stack([GREY, np.roll(GREY, 7, 1), np.roll(GREY, 9, 0)], -1)
DEEP = np.rint(GREY * (4095 / 255)).astype(np.uint16)
DEEP_RGB = RGB.astype(np.uint16) * 257
UPPER = (ROWS < 10)[..., None]
TWELVE = Range(0, 4095, "integer")


def with_alpha(values: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return np.concatenate([values.reshape(48, 64, -1), np.broadcast_to(alpha, (48, 64, 1))], -1).astype(np.uint16)


def netpbm(kind: bytes, maxval: int, values: np.ndarray) -> bytes:
    return b"%s 64 48 %d\n" % (kind, maxval) + values.astype(">u2").tobytes()


def with_chunk(data: bytes, name: bytes, content: bytes) -> bytes:
    """A PNG with another chunk behind its header."""
    chunk = struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return data[:33] + chunk + data[33:]


PNG = imagecodecs.png_encode(DEEP)
FILES = {
    "PNG, grey": (PNG, TWELVE, GREY),
    "PNG, 12-bit colour": (imagecodecs.png_encode(np.stack([DEEP] * 3, -1)), TWELVE, GREY),
    "PNG, colour": (imagecodecs.png_encode(DEEP_RGB), "format", RGB),
    "PNG, opaque": (imagecodecs.png_encode(with_alpha(DEEP_RGB, [[[65535]]])), "format", RGB),
    "PNG, alpha of zeros": (imagecodecs.png_encode(with_alpha(DEEP_RGB, [[[0]]])), "format", RGB),
    "PNG, alpha": (imagecodecs.png_encode(with_alpha(DEEP_RGB, 65535 * ~UPPER)), "format", RGB * ~UPPER),
    "PNG, grey and alpha": (imagecodecs.png_encode(with_alpha(DEEP, 65535 * ~UPPER)), TWELVE, GREY * ~UPPER[..., 0]),
    "PNG, a transparent grey": (
        with_chunk(PNG, b"tRNS", struct.pack(">H", 4095)), TWELVE, np.where(GREY == 255, 0, GREY),
    ),
    "PGM": (netpbm(b"P5", 65535, DEEP), TWELVE, GREY),
    "PGM up to 4095": (netpbm(b"P5", 4095, DEEP), "format", GREY),
    "PGM as text": (b"P2 64 48 4095\n" + " ".join(map(str, DEEP.ravel())).encode(), "format", GREY),
    "PPM": (netpbm(b"P6", 65535, DEEP_RGB), "format", RGB),
    "PPM up to 4095": (netpbm(b"P6", 4095, np.rint(RGB * (4095 / 255))), "format", RGB),
    "JPEG 2000 of 12 bits": (imagecodecs.jpeg2k_encode(DEEP, level=0, codecformat="j2k", bitspersample=12),
                             "format", GREY),
    "JPEG 2000 of 16 bits": (imagecodecs.jpeg2k_encode(DEEP, level=0, codecformat="jp2"), TWELVE, GREY),
    "JPEG 2000, colour": (imagecodecs.jpeg2k_encode(DEEP_RGB, level=0, codecformat="jp2"), "format", RGB),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_pixels_are_those_that_a_viewer_shows(name):
    data, intensity, expected = FILES[name]
    found = np.asarray(decode_original(data, intensity=intensity)).astype(int)
    shown = expected if expected.ndim == 3 else np.repeat(expected[..., None], 3, 2)
    assert np.abs(found - shown).max() == 0


@pytest.mark.parametrize(
    ("data", "declared"),
    [
        (PNG, None),
        (with_chunk(PNG, b"sBIT", b"\x0c"), 12),
        (with_chunk(PNG, b"sBIT", b"\x0a"), 16),  # the values are larger: they are scaled to the whole format
        (with_chunk(PNG, b"sBIT", b"\x10"), None),
        (with_chunk(imagecodecs.png_encode(DEEP_RGB), b"sBIT", b"\x0c\x0c\x0c"), 16),
        (FILES["PGM"][0], None),
        (FILES["PGM up to 4095"][0], 16),  # scaled to 16 bits
        (FILES["JPEG 2000 of 12 bits"][0], 12),
        (FILES["JPEG 2000 of 16 bits"][0], None),
    ],
)
def test_the_depth_that_a_file_declares(data, declared):
    assert sample_image(data).declared == declared


@pytest.mark.parametrize("data", [imagecodecs.png_encode(RGB), imagecodecs.jpeg2k_encode(RGB), b"P5 1 1 255\n\0"])
def test_images_of_8_bits_are_not_deep(data):
    assert sample_image(data) is None


@pytest.mark.parametrize("name", ["PNG, colour", "PPM", "PGM", "JPEG 2000, colour"])
def test_what_is_cut_is_an_error(name):
    data = FILES[name][0]
    with pytest.raises(ImageError, match="truncated or broken"):
        decode_image(data[: len(data) // 3], (14, 14))


def test_the_size_of_a_codestream_counts_whatever_its_box_says():
    data = bytearray(imagecodecs.jpeg2k_encode(np.zeros((480, 640), np.uint16), codecformat="jp2"))
    place = data.find(b"ihdr") + 4
    data[place : place + 8] = struct.pack(">II", 48, 64)
    with pytest.raises(ImageError):
        decode_original(bytes(data), max_pixels=48 * 64)
