"""The scoring actor: does the work of stages 3 to 5 on shards, keeping prepared ones at hand."""

import gc
import logging
import threading
import time
import warnings
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musc_ray.core.distance_summary import DistanceSummary
from musc_ray.core.memory import is_out_of_memory
from musc_ray.core.nearest_images import NearestImages, distance_of_rank
from musc_ray.core.operands.base import PreparedShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.patch_scores import Part, patch_scores, summarise
from musc_ray.core.precision import distance_dtype, resolve_precision
from musc_ray.core.references import ReferenceWindow
from musc_ray.core.repeated_defects import KEPT_IMAGES, far_rank
from musc_ray.core.tiles import multiply_tile
from musc_ray.runtime.cluster import ActorPlan, take_share, use_threads
from musc_ray.scoring.defects.driver import ShardStep
from musc_ray.scoring.defects.work import RepeatsWork
from musc_ray.scoring.ranker import Columns, GroupFigures, Neighbours, find_neighbours, rank_group, write_part
from musc_ray.scoring.reduction import combine_shard
from musc_ray.scoring.ring import BlockTask, GroupImages, RingShard
from musc_ray.scoring.thresholds import ThresholdRule
from musc_ray.settings.model import Settings
from musc_ray.storage.arrays import write_array
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shards import FeaturesMeta, read_layer

LOADERS = 2
"""Threads that read and prepare the shards that come next."""

StoredPart = np.ndarray | DistanceSummary
"""A part of a band as it lies in Ray's object store."""

TracedPart = tuple[StoredPart, NearestImages | None]
"""With the nearest images of its patches, where repeated defects are looked for."""

LoadedPart = tuple[Part, NearestImages | None]

warnings.filterwarnings("ignore", message="The given NumPy array is not writable")  # the object store's are only read

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BlockStats:
    """What a block did.

    Attributes:
        pairs: image pairs that score each other, each counted once.
        seconds_in_kernel: time that multiplying took.
        shards_read: how many were not at hand.
        shrunk: whether memory ran out and the block was done again with fewer shards at hand.
        error: largest possible error of the bands reduced on the spot.
    """

    pairs: int = 0
    seconds_in_kernel: float = 0.0
    shards_read: int = 0
    shrunk: bool = False
    error: float = 0.0


