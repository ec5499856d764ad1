"""The driver of extraction: hands shards of the catalog to extractors, which write their features."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from musc_ray.features.workspace import Workspace
from musc_ray.runtime.cluster import ClusterOptions
from musc_ray.runtime.pool import Pool
from musc_ray.sources.deep import Range
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.shards import ShardImage

CALLS_PER_EXTRACTOR = 2
"""Shards in an extractor: one in the model, another being written or having its first images decoded."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to extract; `intensity` is the range of its group's deep pixels, None where none are expected."""

    group: str
    shard: int
    images: Sequence[CatalogImage]
    intensity: Range | None = None


@dataclass
class ExtractStats:
    """Figures of extraction; seconds are summed over extractors.

    Attributes:
        images: read, those that failed included.
        halved_batches: batches that did not fit in memory.
        lost_workers: extractors that died.
        failed: group and image of each that could not be extracted.
        sizes: number of images that were, by group, height and width.
        remarks: numbers of images by group and remark, see `ShardImage`.
    """

    shards: int = 0
    images: int = 0
    bytes_written: int = 0
    seconds_waiting_for_images: float = 0.0
    seconds_in_model: float = 0.0
    seconds_writing: float = 0.0
    halved_batches: int = 0
    lost_workers: int = 0
    failed: list[tuple[str, ShardImage]] = field(default_factory=list)
    sizes: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    remarks: Counter[tuple[str, str]] = field(default_factory=Counter)

    def add(self, other: "ExtractStats") -> None:
        """Add the figures of one shard."""
        for name, value in vars(other).items():
            if name == "sizes":
                self.sizes.update(value)
            else:
                setattr(self, name, getattr(self, name) + value)


def extract(workspace: Workspace, tasks: Sequence[ShardTask], only_broken: bool = False) -> Iterator[ExtractStats]:
    """Extract shards on a pool of extractors.

    Args:
        workspace: settings, the OUT, and what all shards have in common.
        tasks: the shards.
        only_broken: read each shard first, and extract it only if it is broken.

    Yields:
        Each shard's figures as soon as it is written.

    Raises:
        MuscRayError: see `Pool.run`; or what the first extractor that failed raised.
    """
    if not tasks:
        return
    from musc_ray.features.extractor import Extractor, ExtractorOptions  # imports torch

    def call(actor: Any, task: ShardTask) -> Any:
        return (actor.repair if only_broken else actor.extract).remote(task)

    settings, arithmetic, out_paths = workspace.settings, workspace.arithmetic, workspace.out_paths
    extractor_options = ExtractorOptions.of(settings, arithmetic.model_precision)
    arguments, seen = (extractor_options, out_paths.uri(out_paths.root), workspace.meta), 0
    options = ClusterOptions.of(settings, arithmetic.device)
    with Pool(Extractor, options, len(tasks), *arguments, concurrent_calls=CALLS_PER_EXTRACTOR) as pool:
        for _, stats in pool.map(iter(tasks), call):
            stats.lost_workers, seen = pool.lost - seen, pool.lost
            yield stats
