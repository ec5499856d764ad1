"""From the bands of whole images and crops to one patch map an image, on a scoring worker; `driver` orders the steps.

The maps of all places are averaged over layers shard by shard (`write_set_maps`); a sample of them says what is usual
of each patch (`write_usual`) and what the group's maps show (`choose_shown_maps`); then each shard's maps are stitched.
"""

import hashlib
from dataclasses import asdict

import numpy as np
import numpy.typing as npt
import torch

from musc_ray.core.crop_calibration import SAMPLE_IMAGES, Shown, calibrated, choose_shown, usual_scores
from musc_ray.core.pixel_map import image_scores
from musc_ray.core.stitching import crop_patches, resample, stitch
from musc_ray.scoring.patch_maps import ImageMaps, peaks_of, set_maps_of
from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.storage.arrays import read_array, write_array
from musc_ray.storage.group_shown_maps import GroupShownMaps, usual_path
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.shards import FeaturesMeta

FloatArray = npt.NDArray[np.float32]


def write_set_maps(run_paths: RunPaths, images: GroupImages, shard: RingShard, layers: tuple[int, ...]) -> None:
    """Average a shard's bands over layers; write the maps of all places side by side: (A, patches of all)."""
    maps = set_maps_of(run_paths, images, shard, layers)
    flat = [maps[patch_set.number].reshape(len(shard.ids), -1) for patch_set in images.sets]
    write_array(run_paths.fs, run_paths.set_maps(images.group, shard.number), np.concatenate(flat, axis=1))


def write_usual(run_paths: RunPaths, images: GroupImages) -> None:
    """Find by a sample what is usual of each patch of a group's crops, and write it: `check` needs it after the run."""
    _, crops = _sample(run_paths, images)
    write_array(run_paths.fs, usual_path(run_paths, images.group), usual_scores(crops.reshape(len(crops), -1)))


def choose_shown_maps(run_paths: RunPaths, images: GroupImages) -> GroupShownMaps:
    """Choose by a sample what the maps of a group show."""
    whole, crops = _sample(run_paths, images)
    choice = choose_shown(whole.reshape(len(whole), -1), crops, images.cut)
    return GroupShownMaps(images=len(whole), **asdict(choice))


def image_maps(
    run_paths: RunPaths, images: GroupImages, shard: RingShard, meta: FeaturesMeta, shown: Shown
) -> ImageMaps:
    """Make one map of each of a shard's images from those of its places.

    Maps of whole images are those of a run without crops, and so are their scores; only the points of the maps lie as
    those of stitched ones.

    Args:
        run_paths: of the run, with what the steps before have written.
        images: the group.
        shard: of it.
        meta: of the shard's features.
        shown: see `choose_shown_maps`.
    """
    flat = read_array(run_paths.fs, run_paths.set_maps(images.group, shard.number))
    usual = None if shown == "whole" else read_array(run_paths.fs, usual_path(run_paths, images.group))
    return maps_of_places(flat, images, meta, usual)


def maps_of_places(flat: FloatArray, images: GroupImages, meta: FeaturesMeta, usual: FloatArray | None) -> ImageMaps:
    """Make one map of each of some images from those of its places, as `image_maps` does.

    Args:
        flat: (A, patches of all places), as `write_set_maps` writes them.
        images: the group.
        meta: of the images' features.
        usual: what is usual of each patch of crops; None to show the maps of whole images.
    """
    whole, crops = _places(flat, images)
    if usual is None:
        scores = image_scores(torch.from_numpy(whole), meta.shape.whole).numpy()
        return ImageMaps(resample(whole, images.map_grid), scores, peaks_of(whole))
    maps = stitch(calibrated(crops.reshape(len(crops), -1), usual).reshape(crops.shape), images.cut)
    patch = meta.image_size[0] // meta.grid[0]
    size = images.map_grid[0] * patch, images.map_grid[1] * patch
    scores = image_scores(torch.from_numpy(maps), size).numpy()
    return ImageMaps(maps, scores, crop_patches(maps, images.cut, images.sets[1].grid))


def _places(flat: FloatArray, images: GroupImages) -> tuple[FloatArray, FloatArray]:
    """Split what `write_set_maps` wrote into maps of whole images (A, h, w) and of crops (A, P, h', w')."""
    whole, crops = images.sets[0], images.sets[1]
    return (
        flat[:, : whole.patches].reshape(-1, *whole.grid),
        flat[:, whole.patches :].reshape(len(flat), images.cut.count, *crops.grid),
    )


def _sample(run_paths: RunPaths, images: GroupImages) -> tuple[FloatArray, FloatArray]:
    """Read the maps of up to SAMPLE_IMAGES images, those with the lowest hashes: whichever shards they lie in."""
    chosen = set(sorted((i for shard in images.ring for i in shard.ids), key=_hashed)[:SAMPLE_IMAGES])
    parts = []
    for shard in images.ring:
        rows = [row for row, image_id in enumerate(shard.ids) if image_id in chosen]
        if rows:
            parts.append(read_array(run_paths.fs, run_paths.set_maps(images.group, shard.number))[rows])
    return _places(np.concatenate(parts), images)


def _hashed(image_id: str) -> str:
    return hashlib.sha256(image_id.encode()).hexdigest()
