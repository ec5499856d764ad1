"""Bands on storage: one shard's patch scores for one layer, the unit of resume of the mutual stage; other arrays."""

from typing import Any

import numpy as np
import numpy.typing as npt

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import atomic_file
from musc_ray.storage.paths import Layout


def finished_bands(layout: Layout, run_id: str, group: str, layer: int) -> set[int]:
    """Shards whose band of this layer is already written."""
    return set(layout.written_shards(layout.bands(run_id, group, layer)))


def write_array(layout: Layout, path: str, array: npt.NDArray[Any]) -> None:
    """Store an array, such as a band's patch scores (A, L), atomically."""
    with atomic_file(layout.fs, path) as partial, partial.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def read_array(layout: Layout, path: str) -> npt.NDArray[Any]:
    """An array that `write_array` stored.

    Raises:
        MuscRayError: the file is broken.
    """
    with layout.fs.open(path, "rb") as file:
        try:
            array: npt.NDArray[Any] = np.load(file, allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise MuscRayError(f"{path} is not a readable array ({error}): delete it and run again.") from error
    return array
