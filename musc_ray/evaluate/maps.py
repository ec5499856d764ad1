"""Read the pixel maps of scored images with their regions, one image in memory at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from musc_ray.core.pixel_map import fill_unscored
from musc_ray.evaluate.masks import Regions, read_regions
from musc_ray.storage.parquet import read_table

Wanted = Callable[[str, float, float], bool]
"""Takes an image's defect and its lowest and highest patch score; returns whether to upsample it."""


@dataclass(frozen=True)
class MapFile:
    """A file of the scores table, and the file with the regions of its images."""

    scores: str
    regions: str


Part = tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]
"""Pixel scores (P,) of some rows of an image, and their regions (P,), or (0,) of an image without any."""


@dataclass(frozen=True, eq=False)
class PixelImage:
    """One image: its patch map (h, w), and its regions, which say at what size they are compared."""

    patch_map: npt.NDArray[np.float32]
    regions: Regions

    @property
    def pixels(self) -> int:
        """Count its pixels."""
        return self.regions.size[0] * self.regions.size[1]

    def parts(self) -> Iterator[Part]:
        """Upsample the map to the resolution of its mask (DESIGN 2.4), at most PIXELS_CHUNK pixels at a time."""
        from musc_ray.core.pixel_map import PIXELS_CHUNK, pixel_rows  # torch, for the actors alone

        height, width = self.regions.size
        rows = max(1, PIXELS_CHUNK // width)
        for top in range(0, height, rows):
            some = range(top, min(top + rows, height))
            yield pixel_rows(self.patch_map, (height, width), some).ravel(), self.regions.pixels(some)


def pixel_images(fs: fsspec.AbstractFileSystem, file: MapFile, wanted: Wanted) -> Iterator[PixelImage]:
    """Yield the wanted images of a file."""
    patch_maps = read_patch_maps(fs, file.scores)
    for regions in read_regions(fs, file.regions):
        patch_map = patch_maps[regions.row]
        if wanted(regions.defect, float(patch_map.min()), float(patch_map.max())):
            yield PixelImage(patch_map, regions)


def read_patch_maps(fs: fsspec.AbstractFileSystem, path: str) -> npt.NDArray[np.float32]:
    """Read all patch maps (N, h, w) of a file of scores into a writable array.

    Patches that are not scored have the lowest score of their image: their pixels count, as the least anomalous ones.
    """
    table = read_table(fs, path, ["grid_h", "grid_w", "patch_map"])
    grid = (table["grid_h"][0].as_py(), table["grid_w"][0].as_py())
    flat = pc.list_flatten(table["patch_map"].combine_chunks()).to_numpy(zero_copy_only=False)
    return fill_unscored(np.array(flat, np.float32).reshape(-1, *grid))
