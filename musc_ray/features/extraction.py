"""The driver of extraction: hands shards of the catalog to extractors, which write their features."""

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from musc_ray.core.crops import InputShape
from musc_ray.features.outside import Outside
from musc_ray.features.workspace import Workspace
from musc_ray.runtime.executor import Executor, Worker
from musc_ray.runtime.pool import Pool, References
from musc_ray.runtime.worker import Role
from musc_ray.settings.limits import ImageLimits
from musc_ray.settings.model import Settings
from musc_ray.sources.deep import Range
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.bases import Compression
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
    compressed_dtype: str = "int8"

    @classmethod
    def of(cls, settings: Settings, model_precision: str) -> Self:
        """Take an extractor's options out of the settings of a run; the precision is given as resolved."""
        return cls(
            settings.backbone,
            settings.weights,
            model_precision,
            settings.batch_size,
            settings.image_limits,
            settings.stored_dtype(compressed=True),
        )


@dataclass(frozen=True)
class ShardTask:
    """One shard to extract.

    Attributes:
        intensity: the range of its group's deep pixels; None where none are expected.
        shape: what of its group's images enters the model; None for that of all groups.
        compression: what was decided of its group; None for features that are not compressed.
    """

    group: str
    shard: int
    images: Sequence[CatalogImage]
    intensity: Range | None = None
    shape: InputShape | None = None
    compression: Compression | None = None


@dataclass(frozen=True)
class FitTask:
    """A group whose basis is to be found.

    Attributes:
        images: in the order of their ids, which are hashes: the first readable ones are the sample.
        channels: directions to keep; None for as many as `auto` needs.
        intensity, shape: as of a `ShardTask`.
    """

    group: str
    images: Sequence[CatalogImage]
    channels: int | None = None
    intensity: Range | None = None
    shape: InputShape | None = None


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
        outside: energy outside the basis, by group.
        fitted: what was decided of groups; None where no image of a sample could be read.
    """

    shards: int = 0
    images: int = 0
    bytes_written: int = 0
    seconds_waiting_for_images: float = 0.0
    seconds_in_model: float = 0.0
    seconds_writing: float = 0.0
    seconds_fitting: float = 0.0
    halved_batches: int = 0
    lost_workers: int = 0
    failed: list[tuple[str, ShardImage]] = field(default_factory=list)
    sizes: Counter[tuple[str, int, int]] = field(default_factory=Counter)
    remarks: Counter[tuple[str, str]] = field(default_factory=Counter)
    outside: dict[str, Outside] = field(default_factory=dict)
    fitted: dict[str, Compression | None] = field(default_factory=dict)

    def add(self, other: "ExtractStats") -> None:
        """Add the figures of one shard, or of a group that was fitted."""
        for name, value in vars(other).items():
            if name == "sizes":
                self.sizes.update(value)
            elif name == "outside":
                self.outside |= {group: self.outside.get(group, Outside()) + more for group, more in value.items()}
            elif name == "fitted":
                self.fitted |= value
            else:
                setattr(self, name, getattr(self, name) + value)


def extract(
    workspace: Workspace,
    executor: Executor,
    tasks: Sequence[ShardTask],
    fits: Sequence[FitTask] = (),
    only_broken: bool = False,
) -> Iterator[ExtractStats]:
    """Extract shards on a pool of extractors.

    Args:
        workspace: settings, the OUT, and what all shards have in common.
        executor: runs the tasks.
        tasks: the shards; their compression is filled in where `fits` has their group.
        fits: groups whose basis is found before their shards are extracted, by the same workers.
        only_broken: read each shard first, and extract it only if it is broken.

    Yields:
        The figures of each shard as soon as it is written, and of each group as soon as it is fitted.

    Raises:
        MuscRayError: see `Pool.run`; or what the first extractor that failed raised.
    """
    if not tasks:
        return

    def call(worker: Worker, task: ShardTask | FitTask) -> References:
        if isinstance(task, FitTask):
            return worker.call("fit", task)
        return worker.call("repair" if only_broken else "extract", task)

    settings, arithmetic, out_paths = workspace.settings, workspace.arithmetic, workspace.out_paths
    options = ExtractorOptions.of(settings, arithmetic.model_precision)
    arguments, seen = (options, out_paths.uri(out_paths.root), workspace.meta), 0
    queue = _Queue(tasks, fits)
    with Pool(executor, EXTRACTOR, len(tasks), *arguments) as pool:
        for _, references, error in pool.run(lambda _: queue.next(), call):
            if error is not None:
                raise error
            stats: ExtractStats = pool.executor.get(references[0])
            for group, compression in stats.fitted.items():
                queue.fitted(group, compression)
            stats.lost_workers, seen = pool.lost - seen, pool.lost
            yield stats


class _Queue:
    """The tasks of an extraction: groups to be fitted first, shards as soon as their group is."""

    def __init__(self, tasks: Sequence[ShardTask], fits: Sequence[FitTask]) -> None:
        self._fits = deque(fits)
        self._waiting: dict[str, list[ShardTask]] = {fit.group: [] for fit in fits}
        self._ready: deque[ShardTask] = deque()
        for task in tasks:
            self._waiting.get(task.group, self._ready).append(task)

    def next(self) -> ShardTask | FitTask | None:
        """Take the next task; None where all others wait for their groups."""
        if self._fits:
            return self._fits.popleft()
        return self._ready.popleft() if self._ready else None

    def fitted(self, group: str, compression: Compression | None) -> None:
        """Make the shards of a group ready."""
        self._ready.extend(replace(task, compression=compression) for task in self._waiting.pop(group))
