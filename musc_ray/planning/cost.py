"""Estimate what a job will cost: counts, operations, bytes, memory and time, from shapes and a few measured rates."""

from collections.abc import Sequence
from dataclasses import dataclass

from musc_ray.backbones.shape import BackboneInfo
from musc_ray.core import PRECISION_BYTES, products_per_tile
from musc_ray.core.pending_distances import MAX_EXACT_REFERENCES, SUMMARY_BYTES, pending_bytes_per_patch
from musc_ray.core.references import ReferenceWindow, reference_window, section_pairs
from musc_ray.settings.types import ExecutorName

PROCESS_BYTES = 0.6e9
"""Resident memory of a worker's libraries: torch, Ray, numba, timm (measured)."""

PREPARING_BYTES = 16
"""Bytes per feature value while its shard is prepared: float16, float32 after LayerNorm, operands, sums (measured)."""

START_SECONDS = {"process": 3.0, "ray": 8.0}
"""Time until the model computes, by executor: imports, Ray, workers, weights (tests/benchmarks/bench_start.py)."""

KERNEL_SECONDS = 1.5
"""Time until mutual scoring computes: imports, compiled kernels from their cache (measured)."""

STORAGE_RATE = 1e9
"""Bytes per second between a worker and its storage (assumed): a share of a fast network, or a local disk."""

SUGGESTED_REFERENCES = 256
"""References to suggest where all do not fit; scores are as good as with all (measured, DESIGN section 8)."""


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
    """A job's shapes, as far as they decide its cost.

    Attributes:
        group_sizes: number of images of each group.
        info: the backbone's shape.
        vectors: vectors per patch and layer: one per degree, or one in all (see core/snamd.py).
        references: M, or None for all.
        seed: chooses the references.
        precision: float32, bfloat16, float16 or int8: of products.
        on_gpu: whether each vector has its own product (see core/operands).
        side: shards along a side of a block of tiles.
        cache_bytes: prepared shards that a worker keeps.
        executor: process or ray.
        workers: workers of a stage.
        threads: CPU threads of a worker.
        salient_vectors: vectors of a patch that RsCon compares, for which a layer is read again; 0 without it.
    """

    group_sizes: Sequence[int]
    info: BackboneInfo
    vectors: int
    references: int | None
    seed: int
    shard_size: int
    batch_size: int
    precision: str
    on_gpu: bool
    side: int
    cache_bytes: int
    executor: ExecutorName
    workers: int
    threads: int
    salient_vectors: int = 0

    @property
    def distance_bytes(self) -> int:
        """Bytes of a distance: float32 or float16."""
        return 4 if self.precision == "float32" else 2

    @property
    def patches(self) -> int:
        """Patches of an image, L."""
        return self.info.grid[0] * self.info.grid[1]

    @property
    def windows(self) -> list[ReferenceWindow]:
        """Which images score each other, for each group that can be scored."""
        return [reference_window(size, self.references, self.seed) for size in self.group_sizes if size >= 2]


@dataclass(frozen=True)
class Plan:
    """The estimated cost of a job in operations, bytes and seconds; memory is per worker, the rest of the whole job."""

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
        """Seconds of the parts of the extract stage, which overlap; on a CPU, decoding takes time from the model."""
        model = self.extract_operations / self.rates.model_operations
        reading = self.images * self.rates.image_seconds / self.job.threads
        return self._shared(
            {
                "the model": model if self.job.on_gpu else model + reading,
                "decoding": reading,
                "storage": self.feature_bytes / self.rates.storage_bytes,
            }
        )

    @property
    def mutual_parts(self) -> dict[str, float]:
        """Seconds of the parts of the mutual and reduce stages, which overlap."""
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
        """Estimated time of the extract stage."""
        return START_SECONDS[self.job.executor] + max(self.extract_parts.values())

    @property
    def extract_bound(self) -> str:
        """The part that takes longest."""
        return max(self.extract_parts, key=self.extract_parts.__getitem__)

    @property
    def mutual_seconds(self) -> float:
        """Estimated time of the mutual and reduce stages."""
        return KERNEL_SECONDS + max(self.mutual_parts.values())

    @property
    def mutual_bound(self) -> str:
        """The part that takes longest."""
        return max(self.mutual_parts, key=self.mutual_parts.__getitem__)

    @property
    def search_seconds(self) -> float:
        """Estimated time of the search for similar images."""
        return self.search_operations / self.rates.search_operations / self.job.workers


