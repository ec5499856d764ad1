"""Reduce distances to bands on a scoring worker: patch scores of a shard, layer and set, written when complete."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from musc_ray.core.distance_summary import DistanceSummary
from musc_ray.core.nearest_images import NearestImages, distance_of_rank
from musc_ray.core.patch_scores import Part, patch_scores, summarise
from musc_ray.core.references import ReferenceWindow
from musc_ray.core.repeated_defects import KEPT_IMAGES, far_rank
from musc_ray.scoring.ring import BandKey, BlockTask
from musc_ray.settings.model import Settings
from musc_ray.storage.arrays import write_array
from musc_ray.storage.paths import RunPaths

StoredPart = tuple[np.ndarray | DistanceSummary, NearestImages | None]
"""A part of a band in Ray's object store; with the nearest images of its patches if repeated defects are searched."""

LoadedPart = tuple[Part, NearestImages | None]


class BandReducer:
    """Reduces parts of bands, and writes bands."""

    def __init__(self, settings: Settings, run_paths: RunPaths, device: torch.device) -> None:
        self.settings, self.run_paths, self.device = settings, run_paths, device

    def nearest_images(self, task: BlockTask, number: int, distances: Tensor) -> NearestImages | None:
        """Select the nearest images of a shard's patches in a block; None unless repeated defects are searched."""
        if not self.settings.repeated_defects:
            return None
        positions = {shard.number: torch.tensor(shard.positions) for shard in task.shards}
        columns = torch.cat([positions[other] for other in task.partners[number]])  # in the order of their slices
        return NearestImages.of(distances, columns, KEPT_IMAGES)

    def summarise(self, parts: Sequence[StoredPart]) -> StoredPart:
        """Merge parts of a band into one summary."""
        loaded = [_load(part) for part in parts]
        return summarise([part for part, _ in loaded]), _merge(loaded)

    def write_stored(self, band: BandKey, window: ReferenceWindow, parts: Sequence[StoredPart]) -> float:
        """Write a band from parts in the object store; see `write`."""
        return self.write(band, window, [_load(part) for part in parts])

    def write(self, band: BandKey, window: ReferenceWindow, parts: Sequence[LoadedPart]) -> float:
        """Reduce and write a band; its nearest images first, as a band that exists counts as complete.

        Returns:
            The largest possible error of its patch scores.
        """
        fs, distances, nearest = self.run_paths.fs, [part for part, _ in parts], _merge(parts)
        if nearest is not None:
            far = distance_of_rank(distances, far_rank(window.references))
            # without crops: there is set 0 alone
            write_array(fs, self.run_paths.nearest(*band[:3]), nearest.keys.numpy())
            write_array(fs, self.run_paths.far(*band[:3]), far.numpy())
        scores, error = patch_scores(distances, window.references, self.settings.interval, self.device)
        write_array(fs, self.run_paths.band(*band), scores.numpy())
        return error


def _load(stored: StoredPart) -> LoadedPart:
    """Turn a part into tensors; arrays from the object store are read-only, and are only read."""
    part, nearest = stored
    return (part if isinstance(part, DistanceSummary) else torch.from_numpy(part)), nearest


def _merge(parts: Sequence[LoadedPart]) -> NearestImages | None:
    """Merge the nearest images of all parts."""
    merged: NearestImages | None = None
    for _, nearest in parts:
        if nearest is not None:
            merged = nearest if merged is None else merged.merge(nearest)
    return merged
