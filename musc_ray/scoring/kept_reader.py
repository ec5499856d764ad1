"""Read on a scoring worker which patches are kept."""

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np

from musc_ray.core.kept_patches import Flags, KeptPatches
from musc_ray.errors import MuscRayError
from musc_ray.scoring.patch_sets import PatchSet
from musc_ray.settings.model import Settings
from musc_ray.storage.kept_table import KeptFlags, kept_path, read_kept, used_path
from musc_ray.storage.paths import RunPaths

MAX_TABLES = 64
"""Tables of shards that are held."""


class KeptReader:
    """Reads which patches are kept; all of them where settings ask for nothing else."""

    def __init__(self, settings: Settings, run_paths: RunPaths) -> None:
        self.run_paths, self.asked = run_paths, settings.ignore is not None or settings.foreground != "none"
        self._table = lru_cache(MAX_TABLES)(self._read)

    def of(self, group: str, ids: Mapping[int, Sequence[str]], patch_set: PatchSet) -> KeptPatches | None:
        """Return the kept patches of some images, a row for each of their places; None where all are kept.

        Args:
            group: its name.
            ids: of the images by number of their shard.
            patch_set: what of each.
        """
        used = self._table(used_path(self.run_paths, group)) if self.asked else None
        if used is None:
            return None
        rows = [flags_of_set(self._shard(group, shard)[each], patch_set) for shard in ids for each in ids[shard]]
        return KeptPatches.of(np.concatenate(rows), np.asarray(flags_of_set(used[""], patch_set).any(axis=0)))

    def _shard(self, group: str, shard: int) -> dict[str, KeptFlags]:
        path = kept_path(self.run_paths, group, shard)
        table = self._table(path)
        if table is None:
            raise MuscRayError(f"{path} is missing: run again.")
        return table

    def _read(self, path: str) -> dict[str, KeptFlags] | None:
        return read_kept(self.run_paths.fs, path)


def flags_of_set(flags: KeptFlags, patch_set: PatchSet) -> Flags:
    """Return the flags (places, L) of a set."""
    length = patch_set.grid[0] * patch_set.grid[1]
    if patch_set.places == (0,):
        return flags[0].reshape(1, length)
    return flags[1].reshape(-1, length)[[place - 1 for place in patch_set.places]]
