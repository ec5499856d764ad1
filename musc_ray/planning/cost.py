"""What a job will cost: counts, arithmetic, bytes, memory and time, from shapes and a few rates. Pure arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass

from musc_ray.backbones import BackboneInfo
from musc_ray.core.bands import EXACT_REFERENCES, waiting_bytes
from musc_ray.core.distance_summary import SUMMARY_BYTES
from musc_ray.core.operands.base import products_a_tile
from musc_ray.core.references import Window, blocks, reference_window

PROCESS_BYTES = 0.6e9
"""A worker's libraries (measured: torch, Ray, numba and timm, resident)."""

PREPARING_BYTES = 16
"""A feature value while its shard is being prepared: float16, float32 after LayerNorm, operands, sums (measured)."""

START_SECONDS = 8.0
"""Starting a stage's workers: Python, imports, compiled kernels from their cache (measured)."""


STORAGE_RATE = 1e9
"""Bytes a second between a worker and its storage, assumed: a share of a fast network, or a local disk."""

SUGGESTED_REFERENCES = 256
"""What to use where all do not fit: scores as well as with all (README, measured)."""


@dataclass(frozen=True)
class Rates:
    """What one worker does in a second while all are at work.

    Attributes:
        model_operations: floating-point operations of the ViT's forward pass.
        mutual_operations: operations of the tile kernel's products, filters and maxima included.
        search_operations: operations of the search for similar class tokens.
        image_seconds: reading and decoding one image; lies behind the model where cores are left.
        image_bytes: mean size of an image file, 0 where unknown.
        source: where the rates are from.
        storage_bytes: bytes of features that a worker reads or writes; assumed.
    """

    model_operations: float
    mutual_operations: float
    search_operations: float
    image_seconds: float
    image_bytes: float
    source: str
    storage_bytes: float = STORAGE_RATE


@dataclass(frozen=True)
class Job:
    """What is to be done, as far as it decides the cost.

    Attributes:
        group_sizes: images of each group.
        info: the backbone's shape.
        vectors: that stand for a patch in a layer: one a degree, or one in all (see core/snamd.py).
        references: M, or None for all; seed: which ones.
        itemsize: bytes of a number in products and of a stored distance.
        on_gpu: whether each vector has a product of its own (see core/prepared.py).
        side: shards along a side of a block of tiles.
        cache_bytes: prepared shards that a worker keeps.
        workers: actors of a stage.
    """

    group_sizes: Sequence[int]
    info: BackboneInfo
    vectors: int
    references: int | None
    seed: int
    shard_size: int
    batch_size: int
    itemsize: int
    on_gpu: bool
    side: int
    cache_bytes: int
    workers: int

    @property
    def patches(self) -> int:
        """L."""
        return self.info.grid[0] * self.info.grid[1]

    @property
    def windows(self) -> list[Window]:
        """Who scores whom in each group that can be scored."""
        return [reference_window(size, self.references, self.seed) for size in self.group_sizes if size >= 2]


@dataclass(frozen=True)
class Plan:
    """The cost of a job. Operations, bytes and seconds; memory is of one worker, the rest of the whole job."""

    job: Job
    rates: Rates
    images: int
    shards: int
    tiles: int
    pairs: int
    extract_operations: float
    mutual_operations: float
    search_operations: float
    source_bytes: float
    mutual_bytes_read: float
    exchanged_bytes: float
    pending_bytes: float
    feature_bytes: float
    result_bytes: float
    extract_memory: float
    mutual_memory: float

    @property
    def extract_parts(self) -> dict[str, float]:
        """Seconds that stage 2 takes for its parts, which go on at the same time; on a CPU the model decodes, too."""
        model = self.extract_operations / self.rates.model_operations
        reading = self.images * self.rates.image_seconds
        return self._shared(
            {
                "the model": model if self.job.on_gpu else model + reading,
                "decoding": reading,
                "storage": self.feature_bytes / self.rates.storage_bytes,
            }
        )

    @property
    def mutual_parts(self) -> dict[str, float]:
        """Seconds that stages 3 and 4 take for their parts, which go on at the same time."""
        return self._shared(
            {
                "arithmetic": self.mutual_operations / self.rates.mutual_operations,
                "storage": self.mutual_bytes_read / self.rates.storage_bytes,
            }
        )

    def _shared(self, parts: dict[str, float]) -> dict[str, float]:
        return {name: seconds / self.job.workers for name, seconds in parts.items()}

    @property
    def extract_seconds(self) -> float:
        """Estimated time of stage 2."""
        return START_SECONDS + max(self.extract_parts.values())

    @property
    def extract_bound(self) -> str:
        """The part that decides it."""
        return max(self.extract_parts, key=self.extract_parts.__getitem__)

    @property
    def mutual_seconds(self) -> float:
        """Estimated time of stages 3 and 4."""
        return START_SECONDS + max(self.mutual_parts.values())

    @property
    def mutual_bound(self) -> str:
        """The part that decides it."""
        return max(self.mutual_parts, key=self.mutual_parts.__getitem__)

    @property
    def search_seconds(self) -> float:
        """Estimated time of stage 5's search for similar images."""
        return self.search_operations / self.rates.search_operations / self.job.workers


