"""Estimate what a job will cost: counts, operations, bytes, memory and time, from shapes and a few measured rates."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from musc_ray.backbones.shape import BackboneInfo
from musc_ray.core import candidates, operand_bytes, products_per_tile
from musc_ray.core.pending_distances import MAX_EXACT_REFERENCES, SUMMARY_BYTES, pending_bytes_per_patch
from musc_ray.core.references import ReferenceWindow, section_pairs
from musc_ray.planning.formats import GroupFormat
from musc_ray.planning.job import Job, Rates

PROCESS_BYTES = 0.6e9
"""Resident memory of a worker's libraries: torch, Ray, numba, timm (measured)."""

PREPARING_BYTES = 16
"""Bytes per feature value while its shard is prepared: float16, float32 after LayerNorm, operands, sums (measured)."""

START_SECONDS = {"process": 3.0, "ray": 8.0}
"""Time until the model computes, by executor: imports, Ray, workers, weights (tests/benchmarks/bench_start.py)."""

KERNEL_SECONDS = 1.5
"""Time until mutual scoring computes: imports, compiled kernels from their cache (measured)."""

SUGGESTED_REFERENCES = 256
"""References to suggest where all do not fit; scores are as good as with all (measured, DESIGN section 8)."""


SUGGESTED_CROP_REFERENCES = 64
"""References to suggest where images are cut, since each costs many products."""

MIN_CHEAPER_SECONDS = 60.0
"""Mutual scoring that takes longer, and longer than extraction, is worth a proposal."""

ORIGINAL_BYTES = 6
"""Bytes a pixel of an original that is cut: in RGB, and once more while it is turned or converted."""


@dataclass(frozen=True)
class Plan:
    """The estimated cost of a job in operations, bytes and seconds; memory is per worker, the rest of the whole job.

    `compressed` is the plan of the same job with `compress: auto`, where features are not compressed and may be; of
    images that are cut, `cheaper` has plans of the same job with options that make mutual scoring cheaper, by option.
    """

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
    compressed: "Plan | None" = None
    cheaper: "Mapping[str, Plan]" = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Estimated time of all stages."""
        return self.extract_seconds + self.mutual_seconds + self.search_seconds

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
    info, layers, windows = job.info, len(job.info.layers), job.windows
    inputs = sum(group.embedded * group.places for group in job.groups)
    samples = sum(group.sample * group.places for group in job.groups)
    pairs = sum(window.pairs for _, window in windows)
    patch_pairs = sum(window.pairs * sum(job.set_patches(group)) for group, window in windows)
    stored = sum(group.embedded * group.places * group.layer_bytes(job.patches) for group in job.groups)
    # a whole image is read again for RsCon
    salient = sum(group.images * group.layer_bytes(job.patches) for group in job.groups) if job.salient_vectors else 0
    return Plan(
        job=job,
        rates=rates,
        images=sum(job.group_sizes),
        shards=sum(-(-group.images // job.images_per_shard(group)) for group in job.groups),
        tiles=layers
        * sum(
            _block_count(window, job.images_per_shard(group)) * len(job.set_patches(group)) for group, window in windows
        ),
        pairs=pairs,
        extract_operations=(inputs + samples) * forward_operations(info),
        mutual_operations=layers
        * sum(
            (window.pairs + window.images * group.known_good) * _operations_per_pair(group, job)
            for group, window in windows
        ),
        search_operations=sum(
            2.0 * group.images**2 * (info.class_channels + job.salient_vectors * group.channels) for group in job.groups
        ),
        source_bytes=sum(group.embedded for group in job.groups) * rates.image_bytes,
        mutual_bytes_read=layers * sum(_bytes_read(window, group, job) for group, window in windows) + salient,
        exchanged_bytes=2.0 * patch_pairs * job.vectors * job.distance_bytes * layers,
        pending_bytes=max(
            (
                pending_bytes(window, max(job.set_patches(group)), job.vectors, job.distance_bytes)
                for group, window in windows
            ),
            default=0,
        ),
        feature_bytes=layers * stored + inputs * info.class_channels * 4,
        result_bytes=sum(group.images * (max(group.crops, 1) * job.patches * 4 + 100) for group in job.groups),
        extract_memory=_extract_memory(job, rates),
        mutual_memory=_mutual_memory(job),
    )


def with_cheaper(plan: Plan) -> Plan:
    """Add plans with fewer comparisons to that of a job whose images are cut, where mutual scoring takes long."""
    job, options = plan.job, {}
    if job.crops == 0 or plan.mutual_seconds < max(MIN_CHEAPER_SECONDS, plan.extract_seconds):
        return plan
    if job.meeting == "all":
        options["--crop-references same"] = replace(job, meeting="same")
    if job.references is None and job.largest.images > 2 * SUGGESTED_CROP_REFERENCES:
        options[f"--references {SUGGESTED_CROP_REFERENCES}"] = replace(job, references=SUGGESTED_CROP_REFERENCES)
    return replace(plan, cheaper={option: plan_job(other, plan.rates) for option, other in options.items()})


def _operations_per_pair(group: GroupFormat, job: Job) -> float:
    """Count the operations of one layer of a pair of images, in all sets of patches."""
    operations = 0.0
    for places in group.sets(job.meeting):
        radius = job.radius if places == 1 else None  # a set that compares places has no same place
        products = products_per_tile(job.on_gpu, group.precision, job.vectors, radius)
        candidates_each = places * candidates(job.info.grid, radius)
        operations += 2.0 * places * job.patches * candidates_each * group.channels * products
    return operations


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


def _bytes_read(window: ReferenceWindow, group: GroupFormat, job: Job) -> float:
    """Estimate the bytes of a layer that workers read: for each block, one side that its worker has not cached."""
    per_shard = job.images_per_shard(group)
    shards = -(-window.images // per_shard)
    blocks = min(job.side, shards) * _block_count(window, job.side * per_shard)
    total = 0.0
    for places in group.sets(job.meeting):
        fits = shards * _prepared_bytes(group, job, places) <= job.cache_bytes
        read = min(blocks, job.workers * shards) if fits and window.is_all else blocks
        images = read * per_shard
        if group.known_good:  # each image once more, beside the known good ones, which stay
            images += window.images + job.workers * group.known_good
        total += images * places * group.layer_bytes(job.patches)
    return total


def _prepared_bytes(group: GroupFormat, job: Job, places: int) -> float:
    """Bytes of one layer of some places of a shard's images as operands (see core/operands)."""
    near = job.radius is not None and places == 1
    vectors = job.images_per_shard(group) * places * job.patches
    return float(vectors * group.channels * operand_bytes(job.on_gpu, group.precision, job.vectors, near))


