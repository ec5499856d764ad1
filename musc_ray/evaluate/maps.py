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


@dataclass(frozen=True, eq=False)
class PixelImage:
    """One image: pixel scores (P,) float32, their regions (P,) int32 or (0,), 1 / pixels of each region (R + 1,)."""

    row: int
    defect: str
    values: npt.NDArray[np.float32]
    regions: npt.NDArray[np.int32]
    shares: npt.NDArray[np.float64]


def pixel_images(fs: fsspec.AbstractFileSystem, file: MapFile, wanted: Wanted) -> Iterator[PixelImage]:
    """Yield the wanted images of a file; the others are not upsampled."""
    yield from upsampled(read_patch_maps(fs, file.scores), read_regions(fs, file.regions), wanted)


def upsampled(
    patch_maps: npt.NDArray[np.float32], images: list[Regions], wanted: Wanted = lambda *_: True
) -> Iterator[PixelImage]:
    """Upsample the patch maps (N, h, w) of some images to the resolution of their masks (DESIGN 2.4)."""
    import torch  # for the actors alone: the driver that imports this module stays small

    from musc_ray.core.pixel_map import pixel_map

    for image in images:
        patch_map = patch_maps[image.row]
        if wanted(image.defect, float(patch_map.min()), float(patch_map.max())):
            values = pixel_map(torch.from_numpy(patch_map[None]), image.size).numpy().ravel()
            yield PixelImage(image.row, image.defect, values, image.pixels(), image.shares())


def read_patch_maps(fs: fsspec.AbstractFileSystem, path: str) -> npt.NDArray[np.float32]:
    """Read all patch maps (N, h, w) of a file of scores into a writable array.

    Patches that are not scored have the lowest score of their image: their pixels count, as the least anomalous ones.
    """
    table = read_table(fs, path, ["grid_h", "grid_w", "patch_map"])
    grid = (table["grid_h"][0].as_py(), table["grid_w"][0].as_py())
    flat = pc.list_flatten(table["patch_map"].combine_chunks()).to_numpy(zero_copy_only=False)
    return fill_unscored(np.array(flat, np.float32).reshape(-1, *grid))
