"""Compare images with known good ones, and score images that are set aside, on a scoring worker.

Both go one way: references meet images, but are not scored by them.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from musc_ray.core.against import nearest_distances, scores_against
from musc_ray.core.known_good import NearestGood
from musc_ray.core.operands.base import PreparedShard
from musc_ray.scoring.kept_grid import off_grid, on_grid
from musc_ray.scoring.patch_sets import PatchSet
from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.scoring.shard_cache import ShardCache
from musc_ray.storage.arrays import write_array
from musc_ray.storage.known_good_arrays import (
    aside_band_path,
    is_written,
    nearest_good_path,
    read_nearest_good,
    write_nearest_good,
)
from musc_ray.storage.paths import RunPaths

HELD_SHARE = 2
"""Prepared references may take 1 / HELD_SHARE of `cache_mb`."""


class KnownGoodWorker:
    """Reads and compares one shard, layer and set of patches at a time."""

    def __init__(self, cache: ShardCache, run_paths: RunPaths) -> None:
        self.cache, self.run_paths = cache, run_paths
        self._held: OrderedDict[tuple[object, ...], PreparedShard] = OrderedDict()

    def write_nearest(self, images: GroupImages, layer: int, patch_set: PatchSet, number: int) -> None:
        """Write the distances of a shard's scored images, those aside last, to the nearest known good image."""
        scored = images.group, layer, number, patch_set.number
        if is_written(self.run_paths, nearest_good_path(self.run_paths, scored)):
            return
        ids = images.all_scored().shards[number].ids
        query = self._prepare(images, layer, patch_set, number, ids)
        references = self._references(images, layer, patch_set, images.known_good)
        others = [_others(ids, shard.ids) for shard in images.known_good]
        distances = nearest_distances(query, references, others)
        kept = self.cache.kept.of(images.group, {number: ids}, patch_set)
        whole = np.stack([on_grid(of_degree, kept, np.nan) for of_degree in distances.numpy()])
        write_nearest_good(self.run_paths, scored, whole)

    def write_aside(self, images: GroupImages, layer: int, patch_set: PatchSet, number: int) -> None:
        """Write the patch scores of those of a shard's images that are set aside: against all images on the ring.

        With `references: M` against M of them, the same for all images aside.
        """
        scored = images.group, layer, number, patch_set.number
        path = aside_band_path(self.run_paths, scored)
        if is_written(self.run_paths, path):
            return
        (shard,) = (shard for shard in images.aside if shard.number == number)
        query = self._prepare(images, layer, patch_set, number, shard.ids)
        good, kept = None, self.cache.kept.of(images.group, {number: shard.ids}, patch_set)
        if images.known_good:
            nearest = read_nearest_good(self.run_paths, scored)[:, -len(shard.ids) :]
            good = NearestGood(off_grid(nearest, kept), images.known)
        shards = reference_shards(images, self.cache.settings.seed)
        references = self._references(images, layer, patch_set, shards)
        interval, device = self.cache.settings.interval, self.cache.device
        scores = scores_against(query, references, [None] * len(shards), interval, good, device)
        write_array(self.run_paths.fs, path, on_grid(scores.numpy(), kept, np.nan))

    def _references(
        self, images: GroupImages, layer: int, patch_set: PatchSet, shards: Sequence[RingShard]
    ) -> Iterator[PreparedShard]:
        """Yield references, prepared; they are held for the next shard as far as they fit."""
        for shard in shards:
            key = images.group, layer, patch_set.number, shard.number, tuple(shard.ids)
            found = self._held.get(key)
            if found is None:
                found = self._prepare(images, layer, patch_set, shard.number, shard.ids)
                self._held[key] = found
            self._held.move_to_end(key)
            while len(self._held) > 1 and sum(each.nbytes for each in self._held.values()) > self._most_bytes:
                self._held.popitem(last=False)
            yield found

    @property
    def _most_bytes(self) -> int:
        return self.cache.max_bytes // HELD_SHARE

    def _prepare(
        self, images: GroupImages, layer: int, patch_set: PatchSet, number: int, ids: Sequence[str]
    ) -> PreparedShard:
        of_shard = {number: ids}
        return self.cache.prepare(
            (images.group, layer),
            of_shard,
            patch_set,
            self.cache.product_dtype(images.group, images.images),
            images.radius_of(patch_set),
            self.cache.kept.of(images.group, of_shard, patch_set),
        )


def _others(ids: Sequence[str], references: Sequence[str]) -> Tensor | None:
    """Tell which references (A, B) are other images; None where all are: known good images may be scored, too."""
    if not set(ids) & set(references):
        return None
    return torch.from_numpy(np.array(ids)[:, None] != np.array(references))


def reference_shards(images: GroupImages, seed: int) -> list[RingShard]:
    """Return the shards of the images that those aside are scored against: all, or M in a seeded order of their ids."""
    if images.window.is_all:
        return list(images.ring)
    ids = sorted((i for shard in images.ring for i in shard.ids), key=lambda image_id: _seeded(seed, image_id))
    chosen = set(ids[: images.window.references])
    shards = ((shard, tuple(i for i in shard.ids if i in chosen)) for shard in images.ring)
    return [RingShard(shard.number, 0, ids_of) for shard, ids_of in shards if ids_of]


def _seeded(seed: int, image_id: str) -> str:
    return hashlib.sha256(f"{seed}-{image_id}".encode()).hexdigest()
