"""From bands to patch maps on a scoring worker: mean over layers, then the raw image score at pixel resolution."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch

from musc_ray.core.peaks import peak_patches
from musc_ray.core.pixel_map import image_scores
from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.storage.arrays import read_array
from musc_ray.storage.known_good_arrays import aside_band_path
from musc_ray.storage.listing import exists
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.schemas import MAPS
from musc_ray.storage.shards import FeaturesMeta

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class ImageMaps:
    """The maps of a shard's images, and what follows from them.

    Attributes:
        maps: (A, h, w) float32; NaN where a patch is not scored.
        score_raw: (A,) float32.
        peaks: (A, 2) integers: place and patch of the most anomalous patch, whose features RsCon compares.
    """

    maps: FloatArray
    score_raw: FloatArray
    peaks: npt.NDArray[np.int64]


def patch_maps_of(run_paths: RunPaths, group: str, shard: RingShard, meta: FeaturesMeta) -> FloatArray:
    """Average a shard's bands over layers: its images' patch maps (A, L).

    Bands are already averaged over degrees; both means commute (MuSc, eq. 6).
    """
    bands = [_band(run_paths, group, layer, shard) for layer in meta.layers]
    patch_maps: FloatArray = np.stack(bands).mean(axis=0, dtype=np.float64).astype(np.float32)
    return patch_maps


def set_maps_of(
    run_paths: RunPaths, images: GroupImages, shard: RingShard, layers: Sequence[int]
) -> dict[int, FloatArray]:
    """Average a shard's bands of every set over layers, as `patch_maps_of` does.

    Returns:
        By number of the set (A, places, h, w): the patch maps of its places, in the order of `PatchSet.places`.
    """
    maps = {}
    for patch_set in images.sets:
        bands = [_band(run_paths, images.group, layer, shard, patch_set.number) for layer in layers]
        mean = np.stack(bands).mean(axis=0, dtype=np.float64).astype(np.float32)
        maps[patch_set.number] = mean.reshape(len(shard.ids), len(patch_set.places), *patch_set.grid)
    return maps


def image_maps(patch_maps: FloatArray, meta: FeaturesMeta) -> ImageMaps:
    """Return what follows from the patch maps (A, L) of images that are not cut; `meta` is that of their shard."""
    maps = patch_maps.reshape(-1, *meta.grid)
    return ImageMaps(maps, image_scores(torch.from_numpy(maps), meta.image_size).numpy(), peaks_of(maps))


def peaks_of(maps: FloatArray) -> npt.NDArray[np.int64]:
    """Find the most anomalous patch of whole images from their maps (A, h, w): see `ImageMaps.peaks`."""
    patches = peak_patches(maps)
    return np.stack([np.zeros_like(patches), patches], axis=1)


def write_patch_maps(run_paths: RunPaths, group: str, shard: RingShard, meta: FeaturesMeta, found: ImageMaps) -> None:
    """Write the maps of a shard's images and their raw scores."""
    uri_of = {image.image_id: image.uri for image in meta.images}
    table = pa.table(
        {
            "image_id": list(shard.ids),
            "uri": [uri_of[image_id] for image_id in shard.ids],
            "score_raw": found.score_raw,
            "patch_map": list_rows(found.maps.reshape(len(found.maps), -1)),
        },
        schema=MAPS,
    )
    write_table(run_paths.fs, run_paths.maps(group, shard.number), table)


def _band(run_paths: RunPaths, group: str, layer: int, shard: RingShard, patch_set: int = 0) -> np.ndarray:
    """Read a band (A, L) float32, of images aside last.

    The newer one if images were scored again without repeated defects (in set 0).
    """
    parts = []
    if shard.aside < len(shard.ids):
        again = run_paths.rescored_band(group, layer, shard.number)
        newer = patch_set == 0 and exists(run_paths.fs, again)
        path = again if newer else run_paths.band(group, layer, shard.number, patch_set)
        parts.append(read_array(run_paths.fs, path))
    if shard.aside:
        path = aside_band_path(run_paths, (group, layer, shard.number, patch_set))
        parts.append(read_array(run_paths.fs, path))
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def list_rows(array: np.ndarray) -> pa.Array:
    """Convert the rows of a (A, L) float32 array to a list<float32> column."""
    offsets = pa.array(np.arange(len(array) + 1, dtype=np.int32) * array.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.array(array.reshape(-1)))