def _extract_memory(job: Job, rates: Rates) -> float:
    """Memory of an extraction worker: weights, activations of a batch, a shard in the model and one being written.

    Of images that are cut, a decoded one and its copy, too.
    """
    info = job.info
    weights = 12.0 * info.depth * info.channels**2 * 4
    activations = job.batch_size * (job.patches + 1) * info.channels * 4 * (len(info.layers) + 8)
    rows = [job.images_per_shard(group) * group.places * group.layer_bytes(job.patches) for group in job.groups]
    shard = max(rows, default=0) * len(info.layers)
    original = rates.image_pixels * ORIGINAL_BYTES if job.crops else 0.0
    return PROCESS_BYTES + weights + activations + 3.0 * shard + original


def _mutual_memory(job: Job) -> float:
    """Memory of a scoring worker: cached shards, one being prepared, distances of a block or a band."""
    windows, group = [window for _, window in job.windows], job.largest
    places = max(group.sets(job.meeting))
    per_shard, patches = job.images_per_shard(group), places * job.patches
    values = per_shard * patches * group.channels
    prepared = _prepared_bytes(group, job, places)
    on_ring = not all(window.is_all for window in windows)
    shards = -(-group.images // per_shard)
    kept = min(3 * job.side, shards) if on_ring else shards  # an upper bound of scoring/tile_driver.py
    held = min(kept * prepared, max(job.cache_bytes, 2 * job.side * prepared))
    distances = patches * job.vectors * job.distance_bytes
    block = 2 * min(job.side * per_shard, group.images) ** 2 * distances
    references = max((window.references for window in windows), default=0)
    waiting = references * job.distance_bytes if references <= MAX_EXACT_REFERENCES else 2 * SUMMARY_BYTES
    band = per_shard * patches * job.vectors * waiting
    return PROCESS_BYTES + held + values * PREPARING_BYTES + max(block, band)
