"""Make the report's table of images: rows by rank, and each image's details in the order of the scores table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from musc_ray.core.crops import Box
from musc_ray.core.pixel_map import fill_unscored
from musc_ray.report.colormap import quantise
from musc_ray.report.data_scripts import common_prefix, packed, printable, rounded
from musc_ray.report.pictures import SHEET_IMAGES

CHUNK_ROWS = 4 * SHEET_IMAGES
"""Rows of the table per file, a whole number of sheets."""

DETAIL_ROWS = 64
"""Images per file of details; a page reads one file, of up to 2 kB an image, to show one image."""

NO_THUMBNAIL, UNREADABLE = (0, 0), (-1, -1)
"""Sizes that stand for missing thumbnails: not requested, or unreadable."""


@dataclass(frozen=True)
class Lookup:
    """Ranks of a group's images by id: `ids` (N,) sorted as bytes, and their ranks (N,)."""

    ids: npt.NDArray[np.bytes_]
    ranks: npt.NDArray[np.int32]

    @classmethod
    def of(cls, ids: Sequence[str], ranks: npt.NDArray[np.int32]) -> "Lookup":
        """Build a lookup from ids and ranks in any order."""
        array = np.array(ids, np.bytes_)
        order = np.argsort(array)
        return cls(array[order], ranks[order])

    def rank(self, ids: Sequence[str]) -> list[int]:
        """Return the ranks of images of the group."""
        found: list[int] = self.ranks[np.searchsorted(self.ids, np.array(ids, self.ids.dtype))].tolist()
        return found


def table_rows(table: pa.Table, sizes: Sequence[tuple[int, int]], zooms: Sequence[Box | None]) -> dict[str, Any]:
    """Make rows of a group's table, as columns.

    Args:
        table: columns image_id, uri, score, score_raw, percentile, detail, label, and SIZE_AND_PEAK; in the order of
            the ranks.
        sizes: width and height of each thumbnail.
        zooms: the part of each image that is shown at its own pixels.

    Returns:
        Of places and sizes in the original x comes before y, as people say them; null where unknown.
    """
    names = [printable(uri) for uri in table["uri"].to_pylist()]
    prefix = common_prefix(names)
    return {
        "prefix": prefix,
        "id": [printable(image_id) for image_id in table["image_id"].to_pylist()],
        "name": [name[len(prefix) :] for name in names],
        "score": rounded(table["score"].to_numpy()),
        "raw": rounded(table["score_raw"].to_numpy()),
        "percentile": [cut_percentile(value) for value in table["percentile"].to_pylist()],
        "detail": table["detail"].to_pylist(),
        "label": [printable(label) for label in table["label"].to_pylist()],
        "size": [list(size) for size in sizes],
        "pixels": _pairs(table, "width", "height"),
        "peak": _pairs(table, "peak_x", "peak_y"),
        "zoom": [None if box is None else [box[1], box[0], box[3] - box[1], box[2] - box[0]] for box in zooms],
    }


def _pairs(table: pa.Table, x: str, y: str) -> list[list[int] | None]:
    """Return pairs of two columns; None where the first is null."""
    pairs = zip(table[x].to_pylist(), table[y].to_pylist(), strict=True)
    return [None if first is None else [first, second] for first, second in pairs]


def cut_percentile(value: float) -> float:
    """Cut a percentile to two decimals without rounding: only the very top is 100."""
    return math.floor(value * 100 + 1e-6) / 100


def details(scores: pa.Table, neighbours: pa.Table | None, lookup: Lookup, high: float) -> dict[str, Any]:
    """Make the details of images: patch maps and similar images.

    Args:
        scores: columns image_id, rank, patch_map.
        neighbours: rows of the same images in the same order; None where the run has none.
        lookup: ranks of the whole group.
        high: the upper end of the scale of the group's heat maps.
    """
    maps = fill_unscored(np.array(scores["patch_map"].to_pylist(), np.float32))
    maps[np.isnan(maps).all(axis=1)] = 0  # nothing of these images is scored
    found: dict[str, Any] = {
        "rank": scores["rank"].to_pylist(),
        "id": [printable(image_id) for image_id in scores["image_id"].to_pylist()],
        "map": [packed(row) for row in quantise(maps, high)],
        "similar": None,
    }
    if neighbours is not None:
        pairs = zip(neighbours["neighbours"].to_pylist(), neighbours["similarities"].to_pylist(), strict=True)
        found["similar"] = [[lookup.rank(ids), rounded(np.array(values))] for ids, values in pairs]
    return found
