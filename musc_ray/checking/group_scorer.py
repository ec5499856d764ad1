"""Patch maps of checked images against the references of their group: those of a run that holds the images."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musc_ray.checking.kept_patches import GroupFlags, find_flags
from musc_ray.checking.query import Query
from musc_ray.checking.stored_group import Flags, Shards, StoredGroup
from musc_ray.core.against import nearest_distances, scores_against
from musc_ray.core.known_good import NearestGood
from musc_ray.core.operands.base import PreparedShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.errors import MuscRayError
from musc_ray.features.arithmetic import Arithmetic
from musc_ray.runtime.worker import use_threads
from musc_ray.scoring.crop_maps import maps_of_places
from musc_ray.scoring.kept_grid import on_grid
from musc_ray.scoring.kept_reader import KeptReader
from musc_ray.scoring.patch_maps import ImageMaps, image_maps
from musc_ray.scoring.patch_sets import PatchSet, patch_sets
from musc_ray.scoring.ring import GroupImages
from musc_ray.scoring.shard_cache import ShardCache
from musc_ray.storage.arrays import read_array
from musc_ray.storage.group_shown_maps import usual_path
from musc_ray.storage.listing import exists

FloatArray = npt.NDArray[np.float32]

UNIT_ROWS = 64
"""Images, or places of images, that are prepared together."""

UNITS_AHEAD = 2
"""Units that are read and prepared while another one is multiplied."""

MAX_DISTANCE_BYTES = 2**28
"""Distances that are held at a time: more images are scored in parts."""

Unit = Shards
"""Images that are prepared together, by shard."""


class GroupScorer:
    """Scores images against a stored group.

    Attributes:
        reader: of the group's features.
        images: the group as scoring knows it.
    """

    def __init__(self, group: StoredGroup, arithmetic: Arithmetic, threads: int) -> None:
        settings, meta, run = group.run.settings, group.meta, group.run
        self.group, self.threads = group, threads
        self.cache = ShardCache(settings, arithmetic, KeptReader(settings, group.run_paths), meta, threads)
        self.reader, self.device = self.cache.reader, self.cache.device
        meeting = "all" if settings.crop_meeting == "all" else "same"
        if group.name in run.crop_references:
            meeting = run.crop_references[group.name].meeting
        radius = settings.radius if settings.matching == "near" else None
        if group.name in run.matching:
            radius = run.matching[group.name].radius
        images = GroupImages.of(group.name, group.mutual, meta.grid_of((0,)))
        sets = patch_sets(meta, "all" if meeting == "all" else "same")
        self.images = replace(images, sets=sets, radius=radius, layout=meta.crops)

    def maps(self, query: Query) -> tuple[Query, ImageMaps, dict[str, str]]:
        """Compute the maps of images.

        Returns:
            The images that can be scored, their maps, and why others cannot, by id.

        Raises:
            BrokenShardError, MuscRayError: what the run stored is broken or gone.
        """
        flags = find_flags(self.group, query, self.reader)
        failed = {} if flags is None else dict(flags.failed)
        query = query.select([at for at, image_id in enumerate(query.ids) if image_id not in failed])
        if not query.images:
            return query, ImageMaps(*(np.empty(0, np.float32),) * 2, np.empty((0, 2), np.int64)), failed
        step = self._most_images()
        parts = [range(at, min(at + step, len(query.images))) for at in range(0, len(query.images), step)]
        flat = np.concatenate([self._patch_scores(query.select(part), flags) for part in parts])
        return query, self._combined(flat), failed

    def _most_images(self) -> int:
        """Return how many images are scored at a time."""
        settings, largest = self.group.run.settings, max(each.patches for each in self.images.sets)
        return max(1, MAX_DISTANCE_BYTES // (4 * settings.vectors * largest * (self.group.images + UNIT_ROWS)))

    def _combined(self, flat: FloatArray) -> ImageMaps:
        """Return the maps of images from the patch scores (A, patches of all places)."""
        group, run = self.group, self.group.run
        if self.images.layout is None:
            return image_maps(flat, group.meta)
        if group.name in run.shown_maps and run.shown_maps[group.name].shown == "whole":
            return maps_of_places(flat, self.images, group.meta, None)
        path = usual_path(group.run_paths, group.name)
        if not exists(group.out_paths.fs, path):
            raise MuscRayError(
                f"Run {run.run_id} has not kept what is usual in the crops of group '{group.name}', which calibrates "
                f"their maps: run the same again with --overwrite."
            )
        return maps_of_places(flat, self.images, group.meta, read_array(group.out_paths.fs, path))

    def _patch_scores(self, query: Query, flags: GroupFlags | None) -> FloatArray:
        """Compute patch scores (A, patches of all places), mean over layers; NaN where a patch is not kept."""
        per_image = [self.group.references_of(image_id) for image_id in query.ids]
        counted = {shard: np.stack([found[shard] for found in per_image]) for shard in self.group.mutual}
        known = {
            shard: np.array([[other != own for other in ids] for own in query.ids], np.bool_)
            for shard, ids in self.group.known_good.items()
        }
        layers = [
            np.concatenate(
                [self._band(query, layer, part, flags, (counted, known)) for part in self.images.sets], axis=1
            )
            for layer in self.group.meta.layers
        ]
        mean: FloatArray = np.stack(layers).mean(axis=0, dtype=np.float64).astype(np.float32)
        return mean

    def _band(
        self,
        query: Query,
        layer: int,
        patch_set: PatchSet,
        flags: GroupFlags | None,
        counted: tuple[Mapping[int, Flags], Mapping[int, Flags]],
    ) -> FloatArray:
        """Compute the patch scores (A, places * L) of one layer and set.

        Args:
            query, layer, patch_set, flags: what is scored.
            counted: mutual images that count, by shard (A, B), and known good ones.
        """
        settings, dtype = self.group.run.settings, self.cache.product_dtype(self.group.name, self.group.images + 1)
        kept = None if flags is None else flags.of(query.ids, patch_set, checked=True)
        own = prepare(
            query.tokens(self.reader, self.group, layer, patch_set.places).to(self.device),
            patch_set.grid,
            settings.degrees,
            dtype,
            settings.aggregation,
            self.images.radius_of(patch_set),
            normalised=self.reader.is_compressed(self.group.name),
            places=len(patch_set.places),
            kept=kept,
        )
        units = [
            self._units(shards, of_shards, patch_set)
            for shards, of_shards in zip((self.group.mutual, self.group.known_good), counted, strict=True)
        ]
        prepared = [self._prepared(part, layer, patch_set, dtype, flags) for part in units]
        others = [[_counted(unit, of_shards) for unit in part] for part, of_shards in zip(units, counted, strict=True)]
        good = None
        if units[1]:
            known = sum(map(len, self.group.known_good.values()))
            good = NearestGood(nearest_distances(own, prepared[1], others[1]), known)
        scores = scores_against(own, prepared[0], others[0], settings.interval, good, self.device)
        return np.asarray(on_grid(scores.numpy(), kept, np.nan), np.float32)

    def _units(self, shards: Shards, counted: Mapping[int, Flags], patch_set: PatchSet) -> list[Unit]:
        """Put shards that hold an image that counts together, up to UNIT_ROWS rows."""
        units: list[dict[int, Sequence[str]]] = []
        rows = UNIT_ROWS
        for number, ids in shards.items():
            if not counted[number].any():
                continue
            more = len(ids) * len(patch_set.places)
            if rows + more > UNIT_ROWS:
                units.append({})
                rows = 0
            units[-1][number] = ids
            rows += more
        return list(units)

    def _prepared(
        self, units: Sequence[Unit], layer: int, patch_set: PatchSet, dtype: torch.dtype, flags: GroupFlags | None
    ) -> Iterator[PreparedShard]:
        """Read and prepare units in their order, some ahead of the one that is multiplied."""
        radius = self.images.radius_of(patch_set)

        def load(unit: Unit) -> PreparedShard:
            ids = [image_id for of_shard in unit.values() for image_id in of_shard]
            kept = None if flags is None else flags.of(ids, patch_set)
            return self.cache.prepare((self.group.name, layer), unit, patch_set, dtype, radius, kept)

        with ThreadPoolExecutor(UNITS_AHEAD, initializer=use_threads, initargs=(self.threads,)) as pool:
            ahead: deque[Future[PreparedShard]] = deque()
            for unit in units:
                ahead.append(pool.submit(load, unit))
                if len(ahead) > UNITS_AHEAD:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()


def _counted(unit: Unit, counted: Mapping[int, Flags]) -> Tensor:
    return torch.from_numpy(np.concatenate([counted[number] for number in unit], axis=1))
