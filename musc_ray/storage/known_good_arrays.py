"""Intermediate results of a run with known good images: distances to them, and bands of images that are set aside."""

import numpy as np
import numpy.typing as npt

from musc_ray.storage.arrays import read_array, write_array
from musc_ray.storage.filesystem import read_json, write_json
from musc_ray.storage.listing import exists
from musc_ray.storage.paths import RunPaths, escape_group

FloatArray = npt.NDArray[np.float32]

Scored = tuple[str, int, int, int]
"""Group, layer, shard and number of the set of patches."""


def nearest_good_path(run_paths: RunPaths, scored: Scored) -> str:
    """Return the file of the distances of a shard's patches to the nearest known good image."""
    return f"{run_paths.work}/known_good/{_name(scored)}"


def aside_band_path(run_paths: RunPaths, scored: Scored) -> str:
    """Return the file of the patch scores of those images of a shard that are nobody's reference."""
    return f"{run_paths.work}/aside/{_name(scored)}"


def write_nearest_good(run_paths: RunPaths, scored: Scored, distances: FloatArray) -> None:
    """Write distances (D, A, P * L) of a shard's images, those aside last, to the nearest known good image."""
    write_array(run_paths.fs, nearest_good_path(run_paths, scored), distances)


def read_nearest_good(run_paths: RunPaths, scored: Scored) -> FloatArray:
    """Read what `write_nearest_good` has written."""
    return read_array(run_paths.fs, nearest_good_path(run_paths, scored))


def one_way_folders(run_paths: RunPaths, group: str) -> list[str]:
    """Return the folders of all of a group's files of these."""
    return [f"{run_paths.work}/{kind}/group={escape_group(group)}" for kind in ("known_good", "aside")]


def write_known_count(run_paths: RunPaths, group: str, images: int) -> None:
    """Write how many known good images a group has, before the first distances to them."""
    write_json(run_paths.fs, _count_path(run_paths, group), {"images": images})


def known_count(run_paths: RunPaths, group: str) -> int:
    """Read how many known good images a group has; 0 where none was compared with."""
    return int((read_json(run_paths.fs, _count_path(run_paths, group)) or {"images": 0})["images"])


def is_written(run_paths: RunPaths, path: str) -> bool:
    """Whether a stopped run has written a file of these already."""
    return exists(run_paths.fs, path)


def _name(scored: Scored) -> str:
    group, layer, shard, patch_set = scored
    return f"group={escape_group(group)}/layer-{layer:02d}/set-{patch_set:04d}/shard-{shard:05d}.npy"


def _count_path(run_paths: RunPaths, group: str) -> str:
    return f"{one_way_folders(run_paths, group)[0]}/count.json"
