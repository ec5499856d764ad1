"""Multiply the tiles of a block on a scoring worker."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from musc_ray.core.memory import is_out_of_memory
from musc_ray.core.precision import distance_dtype
from musc_ray.core.tile_product import multiply_tile
from musc_ray.scoring.ring import BlockStats, BlockTask, RingShard
from musc_ray.scoring.shard_cache import LoadedShards, ShardCache, numbers_of

logger = logging.getLogger(__name__)


class BlockMultiplier:
    """Multiplies blocks with the shards of a cache."""

    def __init__(self, cache: ShardCache) -> None:
        self.cache, self.settings = cache, cache.settings

    def multiply(self, task: BlockTask, shards: LoadedShards) -> tuple[dict[int, Tensor], BlockStats]:
        """Compute the distances (D, A, L, B) of each unfinished shard to the shards that it meets in the block.

        When memory runs out the cache shrinks, and the shards are loaded again, tile by tile.
        """
        try:
            return self._multiply_merged(task, shards) if task.merged else self._multiply(task, shards)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        logger.warning("Out of memory: the cache of prepared shards is halved.")
        shards.clear()
        self.cache.shrink()
        distances, stats = self._multiply(task, None)
        return distances, replace(stats, shrunk=True, shards_read=2 * len(task.tiles))

    def distance_dtype(self, group: str, images: int) -> torch.dtype:
        """Choose the dtype of distances in a group of some images."""
        return distance_dtype(self.cache.product_dtype(group, images))

    def _multiply(self, task: BlockTask, shards: LoadedShards | None) -> tuple[dict[int, Tensor], BlockStats]:
        """Multiply a block with prepared shards; None loads them tile by tile."""
        partners, dtype = task.partners, self.distance_dtype(task.group, task.window.images)
        distances = {
            shard.number: self._empty(task, shard, max(s.stop for s in partners[shard.number].values()), dtype)
            for shard in task.shards
            if shard.number in task.unfinished
        }

        def target(shard: RingShard, other: RingShard) -> Tensor:
            """Return where the distances of a shard to another go; those of a finished band are dropped."""
            if shard.number not in distances:
                return self._empty(task, shard, len(other.ids), dtype)
            return distances[shard.number][..., partners[shard.number][other.number]]

        pairs, seconds = 0, 0.0
        for a, b in task.tiles:
            scored = torch.from_numpy(task.window.contains(a.positions, b.positions))
            left = self.cache.load(task, [a]) if shards is None else shards[a.number,].result()
            right = left if a == b else self.cache.load(task, [b]) if shards is None else shards[b.number,].result()
            started = time.perf_counter()
            rows = target(a, b)
            columns = rows if a == b else target(b, a)
            multiply_tile(left, right, dtype, scored, (rows, columns))
            seconds += time.perf_counter() - started
            pairs += int(scored.sum()) // (2 if a == b else 1)
        return distances, BlockStats(pairs=pairs, seconds_in_kernel=seconds)

    def _multiply_merged(self, task: BlockTask, shards: LoadedShards) -> tuple[dict[int, Tensor], BlockStats]:
        """Multiply a block as a single tile; images that do not score each other are at distance inf."""
        left, right = shards[numbers_of(task.rows)].result(), shards[numbers_of(task.columns)].result()
        scored = torch.cat(
            [
                torch.cat([torch.from_numpy(task.window.contains(a.positions, b.positions)) for b in task.columns], 1)
                for a in task.rows
            ]
        )
        started = time.perf_counter()
        rows, columns = multiply_tile(left, right, self.distance_dtype(task.group, task.window.images), scored)
        seconds = time.perf_counter() - started
        distances: dict[int, Tensor] = {}
        for side, others, found in ((task.rows, task.columns, rows), (task.columns, task.rows, columns)):
            first = 0
            for shard in side:
                part = slice(first, first + len(shard.ids))
                if shard.number in task.unfinished and shard.number not in distances:
                    # of merged shards the one that keeps most patches says how many vectors there are
                    whole = found[:, part]
                    by_place = whole.reshape(*whole.shape[:2], len(task.patch_set.places), -1, whole.shape[3])
                    own = by_place[:, :, :, : self._vectors(task, shard)].flatten(2, 3)
                    distances[shard.number] = own[..., _met(task, shard, others)]
                first = part.stop
        pairs = int(scored.sum()) // (2 if rows is columns else 1)
        return distances, BlockStats(pairs=pairs, seconds_in_kernel=seconds)

    def _empty(self, task: BlockTask, shard: RingShard, columns: int, dtype: torch.dtype) -> Tensor:
        patches = len(task.patch_set.places) * self._vectors(task, shard)
        return torch.empty(self.settings.vectors, len(shard.ids), patches, columns, dtype=dtype)

    def _vectors(self, task: BlockTask, shard: RingShard) -> int:
        """Count the vectors of a place of a shard's images: all its patches, or those that are kept."""
        kept = self.cache.kept.of(task.group, {shard.number: shard.ids}, task.patch_set)
        return task.patch_set.grid[0] * task.patch_set.grid[1] if kept is None else kept.most


def _met(task: BlockTask, shard: RingShard, others: Sequence[RingShard]) -> Tensor:
    """Tell which images of some shards are in one that a shard meets, (B,) bool: the others would only take memory."""
    met = [task.window.touches(shard.positions, other.positions) for other in others]
    return torch.tensor(met).repeat_interleave(torch.tensor([len(other.ids) for other in others]))