class Scorer:
    """An actor: multiplies blocks of tiles, reduces bands, combines layers."""

    def __init__(self, settings: Settings, out: str, run_id: str, meta: FeaturesMeta, plan: ActorPlan) -> None:
        take_share(plan)
        self.settings, self.meta, self.plan = settings, meta, plan
        self.run_paths = OutPaths.at(out).run(run_id)
        self.device = torch.device(plan.device)
        self.cache_bytes = settings.cache_mb * 2**20
        self.cache: OrderedDict[tuple[str, int, int], Future[PreparedShard]] = OrderedDict()
        self.cache_lock, self.kernel_turn = threading.Lock(), threading.Lock()
        self.loaders = ThreadPoolExecutor(LOADERS, initializer=use_threads, initargs=(plan.threads,))

    def block(self, task: BlockTask) -> BlockStats | list[BlockStats | TracedPart]:
        """Multiply the tiles of a block; writes its whole bands.

        Returns:
            Stats, and for each shard of `task.returned`, if any, its minima (D, A, L, B) against others of the block,
            and whom it is nearest to, where that is wanted.
        """
        shards, read = self._at_hand(task)  # loaded while the block before is in the kernel
        with self.kernel_turn:
            use_threads(self.plan.threads)  # PyTorch keeps the number per calling thread
            try:
                parts, stats = self._multiply(task, shards)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                logger.warning("Out of memory: from now on half as many shards are kept at hand.")
                del shards
                self._shrink()
                parts, stats = self._multiply(task, None)
                stats, read = replace(stats, shrunk=True), read + 2 * len(task.tiles)
            traced = {number: (minima, self._nearest(task, number, minima)) for number, minima in parts.items()}
            errors = [
                self._reduce(task.group, task.layer, number, task.window, [traced.pop(number)])
                for number in sorted(task.whole)
            ]
        stats = replace(stats, shards_read=read, error=max(errors, default=0.0))
        returned = [(traced[number][0].numpy(), traced[number][1]) for number in task.returned]
        return [stats, *returned] if returned else stats

    def condense(self, *parts: TracedPart) -> tuple[None, TracedPart]:
        """Parts of a band as one summary, behind a reference that tells when it is there."""
        with self.kernel_turn:
            loaded = [_loaded(part) for part in parts]
            return None, (summarise([part for part, _ in loaded]), _merged(loaded))

    def band(self, group: str, layer: int, shard: int, window: ReferenceWindow, *parts: TracedPart) -> float:
        """Reduce and write a band from its parts; returns its largest possible error."""
        with self.kernel_turn:
            return self._reduce(group, layer, shard, window, [_loaded(part) for part in parts])

    def neighbours(self, images: GroupImages, part: range) -> tuple[None, Neighbours]:
        """The most similar images of a part of a group."""
        return None, find_neighbours(self.run_paths.out, self.meta, images, part, max(self.settings.k_list))

    def rank(self, images: GroupImages, *neighbours: Neighbours) -> tuple[GroupFigures | Columns, ...]:
        """Figures of a group, then scores, ranks and percentiles, a return value a part."""
        rule = ThresholdRule.of(self.settings)
        figures, parts = rank_group(self.run_paths, images, neighbours, self.settings.k_list, rule)
        return figures, *parts

    def publish(
        self, images: GroupImages, part: range, scored_at: datetime, columns: Columns, neighbours: Neighbours
    ) -> None:
        """Write a part of a group's scores and neighbours."""
        repeats = self._repeats(images) if self.settings.repeated_defects else None
        write_part(self.run_paths, images, part, self.meta.grid, scored_at, columns, neighbours, repeats)

    def repeats(self, step: ShardStep) -> Any:
        """A step of the search for repeated defects on one shard; see RepeatsWork."""
        work = self._repeats(step.images)
        layers = self.meta.layers
        with self.kernel_turn:
            use_threads(self.plan.threads)
            match step.method:
                case "far_histograms":
                    return work.far_histograms(step.shard, layers)
                case "link":
                    return work.link(step.shard, layers, *step.arguments)
                case "group":
                    return work.group(*step.arguments)
                case "mark":
                    return work.mark(step.shard)
                case _:
                    return self._rescore(work, step)

    def combine(self, group: str, shard: RingShard) -> None:
        """Mean over layers, patch maps and raw scores of one shard."""
        combine_shard(self.run_paths, group, shard, self.meta)

    def _multiply(
        self, task: BlockTask, shards: dict[int, Future[PreparedShard]] | None
    ) -> tuple[dict[int, Tensor], BlockStats]:
        """Minima (D, A, L, B) of each unfinished shard against the shards that it meets in the block.

        Args:
            task: the block.
            shards: its prepared shards; None loads them tile by tile.
        """
        partners = task.partners
        dtype = self._dtype(task)
        minima = {
            shard.number: self._empty(shard, max(s.stop for s in partners[shard.number].values()), dtype)
            for shard in task.shards
            if shard.number in task.unfinished
        }
        pairs, seconds = 0, 0.0
        for a, b in task.tiles:
            scored = torch.from_numpy(task.window.contains(a.positions, b.positions))
            left = self._load(task, a) if shards is None else shards[a.number].result()
            right = left if a == b else self._load(task, b) if shards is None else shards[b.number].result()
            started = time.perf_counter()
            rows = self._target(minima, partners, a, b, dtype)
            columns = rows if a == b else self._target(minima, partners, b, a, dtype)
            multiply_tile(left, right, dtype, scored, (rows, columns))
            seconds += time.perf_counter() - started
            pairs += int(scored.sum()) // (2 if a == b else 1)
        return minima, BlockStats(pairs=pairs, seconds_in_kernel=seconds)

    def _repeats(self, images: GroupImages) -> RepeatsWork:
        return RepeatsWork(self.run_paths, images, self.meta.grid)

    def _rescore(self, work: RepeatsWork, step: ShardStep) -> int:
        """Score a shard's images with a repeated defect again, for one layer."""
        layer, group, window = step.arguments[0], step.images.group, step.images.window

        def load(shard: RingShard, ids: Sequence[str]) -> PreparedShard:
            return self._prepared(group, layer, shard.number, ids, window.images)

        dtype = distance_dtype(resolve_precision(self.settings.precision, self.device, window.images))
        return work.rescore(step.shard, layer, load, dtype, self.settings.interval, self.device)

    def _target(
        self,
        minima: dict[int, Tensor],
        partners: dict[int, dict[int, slice]],
        shard: RingShard,
        other: RingShard,
        dtype: torch.dtype,
    ) -> Tensor:
        """Where the minima of a shard against another one go; a finished band's go nowhere."""
        if shard.number not in minima:
            return self._empty(shard, len(other.ids), dtype)
        return minima[shard.number][..., partners[shard.number][other.number]]

    def _empty(self, shard: RingShard, columns: int, dtype: torch.dtype) -> Tensor:
        length = self.meta.grid[0] * self.meta.grid[1]
        return torch.empty(self.settings.vectors, len(shard.ids), length, columns, dtype=dtype)

    def _dtype(self, task: BlockTask) -> torch.dtype:
        """What minima are kept in."""
        return distance_dtype(resolve_precision(self.settings.precision, self.device, task.window.images))

    def _nearest(self, task: BlockTask, number: int, minima: Tensor) -> NearestImages | None:
        """Whom the patches of a shard are nearest to in a block, where repeated defects are looked for."""
        if not self.settings.repeated_defects:
            return None
        positions = {shard.number: torch.tensor(shard.positions) for shard in task.shards}
        columns = torch.cat([positions[other] for other in task.partners[number]])  # in the order of their slices
        return NearestImages.of(minima, columns, KEPT_IMAGES)

    def _reduce(self, group: str, layer: int, shard: int, window: ReferenceWindow, traced: list[LoadedPart]) -> float:
        """Write a band, and before it, since a band that is there is complete, whom its patches are nearest to."""
        parts, nearest = [part for part, _ in traced], _merged(traced)
        if nearest is not None:
            keys, far = (of(group, layer, shard) for of in (self.run_paths.nearest, self.run_paths.far))
            write_array(self.run_paths.fs, keys, nearest.keys.numpy())
            write_array(self.run_paths.fs, far, distance_of_rank(parts, far_rank(window.references)).numpy())
        scores, error = patch_scores(parts, window.references, self.settings.interval, self.device)
        write_array(self.run_paths.fs, self.run_paths.band(group, layer, shard), scores.numpy())
        return error

    def _at_hand(self, task: BlockTask) -> tuple[dict[int, Future[PreparedShard]], int]:
        """The prepared shards of a block, and how many of them are on their way; the least recently used make room."""
        found, read = {}, 0
        with self.cache_lock:
            for shard in task.shards:
                key = (task.group, task.layer, shard.number)
                if key not in self.cache:
                    self.cache[key] = self.loaders.submit(self._load, task, shard)
                    read += 1
                self.cache.move_to_end(key)
                found[shard.number] = self.cache[key]
            done = [future for future in self.cache.values() if future.done() and future.exception() is None]
            held = sum(future.result().nbytes for future in done)
            for key, future in list(self.cache.items()):
                if future.done() and future.exception() is not None:
                    del self.cache[key]  # to be tried again
                elif (
                    (held > self.cache_bytes or len(self.cache) > task.worth_keeping)
                    and future in done
                    and future not in found.values()
                ):
                    held -= self.cache.pop(key).result().nbytes
        return found, read

    def _load(self, task: BlockTask, shard: RingShard) -> PreparedShard:
        """Read and prepare a shard's layer."""
        return self._prepared(task.group, task.layer, shard.number, shard.ids, task.window.images)

    def _prepared(self, group: str, layer: int, number: int, ids: Sequence[str], images: int) -> PreparedShard:
        """Some images of a shard; `images` are those of the group, on which the precision depends."""
        path = self.run_paths.out.shard(self.meta.features_id, group, number)
        tokens = torch.from_numpy(read_layer(self.run_paths.fs, path, layer, ids))
        settings = self.settings
        dtype = resolve_precision(settings.precision, self.device, images)
        return prepare(tokens.to(self.device), self.meta.grid, settings.degrees, dtype, settings.aggregation)

    def _shrink(self) -> None:
        """Keep less from now on."""
        with self.cache_lock:
            self.cache.clear()
            self.cache_bytes //= 2
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _loaded(traced: TracedPart) -> LoadedPart:
    """A part as tensors; arrays from the object store are read-only, and are only read."""
    part, nearest = traced
    return (part if isinstance(part, DistanceSummary) else torch.from_numpy(part)), nearest


def _merged(parts: Sequence[LoadedPart]) -> NearestImages | None:
    """The nearest images of all parts."""
    merged: NearestImages | None = None
    for _, nearest in parts:
        if nearest is not None:
            merged = nearest if merged is None else merged.merge(nearest)
    return merged