def plan_job(job: Job, rates: Rates) -> Plan:
    """Count a job's work."""
    info, length, layers = job.info, job.patches, len(job.info.layers)
    images, windows = sum(job.group_sizes), job.windows
    products = products_a_tile(job.on_gpu, job.vectors)
    layer_bytes = job.shard_size * length * info.channels * 2
    pairs = sum(window.pairs for window in windows)
    return Plan(
        job=job,
        rates=rates,
        images=images,
        shards=sum(-(-size // job.shard_size) for size in job.group_sizes),
        tiles=layers * sum(_block_count(window, job.shard_size) for window in windows),
        pairs=pairs,
        extract_operations=images * forward_operations(info),
        mutual_operations=pairs * 2.0 * length**2 * info.channels * layers * products,
        search_operations=sum(2.0 * size**2 * info.class_channels for size in job.group_sizes),
        source_bytes=images * rates.image_bytes,
        mutual_bytes_read=layers * sum(_shards_read(window, job) for window in windows) * layer_bytes,
        exchanged_bytes=2.0 * pairs * length * job.vectors * job.itemsize * layers,
        pending_bytes=max((pending_bytes(window, length, job.vectors, job.itemsize) for window in windows), default=0),
        feature_bytes=images * (layers * length * info.channels * 2 + info.class_channels * 4),
        result_bytes=images * (length * 4 + 100),
        extract_memory=_extract_memory(job),
        mutual_memory=_mutual_memory(job),
    )


def forward_operations(info: BackboneInfo) -> float:
    """Operations of a ViT's forward pass: 12 C^2 weights a block (MLP ratio 4) and two attention products."""
    tokens, channels = info.grid[0] * info.grid[1] + 1, info.channels
    return float(info.depth) * (24.0 * tokens * channels**2 + 4.0 * tokens**2 * channels)


def pending_bytes(window: Window, patches: int, vectors: int, itemsize: int) -> int:
    """Distances of a group that wait in the object store at most: one layer's, which is what is worked on at a time."""
    return waiting_bytes(window, itemsize) * patches * vectors


def _block_count(window: Window, images: int) -> int:
    """Pairs of chunks of so many images, on the ring, that hold pairs of the window."""
    chunks = -(-window.images // images)
    if window.is_all:
        return chunks * (chunks + 1) // 2
    starts = range(0, window.images, images)
    return sum(1 for _ in blocks(window, [range(at, min(at + images, window.images)) for at in starts]))


def _shards_read(window: Window, job: Job) -> int:
    """About how many shards of a layer workers read: a block brings one side that its worker does not hold, if any."""
    shards = -(-window.images // job.shard_size)
    read = min(job.side, shards) * _block_count(window, job.side * job.shard_size)
    fits = shards * _prepared_bytes(job) <= job.cache_bytes
    return min(read, job.workers * shards) if fits and window.is_all else read


def _prepared_bytes(job: Job) -> float:
    """Bytes of a shard's layer ready to multiply (see core/prepared.py)."""
    copies = job.vectors if job.on_gpu else 4 // job.itemsize
    return float(job.shard_size * job.patches * job.info.channels * job.itemsize * copies)


def _extract_memory(job: Job) -> float:
    """Weights, activations of a batch, and two shards on their way: one in the model, one being written."""
    info = job.info
    weights = 12.0 * info.depth * info.channels**2 * 4
    activations = job.batch_size * (job.patches + 1) * info.channels * 4 * (len(info.layers) + 8)
    shard = job.shard_size * job.patches * info.channels * len(info.layers) * 2
    return PROCESS_BYTES + weights + activations + 3.0 * shard


def _mutual_memory(job: Job) -> float:
    """Prepared shards, one being prepared, the distances of a block, and those of the band being reduced."""
    values = job.shard_size * job.patches * job.info.channels
    largest = max(job.group_sizes, default=0)
    prepared = _prepared_bytes(job)
    on_ring = not all(window.is_all for window in job.windows)
    shards = -(-largest // job.shard_size)
    kept = min(3 * job.side, shards) if on_ring else shards  # see stages/mutual.py
    held = min(kept * prepared, max(job.cache_bytes, 2 * job.side * prepared))
    distances = job.patches * job.vectors * job.itemsize
    block = 2 * min(job.side * job.shard_size, largest) ** 2 * distances
    references = max((window.references for window in job.windows), default=0)
    waiting = references * job.itemsize if references <= EXACT_REFERENCES else 2 * SUMMARY_BYTES
    band = job.shard_size * job.patches * job.vectors * waiting
    return PROCESS_BYTES + held + values * PREPARING_BYTES + max(block, band)