def plan_job(job: Job, rates: Rates) -> Plan:
    """Estimate a job's cost at the given rates."""
    info, length, layers = job.info, job.patches, len(job.info.layers)
    images, windows = sum(job.group_sizes), job.windows
    products = products_per_tile(job.on_gpu, job.precision, job.vectors)
    layer_bytes = job.shard_size * length * info.channels * 2
    pairs = sum(window.pairs for window in windows)
    compared = info.class_channels + job.salient_vectors * info.channels
    read_again = images * length * info.channels * 2 if job.salient_vectors else 0
    return Plan(
        job=job,
        rates=rates,
        images=images,
        shards=sum(-(-size // job.shard_size) for size in job.group_sizes),
        tiles=layers * sum(_block_count(window, job.shard_size) for window in windows),
        pairs=pairs,
        extract_operations=images * forward_operations(info),
        mutual_operations=pairs * 2.0 * length**2 * info.channels * layers * products,
        search_operations=sum(2.0 * size**2 * compared for size in job.group_sizes),
        source_bytes=images * rates.image_bytes,
        mutual_bytes_read=layers * sum(_shards_read(window, job) for window in windows) * layer_bytes + read_again,
        exchanged_bytes=2.0 * pairs * length * job.vectors * job.distance_bytes * layers,
        pending_bytes=max(
            (pending_bytes(window, length, job.vectors, job.distance_bytes) for window in windows), default=0
        ),
        feature_bytes=images * (layers * length * info.channels * 2 + info.class_channels * 4),
        result_bytes=images * (length * 4 + 100),
        extract_memory=_extract_memory(job),
        mutual_memory=_mutual_memory(job),
    )


def forward_operations(info: BackboneInfo) -> float:
    """Count the operations of a ViT's forward pass: 12 C^2 weights per block (MLP ratio 4), two attention products."""
    tokens, channels = info.grid[0] * info.grid[1] + 1, info.channels
    return float(info.depth) * (24.0 * tokens * channels**2 + 4.0 * tokens**2 * channels)


def pending_bytes(window: ReferenceWindow, patches: int, vectors: int, itemsize: int) -> int:
    """Bound the bytes of a group's unfinished distances: one layer's, as layers are scored in turn."""
    return pending_bytes_per_patch(window, itemsize) * patches * vectors


def _block_count(window: ReferenceWindow, images: int) -> int:
    """Count the pairs of chunks of `images` images on the ring that hold pairs of the window."""
    chunks = -(-window.images // images)
    if window.is_all:
        return chunks * (chunks + 1) // 2
    starts = range(0, window.images, images)
    return sum(1 for _ in section_pairs(window, [range(at, min(at + images, window.images)) for at in starts]))


def _shards_read(window: ReferenceWindow, job: Job) -> int:
    """Estimate the shards of a layer that workers read: for each block, one side that its worker has not cached."""
    shards = -(-window.images // job.shard_size)
    read = min(job.side, shards) * _block_count(window, job.side * job.shard_size)
    fits = shards * _prepared_bytes(job) <= job.cache_bytes
    return min(read, job.workers * shards) if fits and window.is_all else read


def _prepared_bytes(job: Job) -> float:
    """Bytes of one layer of a shard as operands (see core/operands)."""
    copies = job.vectors if job.on_gpu or job.precision == "int8" else 1
    if not job.on_gpu and job.precision != "float32":
        copies *= 2  # as a left and as a right operand
    return float(job.shard_size * job.patches * job.info.channels * PRECISION_BYTES[job.precision] * copies)


def _extract_memory(job: Job) -> float:
    """Memory of an extraction worker: weights, activations of a batch, a shard in the model and one being written."""
    info = job.info
    weights = 12.0 * info.depth * info.channels**2 * 4
    activations = job.batch_size * (job.patches + 1) * info.channels * 4 * (len(info.layers) + 8)
    shard = job.shard_size * job.patches * info.channels * len(info.layers) * 2
    return PROCESS_BYTES + weights + activations + 3.0 * shard


def _mutual_memory(job: Job) -> float:
    """Memory of a scoring worker: cached shards, one being prepared, distances of a block or a band."""
    values = job.shard_size * job.patches * job.info.channels
    largest = max(job.group_sizes, default=0)
    prepared = _prepared_bytes(job)
    on_ring = not all(window.is_all for window in job.windows)
    shards = -(-largest // job.shard_size)
    kept = min(3 * job.side, shards) if on_ring else shards  # an upper bound of scoring/tile_driver.py
    held = min(kept * prepared, max(job.cache_bytes, 2 * job.side * prepared))
    distances = job.patches * job.vectors * job.distance_bytes
    block = 2 * min(job.side * job.shard_size, largest) ** 2 * distances
    references = max((window.references for window in job.windows), default=0)
    waiting = references * job.distance_bytes if references <= MAX_EXACT_REFERENCES else 2 * SUMMARY_BYTES
    band = job.shard_size * job.patches * job.vectors * waiting
    return PROCESS_BYTES + held + values * PREPARING_BYTES + max(block, band)
