"""What a plan starts from: the shapes of a job, and the rates of its workers."""

from collections.abc import Sequence
from dataclasses import dataclass

from musc_ray.backbones.shape import BackboneInfo
from musc_ray.core.references import ReferenceWindow, reference_window
from musc_ray.planning.formats import GroupFormat
from musc_ray.settings.types import ExecutorName
from musc_ray.storage.group_crop_references import Meeting

STORAGE_RATE = 1e9
"""Bytes per second between a worker and its storage (assumed): a share of a fast network, or a local disk."""


@dataclass(frozen=True)
class Rates:
    """What one worker does per second while all are busy.

    Attributes:
        model_operations: floating-point operations of the ViT's forward pass.
        mutual_operations: operations of the tile kernel: products, filters and maxima.
        search_operations: operations of the search for similar class tokens.
        image_seconds: seconds to read and decode one image on one thread; overlaps with the model where cores are idle.
        image_bytes: mean size of an image file, 0 where unknown.
        source: how the rates were obtained.
        image_pixels: mean pixels of an image, 0 where unknown.
        storage_bytes: bytes of features that a worker reads or writes; assumed.
    """

    model_operations: float
    mutual_operations: float
    search_operations: float
    image_seconds: float
    image_bytes: float
    source: str
    image_pixels: float = 0.0
    storage_bytes: float = STORAGE_RATE


@dataclass(frozen=True)
class Job:
    """A job's shapes, as far as they decide its cost.

    Attributes:
        groups: number of images of each group, and how its features are stored and compared.
        info: the backbone's shape.
        vectors: vectors per patch and layer: one per degree, or one in all (see core/snamd.py).
        references: M, or None for all.
        seed: chooses the references.
        on_gpu: whether each vector has its own product (see core/operands).
        side: shards along a side of a block of tiles.
        cache_bytes: prepared shards that a worker keeps.
        executor: process or ray.
        workers: workers of a stage.
        threads: CPU threads of a worker.
        salient_vectors: vectors of a patch that RsCon compares, for which a layer is read again; 0 without it.
        radius: of matching near, in patches; None means anywhere, which bounds what auto chooses.
        meeting: of crops; `all` bounds what auto chooses.
    """

    groups: Sequence[GroupFormat]
    info: BackboneInfo
    vectors: int
    references: int | None
    seed: int
    shard_size: int
    batch_size: int
    on_gpu: bool
    side: int
    cache_bytes: int
    executor: ExecutorName
    workers: int
    threads: int
    salient_vectors: int = 0
    radius: int | None = None
    meeting: Meeting = "all"

    @property
    def group_sizes(self) -> list[int]:
        """Number of images of each group."""
        return [group.images for group in self.groups]

    @property
    def largest(self) -> GroupFormat:
        """The group with most images, which sizes of blocks and memory follow from."""
        return max(self.groups, key=lambda group: group.images)

    @property
    def crops(self) -> int:
        """Return the crops of an image in the group that has most; 0 where no images are cut."""
        return max(group.crops for group in self.groups)

    def set_patches(self, group: GroupFormat) -> list[int]:
        """Return the patches of an image of a group in each set of patches that are compared with each other."""
        return [places * self.patches for places in group.sets(self.meeting)]

    def images_per_shard(self, group: GroupFormat) -> int:
        """Return the images of a shard of a group."""
        return group.images_per_shard(self.shard_size)

    @property
    def distance_bytes(self) -> int:
        """Bytes of a distance: float32 or float16."""
        return 4 if self.largest.precision == "float32" else 2

    @property
    def patches(self) -> int:
        """Patches of an image, or of a crop, L."""
        return self.info.grid[0] * self.info.grid[1]

    @property
    def windows(self) -> list[tuple[GroupFormat, ReferenceWindow]]:
        """Which images score each other, for each group that can be scored."""
        scored = [group for group in self.groups if group.images >= 2]
        return [(group, reference_window(group.images, self.references, self.seed)) for group in scored]
