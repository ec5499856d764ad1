"""The scoring actor: does the work of stages 3 to 5 on shards, keeping prepared ones at hand."""

from collections import OrderedDict
from datetime import datetime

import numpy as np
import torch

from musc_ray.config import Settings
from musc_ray.core.mutual import tile_minima
from musc_ray.core.precision import resolve_precision
from musc_ray.core.prepared import PreparedShard, prepare
from musc_ray.stages.cluster import ActorPlan, use_threads
from musc_ray.stages.mutual import GroupImages, TileTask, reduce_band, write_band
from musc_ray.stages.publish import publish_group
from musc_ray.stages.reduce import combine_shard
from musc_ray.storage.features import FeaturesMeta, read_layer
from musc_ray.storage.layout import Layout


class Scorer:
    """An actor: multiplies tiles, reduces bands, combines layers, publishes groups."""

    def __init__(self, settings: Settings, out: str, run_id: str, meta: FeaturesMeta, plan: ActorPlan) -> None:
        use_threads(plan.threads)
        self.settings, self.run_id, self.meta = settings, run_id, meta
        self.layout = Layout.at(out)
        self.device = torch.device(plan.device)
        self.cached: tuple[str, int] | None = None
        self.cache: OrderedDict[int, PreparedShard] = OrderedDict()

    def tile(self, task: TileTask) -> tuple[np.ndarray, np.ndarray]:
        """Minima of a tile in both directions: (D, A, L, B) for shard a and (D, B, L, A) for shard b."""
        a = self._prepared(task.images, task.layer, task.a)
        b = self._prepared(task.images, task.layer, task.b)
        rows, columns = tile_minima(a, b, torch.float32 if a.dtype == torch.float32 else torch.float16)
        return rows.numpy(), columns.numpy()

    def band(self, images: GroupImages, layer: int, shard: int, *parts: np.ndarray) -> None:
        """Reduce and write one shard's patch scores for one layer."""
        scores = reduce_band(parts, images.images - 1, self.settings.interval)
        write_band(self.layout, self.layout.band(self.run_id, images.group, layer, shard), scores)

    def combine(self, images: GroupImages, shard: int) -> None:
        """Mean over layers, patch maps and raw scores of one shard."""
        combine_shard(self.layout, self.run_id, images, shard, self.meta)

    def publish(self, images: GroupImages, scored_at: datetime) -> None:
        """RsCIN over a group, and its part of the scores table."""
        publish_group(self.layout, self.run_id, images, self.meta, self.settings.k_list, scored_at)

    def _prepared(self, images: GroupImages, layer: int, shard: int) -> PreparedShard:
        """A shard's layer ready to multiply, from the cache of the most recently used ones of this layer."""
        if self.cached != (images.group, layer):
            self.cache.clear()
            self.cached = (images.group, layer)
        if shard not in self.cache:
            path = self.layout.shard(self.meta.features_id, images.group, shard)
            tokens = torch.from_numpy(read_layer(self.layout.fs, path, layer, images.shards[shard]))
            dtype = resolve_precision(self.settings.precision, self.device, images.images)
            self.cache[shard] = prepare(tokens.to(self.device), self.meta.grid, self.settings.degrees, dtype)
            limit = self.settings.cache_mb * 2**20
            while len(self.cache) > 2 and sum(prepared.nbytes for prepared in self.cache.values()) > limit:
                self.cache.popitem(last=False)
        self.cache.move_to_end(shard)
        return self.cache[shard]
