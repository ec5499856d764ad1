"""Large TIFF files read in part: a band of rows at a time becomes a row of crops, and the same rows of the whole image.

What comes out is the same to the bit as from the decoded file: crops are cut before they are resized, and Pillow
resizes a picture's rows, each on its own, before its columns.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from musc_ray.core.crops import CropInput, InputShape, Size
from musc_ray.errors import ImageError
from musc_ray.sources.decoding_memory import Take
from musc_ray.sources.deep import Intensity, Range, Values, to_eight_bits
from musc_ray.sources.model_input import ModelInput, Pixels, resized, stacked
from musc_ray.sources.tiff import (
    BLACK_IS_ZERO,
    ORIENTATION,
    PICTURE_BYTES,
    PLAIN,
    PROFILE,
    RGB,
    check_page,
    first_page,
    interpreted,
)

MIN_PIXELS = 2**24
"""Pixels of a page from which it is read in part."""


class BandInput(NamedTuple):
    """What enters the model of a file that was read in part; (H, W) of the image, and remarks on it."""

    pictures: ModelInput
    size: tuple[int, int]
    remarks: tuple[str, ...]


def read_in_bands(
    data: bytes, shape: InputShape, max_pixels: int, intensity: Intensity, take: Take
) -> BandInput | None:
    """Read the first page of a TIFF file band by band; None where it is to be decoded whole.

    Args:
        data: the file.
        shape: what enters the model.
        max_pixels: larger pages are left to whole decoding, which refuses them.
        intensity: range of the group's deep pixels.
        take: takes memory for a band.

    Raises:
        MemoryError: memory is too short for a band now.
    """
    if shape.crops is None:
        return None
    try:
        with first_page(data) as page:
            check_page(page, data, max_pixels)
            boxes = shape.crops.layout.boxes(page.imagelength, page.imagewidth)
            high = max(bottom - top for top, _, bottom, _ in boxes)
            if not _can_be_read_in_part(page, intensity, high):
                return None
            take(high * page.imagewidth * (2 * page.samplesperpixel * np.dtype(page.dtype).itemsize + PICTURE_BYTES))
            pictures, remarks = _read(page, data, shape.whole, shape.crops, intensity)
            return BandInput(pictures, (page.imagelength, page.imagewidth), remarks)
    except MemoryError:
        raise
    except Exception:  # noqa: BLE001 - broken, or of a kind that is refused: decoding the whole of it says why
        return None


def _can_be_read_in_part(page: Any, intensity: Intensity, band: int) -> bool:
    """Tell whether a page is large, of plain pixels that can be shown one by one, and has no strips above a band."""
    separate, depth, height, width, contiguous = page.shaped
    bands = {BLACK_IS_ZERO: 1, RGB: 3}.get(int(page.photometric))
    dtype = np.dtype(page.dtype)
    return (
        height * width >= MIN_PIXELS
        and (separate, depth, contiguous) == (1, 1, bands)
        and not page.extrasamples
        and dtype in (np.uint8, np.uint16)
        and page.bitspersample == 8 * dtype.itemsize
        and (dtype == np.uint8 or isinstance(intensity, Range))
        and page.tags.valueof(ORIENTATION, 1) == 1
        and PROFILE not in page.tags
        and page.fillorder == 1
        and int(page.compression) in PLAIN
        and (_is_one_block(page) or (page.tilelength if page.is_tiled else page.rowsperstrip) <= band)
    )


def _is_one_block(page: Any) -> bool:
    """Tell whether the pixels lie in the file as they are, one row behind the other."""
    ends = [start + length for start, length in zip(page.dataoffsets, page.databytecounts, strict=True)]
    size = page.imagelength * page.imagewidth * page.samplesperpixel * np.dtype(page.dtype).itemsize
    return (
        int(page.compression) == 1
        and int(page.predictor) == 1
        and not page.is_tiled
        and tuple(page.dataoffsets[1:]) == tuple(ends[:-1])
        and sum(page.databytecounts) == size
    )


def _read(
    page: Any, data: bytes, whole: Size, crops: CropInput, intensity: Intensity
) -> tuple[ModelInput, tuple[str, ...]]:
    """Read all bands, each row of the file once or, where bands overlap within a strip, twice; return remarks, too."""
    width, boxes = page.imagewidth, crops.layout.boxes(page.imagelength, page.imagewidth)
    bands = [(top, bottom) for top, _, bottom, _ in boxes[:: crops.layout.columns]]
    columns = [(left, right) for _, left, _, right in boxes[: crops.layout.columns]]
    narrow: list[Pixels] = []
    remarks: dict[str, None] = {}

    def cut() -> Iterator[Image.Image]:
        seen, kept = 0, np.empty((0, width, page.samplesperpixel), page.dtype)
        for top, bottom in bands:
            new = _rows(page, data, seen, bottom)
            values = np.concatenate([kept[len(kept) - (seen - top) :], new]) if seen > top else new
            picture, said = to_eight_bits(interpreted(page, values), intensity)
            remarks.update(dict.fromkeys(said))
            fresh = picture.crop((0, max(seen - top, 0), width, bottom - top))
            narrow.append(_narrowed(fresh, whole[1]))
            seen, kept = bottom, values
            yield from (picture.crop((left, 0, right, picture.height)) for left, right in columns)

    cropped = stacked(cut(), crops)
    return ModelInput(resized(Image.fromarray(np.concatenate(narrow)), whole), cropped), tuple(remarks)


def _narrowed(picture: Image.Image, width: int) -> Pixels:
    """Resize the rows of a picture alone."""
    return np.asarray(picture.resize((width, picture.height), Image.Resampling.BICUBIC))


def _rows(page: Any, data: bytes, top: int, bottom: int) -> Values:
    """Decode some rows of a page, (rows, W, bands), from the strips or tiles that hold them; a view where it can be.

    Raises:
        ImageError: a strip or tile is missing.
    """
    height, width, bands = page.imagelength, page.imagewidth, page.samplesperpixel
    if _is_one_block(page):
        dtype = np.dtype(page.dtype).newbyteorder(page.parent.byteorder)
        values = np.frombuffer(data, dtype, height * width * bands, page.dataoffsets[0])
        return values.reshape(height, width, bands)[top:bottom]
    long, across = (page.tilelength, -(-width // page.tilewidth)) if page.is_tiled else (page.rowsperstrip, 1)
    rows = np.empty((bottom - top, width, bands), page.dtype)
    for index in range(top // long * across, (-(-bottom // long)) * across):
        start, count = page.dataoffsets[index], page.databytecounts[index]
        segment, (_, _, y, x, _), _ = page.decode(data[start : start + count], index)
        if segment is None:
            raise ImageError("The image is truncated or broken: some of its strips or tiles are missing.")
        segment = segment[0, max(0, top - y) : min(height, bottom) - y, : width - x]
        at = max(y, top) - top
        rows[at : at + len(segment), x : x + segment.shape[1]] = segment
    return rows
