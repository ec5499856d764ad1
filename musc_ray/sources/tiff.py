"""TIFF files that Pillow cannot read, or reads wrongly: deep, packed, inverted, of many bands, newer compressions."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, TiffImagePlugin

from musc_ray.errors import ImageError
from musc_ray.sources.decoding_memory import Take, unlimited
from musc_ray.sources.deep import DeepPixels, Values, check_size
from musc_ray.sources.deep_files import CODESTREAM, codestream_size

TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

BITS, PHOTOMETRIC, ORIENTATION, SAMPLES, MAX_SAMPLE = 258, 262, 274, 277, 281
EXTRA_SAMPLES, SAMPLE_FORMAT, TILE_WIDTH, TILE_LENGTH, PROFILE = 338, 339, 322, 323, 34675

PICTURE_BYTES = 8
"""Bytes a pixel of what becomes a picture, beside its values."""

MAX_TILE = 2**24
"""Pixels of a tile that is decoded even where images must be smaller: one with less is padded."""

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR, LAB = 0, 1, 2, 3, 5, 6, 8
CFA, LINEAR_RAW = 32803, 34892
BANDS = {WHITE_IS_ZERO: 1, BLACK_IS_ZERO: 1, RGB: 3, PALETTE: 1, CMYK: 4, YCBCR: 3, LAB: 3}
"""Bands that a photometric interpretation has, without extra samples."""

SHOWN = (WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, CMYK, YCBCR, CFA, LINEAR_RAW)
ASSOCIATED = 1
ALPHA = (ASSOCIATED, 2)
"""Extra samples that are alpha, associated or not. Others, and undeclared ones, are further bands."""

PLAIN = {1: "none", 5: "LZW", 8: "deflate", 32773: "PackBits", 32946: "deflate", 34925: "LZMA", 50000: "Zstandard"}
"""Compressions whose output is limited by the size that the file's header gives a strip or tile."""

JPEG, LERC, JPEG_2000 = (7, 33007, 34892), (34887,), (33003, 33004, 33005, 34712)
"""Compressions with a header of their own, which is checked before they are decoded."""


def is_plain(picture: Image.Image, max_pixels: int) -> bool:
    """Whether Pillow shows a TIFF file as a viewer does: at most 8 bits, one interpretation, no further bands.

    Raises:
        ImageError: its tiles are larger than `max_pixels`.
    """
    if not isinstance(picture, TiffImagePlugin.TiffImageFile):
        return True
    tags = picture.tag_v2
    _check_tile(tags.get(TILE_WIDTH, 1), tags.get(TILE_LENGTH, 1), max_pixels)
    photometric, extra = tags.get(PHOTOMETRIC, 0), tuple(tags.get(EXTRA_SAMPLES, ()))
    bands = tags.get(SAMPLES, 1) - (len(extra) == 1 and extra[0] in ALPHA)
    return (
        max(tags.get(BITS, (1,))) <= 8
        and set(tags.get(SAMPLE_FORMAT, (1,))) <= {1, 4}
        and bands == BANDS.get(photometric, 0)
    )


@contextmanager
def first_page(data: bytes) -> Iterator[Any]:
    """Open a TIFF file, give tifffile's view of its first page."""
    import tifffile  # here: few archives need it

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # what it says of broken files becomes an ImageError
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        yield file.pages[0]


def tiff_size(data: bytes) -> tuple[int, int]:
    """Return the (H, W) of a TIFF file's first page as it is shown upright."""
    with first_page(data) as page:
        turned = page.tags.valueof(ORIENTATION, 1) in range(5, 9)
        height, width = page.imagelength, page.imagewidth
    return (width, height) if turned else (height, width)


def read_tiff(data: bytes, max_pixels: int, take: Take = unlimited) -> DeepPixels:
    """Read the first page of a TIFF file.

    Args:
        data: the file.
        max_pixels: larger pages, strips and tiles are refused before they are decoded.
        take: takes memory for it.

    Raises:
        ImageError: too large, broken, or of a kind that is not known.
    """
    with first_page(data) as page:
        check_page(page, data, max_pixels)
        pixels, values_of_pixel = page.imagelength * page.imagewidth, page.shaped[0] * page.shaped[4]
        take(pixels * (2 * values_of_pixel * np.dtype(page.dtype).itemsize + PICTURE_BYTES))
        values = page.asarray(maxworkers=1)
        # (separate bands, depth, height, width, bands)
        values = np.moveaxis(values.reshape(page.shaped)[:, 0], 0, -2).reshape(page.imagelength, page.imagewidth, -1)
        return interpreted(page, values)


