"""Bands on storage: one shard's patch scores for one layer, the unit of resume of the mutual stage; other arrays."""

from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import atomic_file
from musc_ray.storage.paths import RunPaths


def finished_bands(run_paths: RunPaths, group: str, layer: int, patch_set: int = 0) -> set[int]:
    """Return the shards whose band of a layer and set of patches is already written."""
    return set(run_paths.out.written_shards(run_paths.bands(group, layer, patch_set)))


def write_array(fs: fsspec.AbstractFileSystem, path: str, array: npt.NDArray[Any]) -> None:
    """Store an array, such as a band's patch scores (A, L), atomically."""
    with atomic_file(fs, path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def read_array(fs: fsspec.AbstractFileSystem, path: str) -> npt.NDArray[Any]:
    """An array that `write_array` stored.

    Raises:
        MuscRayError: the file is broken.
    """
    with fs.open(path, "rb") as file:
        try:
            array: npt.NDArray[Any] = np.load(file, allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise MuscRayError(f"{path} is not a readable array ({error}): delete it and run again.") from error
    return array
