"""Bands on storage: one shard's patch scores for one layer, the unit of resume of the mutual stage."""

import numpy as np
import numpy.typing as npt

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import atomic_file
from musc_ray.storage.layout import Layout

FloatArray = npt.NDArray[np.float32]


def finished_bands(layout: Layout, run_id: str, group: str, layer: int) -> set[int]:
    """Shards whose band of this layer is already written."""
    return set(layout.written_shards(layout.bands(run_id, group, layer)))


def write_band(layout: Layout, path: str, scores: FloatArray) -> None:
    """Store a band's patch scores (A, L) atomically."""
    with atomic_file(layout.fs, path) as partial, partial.open("wb") as file:
        np.save(file, scores, allow_pickle=False)


def read_band(layout: Layout, path: str) -> FloatArray:
    """Patch scores (A, L) float32 of a band.

    Raises:
        MuscRayError: the file is broken.
    """
    with layout.fs.open(path, "rb") as file:
        try:
            scores: FloatArray = np.load(file, allow_pickle=False)
        except (EOFError, ValueError) as error:
            raise MuscRayError(f"{path} is not a readable band ({error}): delete it and run again.") from error
    return scores
