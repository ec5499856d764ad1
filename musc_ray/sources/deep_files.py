"""Deep pixels of the files that Pillow reads only in part: 16-bit PNG, PNM and JPEG 2000 in colour or with alpha."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from musc_ray.errors import ImageError
from musc_ray.sources.deep import DeepPixels, Values, check_size

DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")

ORIENTATION = 0x0112
"""EXIF's tag."""

PNG_DEPTH = 24
"""Where a PNG's header has its bits."""

CODESTREAM = b"\xff\x4f\xff\x51"
"""How a JPEG 2000 codestream begins: its header follows."""

BITS = 42
"""Where that header has the bits of its first band, less one; the number of bands is before it."""


def deep_pixels(picture: Image.Image, data: bytes, max_pixels: int) -> DeepPixels | None:
    """Read the pixels of an opened image with more than 8 bits, other than a TIFF; None for an 8-bit one.

    Args:
        picture: as Pillow opened it; its size is checked.
        data: the encoded image.
        max_pixels: larger images are refused.

    Raises:
        ImageError: a broken header.
    """
    deep = _deep(picture, data, max_pixels)
    if deep is None:
        return None
    orientation = picture.getexif().get(ORIENTATION, 1)
    return replace(deep, orientation=orientation, profile=picture.info.get("icc_profile"))


def _deep(picture: Image.Image, data: bytes, max_pixels: int) -> DeepPixels | None:
    if picture.format == "PNG" and data[PNG_DEPTH] == 16:
        return _png(picture, data)
    if picture.format == "PPM" and (maxval := _maxval(picture)) > 255:
        return _netpbm(picture, data, maxval)
    if picture.format == "JPEG2000":
        return _jpeg_2000(data, max_pixels)
    if picture.mode in DEEP_MODES:
        return DeepPixels(np.asarray(picture), 32 if picture.mode in ("I", "F") else 16)
    return None


def _png(picture: Image.Image, data: bytes) -> DeepPixels:
    """Read a 16-bit PNG: Pillow keeps the upper byte of colours and of grey with alpha alone."""
    declared = _significant_bits(data)
    if picture.mode in DEEP_MODES:
        values, alpha = np.asarray(picture), None
        hidden = picture.info.get("transparency")
        if isinstance(hidden, int):
            alpha = (values != hidden).astype(np.float32)
        return DeepPixels(values, 16, declared, alpha)
    import imagecodecs

    picture.load()  # refuses what is truncated or broken
    values = imagecodecs.png_decode(data)
    if values.dtype != np.uint16 or values.shape[:2] != picture.size[::-1]:
        raise ImageError("The image is truncated or broken: its pixels are not those of its header.")
    hidden = picture.info.get("transparency")
    if values.ndim == 3 and values.shape[2] == 3 and isinstance(hidden, tuple):
        return DeepPixels(values, 16, declared, (values != np.array(hidden)).any(axis=2).astype(np.float32))
    return with_alpha(values, 16, declared)


def with_alpha(values: Values, bits: int, declared: int | None = None) -> DeepPixels:
    """Split (H, W, 2) or (H, W, 4) into colours and alpha; other shapes have none."""
    if values.ndim == 2 or values.shape[2] not in (2, 4):
        return DeepPixels(values, bits, declared)
    alpha = values[..., -1].astype(np.float32) / np.float32(2**bits - 1)
    colours = values[..., 0] if values.shape[2] == 2 else values[..., :3]
    return DeepPixels(colours, bits, declared, alpha)


def _significant_bits(data: bytes) -> int | None:
    """Return the largest number in a PNG's sBIT; None without one, and for the 16 bits that say nothing."""
    place = 8
    while place + 8 <= len(data):
        length, name = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8]
        if name in (b"IDAT", b"PLTE"):  # behind these there is no sBIT
            return None
        if name == b"sBIT":
            bits = max(data[place + 8 : place + 8 + min(length, 3)], default=16)
            return bits if 0 < bits < 16 else None
        place += 12 + length
    return None


def _maxval(picture: Image.Image) -> int:
    """Return the largest value that a PNM file says it can hold; 0 where there is none, as in float ones."""
    tiles: Any = getattr(picture, "tile", None)
    arguments = tiles[0][3] if tiles else ()
    if isinstance(arguments, tuple) and len(arguments) > 1 and isinstance(arguments[1], int):
        return arguments[1]
    return 65535 if picture.mode in ("I", "I;16", "I;16B") else 0


def _netpbm(picture: Image.Image, data: bytes, maxval: int) -> DeepPixels:
    """Read a deep PNM file, scaled from 0..maxval to 16 bits as Pillow scales grey ones; it makes colours 8-bit."""
    declared = None if maxval == 65535 else 16
    if picture.mode != "RGB" or not re.match(rb"P6\s", data):
        if picture.mode == "RGB":  # numbers as text: rare, and Pillow scales them from maxval
            return DeepPixels(np.asarray(picture), 8)
        return DeepPixels(np.asarray(picture), 16, declared)
    tiles: Any = picture.tile  # type: ignore[attr-defined]
    start, count = tiles[0][2], picture.width * picture.height * 3
    if len(data) < start + 2 * count:
        raise ImageError("The image is truncated or broken: it ends before its last pixel.")
    values: npt.NDArray[np.uint16] = np.frombuffer(data, ">u2", count, start).astype(np.uint16)
    if declared is not None:
        values = np.minimum(np.rint(values * (65535 / maxval)), 65535).astype(np.uint16)
    return DeepPixels(values.reshape(picture.height, picture.width, 3), 16, declared)


def codestream(data: bytes) -> bytes:
    """Return the codestream of a JPEG 2000 file, which may lie in boxes.

    Raises:
        ImageError: there is none.
    """
    if data.startswith(CODESTREAM):
        return data
    place = 0
    while place + 16 <= len(data):
        length, name, header = int.from_bytes(data[place : place + 4]), data[place + 4 : place + 8], 8
        if length == 1:
            length, header = int.from_bytes(data[place + 8 : place + 16]), 16
        if name == b"jp2c" and data.startswith(CODESTREAM, place + header):
            return data[place + header : place + length if length else None]
        if length < header:
            break
        place += length
    raise ImageError("The image is truncated or broken: its JPEG 2000 codestream is missing.")


def codestream_size(stream: bytes) -> tuple[int, int, int]:
    """Return width, height and bands of a JPEG 2000 codestream.

    Raises:
        ImageError: its header is broken.
    """
    right, lower, left, upper = (int.from_bytes(stream[place : place + 4]) for place in (8, 12, 16, 20))
    if len(stream) <= BITS or right <= left or lower <= upper:
        raise ImageError("The image is truncated or broken: the header of its JPEG 2000 codestream is.")
    return right - left, lower - upper, int.from_bytes(stream[BITS - 2 : BITS])


def _jpeg_2000(data: bytes, max_pixels: int) -> DeepPixels | None:
    """Read a deep JPEG 2000 file: its codestream has a size of its own, whatever the boxes around it say."""
    stream = codestream(data)
    width, height, bands = codestream_size(stream)
    bits = (stream[BITS] & 0x7F) + 1
    if bits <= 8:
        return None
    check_size(width, height, max_pixels, bands)
    import imagecodecs

    values = imagecodecs.jpeg2k_decode(stream)
    if values.dtype.itemsize != 2:
        raise ImageError(f"The image has {bits}-bit values, which are not known in JPEG 2000.")
    return with_alpha(values, bits, bits if bits < 16 else None)
