"""Prepared shards of a scoring worker: read, prepared and cached up to a limit."""

import gc
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from musc_ray.core.kept_patches import KeptPatches
from musc_ray.core.operands.base import PreparedShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.precision import DTYPES
from musc_ray.features.arithmetic import Arithmetic
from musc_ray.features.layer_reader import LayerReader
from musc_ray.runtime.worker import use_threads
from musc_ray.scoring.kept_reader import KeptReader
from musc_ray.scoring.patch_sets import PatchSet
from musc_ray.scoring.ring import BlockTask, RingShard
from musc_ray.settings.model import Settings
from musc_ray.storage.shards import FeaturesMeta

LOADERS = 2
"""Threads that read and prepare the next shards."""

Numbers = tuple[int, ...]
"""Of shards that are prepared together."""

LoadedShards = dict[Numbers, Future[PreparedShard]]
"""Units of a block, prepared or still loading."""


def numbers_of(unit: Sequence[RingShard]) -> Numbers:
    """Return the numbers of the shards of a unit."""
    return tuple(shard.number for shard in unit)


class ShardCache:
    """Least recently used cache of prepared shards, limited to `cache_mb`, which loads ahead in threads of its own."""

    def __init__(
        self, settings: Settings, arithmetic: Arithmetic, kept: KeptReader, meta: FeaturesMeta, threads: int
    ) -> None:
        self.settings, self.arithmetic, self.meta = settings, arithmetic, meta
        self.kept, self.paths = kept, kept.run_paths.out
        self.device = torch.device(arithmetic.device)
        self.reader = LayerReader(self.paths, meta.features_id, settings, meta.layers)
        self.max_bytes = settings.cache_mb * 2**20
        self._shards: OrderedDict[tuple[str, int, int, Numbers], Future[PreparedShard]] = OrderedDict()
        self._lock = threading.Lock()
        self._loaders = ThreadPoolExecutor(LOADERS, initializer=use_threads, initargs=(threads,))

    def shards_of(self, task: BlockTask) -> tuple[LoadedShards, int]:
        """Start to load a block's units that are not cached; evict others where memory is needed.

        Returns:
            The block's units, and how many shards are loaded for it.
        """
        found, read = {}, 0
        with self._lock:
            for unit in task.units:
                numbers = numbers_of(unit)
                key = (task.group, task.layer, task.patch_set.number, numbers)
                if key not in self._shards:
                    self._shards[key] = self._loaders.submit(self.load, task, unit)
                    read += len(unit)
                self._shards.move_to_end(key)
                found[numbers] = self._shards[key]
            self._evict(task.worth_keeping, found)
        return found, read

    def _evict(self, worth_keeping: int, needed: LoadedShards) -> None:
        """Drop failed shards, which are retried, and the least recently used ones beyond the limits."""
        done = [future for future in self._shards.values() if future.done() and future.exception() is None]
        held = sum(future.result().nbytes for future in done)
        for key, future in list(self._shards.items()):
            if future.done() and future.exception() is not None:
                del self._shards[key]
            elif (
                (held > self.max_bytes or len(self._shards) > worth_keeping)
                and future in done
                and future not in needed.values()
            ):
                held -= self._shards.pop(key).result().nbytes

    def load(self, task: BlockTask, unit: Sequence[RingShard]) -> PreparedShard:
        """Read and prepare a layer of some shards as one, without caching it."""
        dtype = self.product_dtype(task.group, task.window.images)
        ids = {shard.number: shard.ids for shard in unit}
        kept = self.kept.of(task.group, ids, task.patch_set)
        return self.prepare((task.group, task.layer), ids, task.patch_set, dtype, task.radius, kept)

    def product_dtype(self, group: str, images: int) -> torch.dtype:
        """Return the dtype of products in a group of this many images."""
        return DTYPES[self.arithmetic.precision_for(images, self.reader.is_compressed(group))]

    def prepare(
        self,
        layer: tuple[str, int],
        ids: Mapping[int, Sequence[str]],
        patch_set: PatchSet,
        dtype: torch.dtype,
        radius: int | None,
        kept: KeptPatches | None = None,
    ) -> PreparedShard:
        """Read and prepare some images of a group, as one shard.

        Args:
            layer: group and layer.
            ids: of the images by number of their shard.
            patch_set: what of each is prepared.
            dtype: of products, see `product_dtype`.
            radius: how far from its place a patch looks for its nearest; None means anywhere.
            kept: patches of each image and place; None means all, as samples look at them.
        """
        group, number = layer
        parts = [
            self.reader.read(
                group, self.paths.shard(self.meta.features_id, group, shard), number, of_shard, patch_set.places
            )
            for shard, of_shard in ids.items()
        ]
        tokens = parts[0] if len(parts) == 1 else torch.cat(parts)
        return prepare(
            tokens.to(self.device),
            patch_set.grid,
            self.settings.degrees,
            dtype,
            self.settings.aggregation,
            radius,
            normalised=self.reader.is_compressed(group),
            places=len(patch_set.places),
            kept=kept,
        )

    def shrink(self) -> None:
        """Drop all shards and halve the limit, after memory ran out."""
        with self._lock:
            self._shards.clear()
            self.max_bytes //= 2
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
