"""Reduce distances to bands on a scoring worker: patch scores of a shard, layer and set, written when complete."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from musc_ray.core.distance_summary import DistanceSummary
from musc_ray.core.kept_patches import KeptPatches
from musc_ray.core.known_good import NearestGood
from musc_ray.core.nearest_images import ABSENT, NearestImages, distance_of_rank
from musc_ray.core.patch_scores import Part, patch_scores, summarise
from musc_ray.core.references import ReferenceWindow
from musc_ray.core.repeated_defects import KEPT_IMAGES, far_rank
from musc_ray.scoring.kept_grid import off_grid, on_grid
from musc_ray.scoring.kept_reader import KeptReader
from musc_ray.scoring.patch_sets import PatchSet
from musc_ray.scoring.ring import BlockTask, RingShard
from musc_ray.settings.model import Settings
from musc_ray.storage.arrays import write_array
from musc_ray.storage.known_good_arrays import known_count, read_nearest_good
from musc_ray.storage.paths import RunPaths

StoredPart = tuple[np.ndarray | DistanceSummary, NearestImages | None]
"""A part of a band in Ray's object store; with the nearest images of its patches if repeated defects are searched."""

LoadedPart = tuple[Part, NearestImages | None]

BandOf = tuple[str, int, RingShard, PatchSet]
"""Group, layer, shard and set of patches of a band."""


class BandReducer:
    """Reduces parts of bands, and writes bands."""

    def __init__(self, settings: Settings, run_paths: RunPaths, kept: KeptReader, device: torch.device) -> None:
        self.settings, self.run_paths, self.kept, self.device = settings, run_paths, kept, device
        self.known_counts: dict[str, int] = {}

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

    def write_stored(self, band: BandOf, window: ReferenceWindow, parts: Sequence[StoredPart]) -> float:
        """Write a band from parts in the object store; see `write`."""
        return self.write(band, window, [_load(part) for part in parts])

    def write(self, band: BandOf, window: ReferenceWindow, parts: Sequence[LoadedPart]) -> float:
        """Reduce and write a band; its nearest images first, as a band that exists counts as complete.

        Patches that are not kept have NaN for a score and a far distance, and no nearest images.

        Returns:
            The largest possible error of its patch scores.
        """
        group, layer, shard, patch_set = band
        of_shard = group, layer, shard.number
        kept = self.kept.of(group, {shard.number: shard.ids}, patch_set)
        fs, distances, nearest = self.run_paths.fs, [part for part, _ in parts], _merge(parts)
        if nearest is not None:
            far = distance_of_rank(distances, far_rank(window.references))
            # without crops: there is set 0 alone
            write_array(fs, self.run_paths.nearest(*of_shard), on_grid(nearest.keys.numpy(), kept, ABSENT))
            write_array(fs, self.run_paths.far(*of_shard), on_grid(far.numpy(), kept, np.nan))
        good = self._nearest_good(band, kept)
        scores, error = patch_scores(distances, window.references, self.settings.interval, self.device, good)
        write_array(fs, self.run_paths.band(*of_shard, patch_set.number), on_grid(scores.numpy(), kept, np.nan))
        return error

    def _nearest_good(self, band: BandOf, kept: KeptPatches | None) -> NearestGood | None:
        """Return the distances (D, A, P * K) of a band's patches to the nearest known good image, if there is any."""
        group, layer, shard, patch_set = band
        if group not in self.known_counts:
            self.known_counts[group] = known_count(self.run_paths, group)
        if not self.known_counts[group]:
            return None
        nearest = read_nearest_good(self.run_paths, (group, layer, shard.number, patch_set.number))
        return NearestGood(off_grid(nearest[:, : len(shard.ids)], kept), self.known_counts[group])


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