def check_page(page: Any, data: bytes, max_pixels: int) -> None:
    """Refuse what would take too much memory, and what cannot be decoded, before anything is decoded."""
    sizes = (page.imagewidth, page.imagelength, page.tilewidth, page.tilelength, page.tiledepth, page.rowsperstrip)
    if not all(isinstance(size, int) for size in sizes):
        raise ImageError("The image is truncated or broken: its header has no size.")
    separate, depth, height, width, contiguous = page.shaped
    check_size(width, height, max_pixels, separate * contiguous)
    if depth != 1 or page.photometric not in SHOWN or np.dtype(page.dtype).kind not in "buif":
        raise ImageError(
            f"The TIFF file has pixels of a kind that is not known: photometric interpretation "
            f"{int(page.photometric)}, depth {depth}, type {page.dtype}."
        )
    if page.is_tiled:
        _check_tile(page.tilewidth * page.tiledepth, page.tilelength, max_pixels)
    ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if not ends or max(ends) > len(data) or min(page.databytecounts) <= 0:
        raise ImageError("The image is truncated or broken: some of its strips or tiles are missing.")
    compression = int(page.compression)
    if compression in PLAIN:
        return
    if compression not in (*JPEG, *LERC, *JPEG_2000):
        raise ImageError(f"The TIFF file has compression {compression}, which is not known.")
    area = page.tilewidth * page.tilelength if page.is_tiled else width * min(page.rowsperstrip, height)
    for start, end in zip(page.dataoffsets, ends, strict=True):
        found = _pixels_of(data[start:end], compression)
        if found is None or found > max(area, 1):
            raise ImageError("The image is truncated or broken: a strip or tile is not what the header says.")


def _check_tile(width: int, height: int, max_pixels: int) -> None:
    """Refuse a small image in a huge tile, which would be decoded whole."""
    if width * height > max(max_pixels, MAX_TILE):
        raise ImageError(f"The TIFF file has tiles of {width} x {height} pixels, more than max_pixels {max_pixels}.")


def _pixels_of(segment: bytes, compression: int) -> int | None:
    """Return the pixels that the header of a compressed strip or tile tells of; None for a broken one."""
    if compression in LERC:
        if not segment.startswith(b"Lerc2 ") or len(segment) < 34:
            return None
        version = int.from_bytes(segment[6:10], "little")
        place = 14 if version >= 3 else 10
        rows, columns = (int.from_bytes(segment[at : at + 4], "little") for at in (place, place + 4))
        return rows * columns
    if compression in JPEG_2000:
        if not segment.startswith(CODESTREAM):
            return None
        width, height, _ = codestream_size(segment)
        return width * height
    place = 2
    while place + 9 <= len(segment) and segment[place] == 0xFF:
        marker, length = segment[place + 1], int.from_bytes(segment[place + 2 : place + 4])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(segment[place + 5 : place + 7]) * int.from_bytes(segment[place + 7 : place + 9])
        place += 2 + length
    return None


def interpreted(page: Any, values: Values) -> DeepPixels:
    """Choose the bands that are shown of (H, W, bands), and say which."""
    photometric, bands = int(page.photometric), values.shape[2]
    natural = BANDS.get(photometric, 1)
    extra = tuple(page.extrasamples or ())
    alpha = None
    if extra and extra[0] in ALPHA and bands > bands - len(extra) >= 1:
        alpha, natural = values[..., bands - len(extra)], max(natural, bands - len(extra))
    colours = bands - len(extra) if alpha is not None else bands
    shown = 4 if photometric == CMYK and colours >= 4 else 3 if colours >= 3 else 1
    used = "first is" if shown == 1 else f"first {shown} are"
    remarks = (f"of {colours} bands the {used} used",) if shown < colours else ()
    if alpha is not None and extra[0] == ASSOCIATED:
        alpha = None  # the colours are multiplied by it already, which is what they look like over black
    bits = _bits(page)
    chosen = values[..., 0] if shown == 1 else values[..., :shown]
    if values.dtype == np.bool_ or bits < 8:
        levels = 1 if values.dtype == np.bool_ else 2**bits - 1
        chosen = np.rint(chosen * (255 / levels)).astype(np.uint8)
    elif values.dtype == np.int8:
        chosen = (chosen.astype(np.int16) + 128).astype(np.uint8)
    return DeepPixels(
        np.ascontiguousarray(chosen),
        bits,
        _declared(page, bits),
        None if alpha is None else _opacity(alpha, bits),
        photometric == WHITE_IS_ZERO,
        remarks,
        int(page.tags.valueof(ORIENTATION, 1)),
        page.tags.valueof(PROFILE, None),
    )


def _bits(page: Any) -> int:
    bits = page.bitspersample
    return int(max(bits)) if isinstance(bits, tuple) else int(bits)


def _declared(page: Any, bits: int) -> int | None:
    """Return the bits that the file says its values have: those that it packs, or of its largest value."""
    largest = page.tags.valueof(MAX_SAMPLE, None)
    largest = max(largest) if isinstance(largest, tuple) else largest
    if isinstance(largest, int) and 0 < largest < 2**bits - 1:
        return largest.bit_length()
    return bits if 8 < bits < 16 else None


def _opacity(alpha: Values, bits: int) -> npt.NDArray[np.float32]:
    highest = 1.0 if alpha.dtype.kind in "fb" else float(2**bits - 1)
    return np.asarray(np.nan_to_num(alpha.astype(np.float32) / np.float32(highest)).clip(0, 1))
