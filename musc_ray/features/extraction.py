"""The driver of extraction: hands shards of the catalog to extractors, which write their features."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Self

from musc_ray.features.workspace import Workspace
from musc_ray.runtime.executor import Executor, Worker
from musc_ray.runtime.pool import Pool, References
from musc_ray.runtime.worker import Role
from musc_ray.settings.limits import ImageLimits
from musc_ray.settings.model import Settings
from musc_ray.sources.deep import Range
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.shards import ShardImage

EXTRACTOR = Role("musc_ray.features.extractor", "Extractor", calls=2, begins="loading the model")
"""Has two shards: one in the model, another being written or having its first images decoded."""


@dataclass(frozen=True)
class ExtractorOptions:
    """What an extractor needs of the settings."""

    backbone: str
    weights: str | None
    model_precision: str
    batch_size: int
    limits: ImageLimits

    @classmethod
    def of(cls, settings: Settings, model_precision: str) -> Self:
        """Take an extractor's options out of the settings of a run; the precision is given as resolved."""
        return cls(settings.backbone, settings.weights, model_precision, settings.batch_size, settings.image_limits)


@dataclass(frozen=True)
class ShardTask:
    """One shard to extract.

    Attributes:
        intensity: the range of its group's deep pixels; None where none are expected.
        image_size: (H, W) of its group; None for that of all groups.
    """

    group: str
    shard: int
    images: Sequence[CatalogImage]
    intensity: Range | None = None
    image_size: tuple[int, int] | None = None


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


def extract(
    workspace: Workspace, executor: Executor, tasks: Sequence[ShardTask], only_broken: bool = False
) -> Iterator[ExtractStats]:
    """Extract shards on a pool of extractors.

    Args:
        workspace: settings, the OUT, and what all shards have in common.
        executor: runs the tasks.
        tasks: the shards.
        only_broken: read each shard first, and extract it only if it is broken.

    Yields:
        Each shard's figures as soon as it is written.

    Raises:
        MuscRayError: see `Pool.run`; or what the first extractor that failed raised.
    """
    if not tasks:
        return

    def call(worker: Worker, task: ShardTask) -> References:
        return worker.call("repair" if only_broken else "extract", task)

    settings, arithmetic, out_paths = workspace.settings, workspace.arithmetic, workspace.out_paths
    options = ExtractorOptions.of(settings, arithmetic.model_precision)
    arguments, seen = (options, out_paths.uri(out_paths.root), workspace.meta), 0
    with Pool(executor, EXTRACTOR, len(tasks), *arguments) as pool:
        for _, stats in pool.map(iter(tasks), call):
            stats.lost_workers, seen = pool.lost - seen, pool.lost
            yield stats
