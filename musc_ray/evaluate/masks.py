"""Turn masks into connected regions of pixels, and store them compactly between the passes over a run's maps."""

from collections.abc import Sequence
from dataclasses import dataclass

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from musc_ray.evaluate.mask_pixels import BLACK, HALF, background_of, background_vote, read_mask, shades_of
from musc_ray.settings.limits import MAX_PIXELS
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.schemas import REGIONS


@dataclass(frozen=True, eq=False)
class Regions:
    """The anomalous regions of one image at the resolution of the evaluation.

    Attributes:
        row: row of the image in its file of scores.
        defect: `good`, or the defect.
        size: (H, W) in pixels.
        starts, lengths, numbers: (K,) int32; runs of pixels of a row, in row-major order, and the region (from 1) of
            each.
    """

    row: int
    defect: str
    size: tuple[int, int]
    starts: npt.NDArray[np.int32]
    lengths: npt.NDArray[np.int32]
    numbers: npt.NDArray[np.int32]

    def pixels(self, rows: range | None = None) -> npt.NDArray[np.int32]:
        """Return the region of each pixel (P,), or of those of some rows, 0 outside; (0,) for an image without any."""
        if len(self.starts) == 0:
            return np.empty(0, np.int32)
        rows, width = range(self.size[0]) if rows is None else rows, self.size[1]
        first = rows.start * width
        result = np.zeros(len(rows) * width, np.int32)
        some = slice(*np.searchsorted(self.starts, [first, rows.stop * width]))  # runs end with their row
        for start, length, number in zip(self.starts[some], self.lengths[some], self.numbers[some], strict=True):
            result[start - first : start - first + length] = number
        return result

    def shares(self) -> npt.NDArray[np.float64]:
        """Return 1 / pixels of each region (R + 1,), [0] = 0."""
        areas = np.bincount(self.numbers, self.lengths, 1)
        return np.divide(1.0, areas, out=np.zeros(len(areas)), where=areas > 0)


def decode_mask(
    data: bytes, size: tuple[int, int] | None, mask_level: int, max_pixels: int = MAX_PIXELS
) -> npt.NDArray[np.bool_]:
    """Decode one mask (H, W) by itself: all pixels but those of its background are anomalous; see `mask_pixels`.

    Args:
        data: an encoded image.
        size: see `resize_mask`.
        mask_level: see `resize_mask`.
        max_pixels: larger masks are refused.

    Raises:
        ImageError: not an image, broken, or too large.
    """
    mask = read_mask(data, max_pixels)
    return resize_mask(shades_of(mask, background_of(mask, background_vote(mask) or BLACK)), size, mask_level)


def resize_mask(shades: npt.NDArray[np.uint8], size: tuple[int, int] | None, mask_level: int) -> npt.NDArray[np.bool_]:
    """Resize the shades of a mask, bilinear as MuSc's code does, and decide which pixels are anomalous.

    Args:
        shades: (h, w).
        size: (H, W); None keeps the mask's own, and cuts at half.
        mask_level: minimum shade, 1 to 255, of an anomalous pixel after resizing (see DatasetLayout).
    """
    if size is None:
        return shades >= HALF
    if size != shades.shape:
        shades = np.asarray(Image.fromarray(shades).resize((size[1], size[0]), Image.Resampling.BILINEAR))
    return shades >= mask_level


def no_regions(row: int, defect: str, size: tuple[int, int]) -> Regions:
    """Make the regions of an image without anomalous pixels."""
    return Regions(row, defect, size, *(np.empty(0, np.int32) for _ in range(3)))


def regions_of(row: int, defect: str, mask: npt.NDArray[np.bool_]) -> Regions:
    """Find the regions of a mask (H, W): pixels that touch, also at corners, as in MVTec AD's evaluation.

    Runs of pixels are labelled, not pixels: masks of 150 megapixels need no array of numbers of that size.
    """
    from scipy.sparse import coo_array  # of the evaluate extra
    from scipy.sparse.csgraph import connected_components

    height, width = mask.shape
    of_rows = [_runs(mask[at], at * width) for at in np.flatnonzero(mask.any(axis=1))]
    starts, stops = (np.concatenate([runs[side] for runs in of_rows] or [np.empty(0, np.int64)]) for side in (0, 1))
    # a run touches those of the row above that begin before its end and end behind its start, corners included
    first = np.searchsorted(stops, starts - width, side="left")
    last = np.searchsorted(starts, stops - width, side="right")
    above = starts // width - 1
    first = np.maximum(first, np.searchsorted(starts, above * width))
    last = np.minimum(last, np.searchsorted(starts, (above + 1) * width))
    touching = np.maximum(last - first, 0)
    own = np.repeat(np.arange(len(starts)), touching)
    offsets = np.arange(len(own)) - np.repeat(np.cumsum(touching) - touching, touching)
    pairs = coo_array((np.ones(len(own), bool), (own, np.repeat(first, touching) + offsets)), (len(starts),) * 2)
    numbers = connected_components(pairs, directed=False)[1] if len(starts) else starts
    found = (starts, stops - starts, numbers + 1)
    return Regions(row, defect, (height, width), *(values.astype(np.int32) for values in found))


def _runs(flags: npt.NDArray[np.bool_], first: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return starts and stops of the runs of a row's pixels; its first pixel has the number `first`."""
    edges = np.flatnonzero(np.diff(flags, prepend=False, append=False)) + first
    return edges[::2], edges[1::2]


def write_regions(fs: fsspec.AbstractFileSystem, path: str, images: Sequence[Regions]) -> None:
    """Write the regions of the images of one file of scores."""
    columns = [
        [image.row for image in images],
        [image.defect for image in images],
        [image.size[0] for image in images],
        [image.size[1] for image in images],
        [image.starts for image in images],
        [image.lengths for image in images],
        [image.numbers for image in images],
    ]
    write_table(fs, path, pa.table(columns, schema=REGIONS))


def read_regions(fs: fsspec.AbstractFileSystem, path: str) -> list[Regions]:
    """Read what `write_regions` wrote."""
    table = read_table(fs, path)
    lists = [[row.values.to_numpy() for row in table[name]] for name in ("starts", "lengths", "regions")]
    plain = [table[name].to_pylist() for name in ("row", "defect", "height", "width")]
    return [
        Regions(row, defect, (height, width), *runs)
        for row, defect, height, width, *runs in zip(*plain, *lists, strict=True)
    ]
