"""The role of extraction: reads, decodes and embeds the images of a shard, and writes it itself."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from musc_ray.backbones import Tokens, load_backbone
from musc_ray.backbones.names import model_module, resolve_backbone
from musc_ray.backbones.weights import fetch_weights
from musc_ray.core.compression import Energies, find_bases
from musc_ray.core.compression_limits import SAMPLE_IMAGES
from musc_ray.core.memory import is_out_of_memory
from musc_ray.features.extraction import ExtractorOptions, ExtractStats, FitTask, ShardTask
from musc_ray.features.one_picture import OnePicture
from musc_ray.features.outside import Outside
from musc_ray.features.read_ahead import DecodedImage, ReadAhead
from musc_ray.features.stored_tokens import Features, TokenStore, concatenate
from musc_ray.runtime.worker import WorkerResources, import_modules, use_threads
from musc_ray.storage.bases import Compression, decide, write_directions
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shard_writer import write_shard
from musc_ray.storage.shards import (
    BrokenShardError,
    FeaturesMeta,
    ShardImage,
    read_class_tokens,
    read_layer,
    read_norms,
)

MAX_CANDIDATES = 2 * SAMPLE_IMAGES
"""Listed images of a group that are tried until its sample is complete."""

Take = Callable[[Tokens], Any]
"""What is done with the tokens of a batch, or of a part of one."""

Pictures = npt.NDArray[np.uint8]


class Extractor:
    """One copy of the model; extracts a shard per call, and writes it while the next one is in the model."""

    def __init__(self, options: ExtractorOptions, out: str, meta: FeaturesMeta, plan: WorkerResources) -> None:
        self.options, self.meta, self.plan = options, meta, plan
        self.out_paths = OutPaths.at(out)
        self.model_turn = threading.Lock()
        self.reader = ReadAhead(options.batch_size, options.limits, plan.threads)
        import_modules([model_module(options.backbone)])
        self.backbone = load_backbone(
            options.backbone,
            image_size=meta.image_size,
            layers=meta.layers,
            weights=fetch_weights(resolve_backbone(options.backbone), options.weights),
            device=plan.device,
            precision=options.model_precision,
        )
        self.store = TokenStore(self.out_paths, meta, options.compressed_dtype, self.backbone.device)

    def extract(self, task: ShardTask) -> ExtractStats:
        """Extract and write one shard; images that cannot be read become `failed` entries.

        Shards of a group follow each other, so that the model seldom has to change its image size.
        """
        image_size = task.image_size or self.meta.image_size
        stats = ExtractStats(shards=1, images=len(task.images))
        seen = OnePicture()
        # its first images are decoded while another shard has the model
        batches = self.reader.batches(task.images, image_size, task.intensity)
        with self.model_turn:
            use_threads(self.plan.threads)  # PyTorch keeps the number per calling thread
            self.backbone.resize(image_size)
            grid = self.backbone.info.grid
            outcome, features = self._embed_all(seen.watch(batches), task, stats)
        started = time.perf_counter()
        path = self.out_paths.shard(self.meta.features_id, task.group, task.shard)
        intensity = None if task.intensity is None else (task.intensity.low, task.intensity.high)
        meta = replace(self.store.meta_of(task.compression), image_size=image_size, grid=grid)
        meta = replace(meta, images=outcome, intensity=intensity, one_picture=seen.digest)
        stats.bytes_written = write_shard(self.out_paths.fs, path, meta, features.class_tokens, features.layers)
        stats.seconds_writing = time.perf_counter() - started
        stats.failed = [(task.group, image) for image in outcome if image.error is not None]
        stats.sizes.update(
            (task.group, i.height, i.width) for i in outcome if i.height is not None and i.width is not None
        )
        stats.remarks = Counter((task.group, remark) for image in meta.extracted for remark in image.remarks)
        stats.outside = {task.group: Outside.of(meta.extracted)} if meta.basis_sha256 is not None else {}
        return stats

    def fit(self, task: FitTask) -> ExtractStats:
        """Find the basis of a group from the first of its images that can be read, and decide on it for all runs."""
        started, stats = time.perf_counter(), ExtractStats()
        candidates = task.images[:MAX_CANDIDATES]
        batches = self.reader.batches(candidates, task.image_size or self.meta.image_size, task.intensity)
        sums = [Energies(self.meta.channels, self.backbone.device) for _ in self.meta.layers]
        images = 0
        with self.model_turn:
            use_threads(self.plan.threads)
            self.backbone.resize(task.image_size or self.meta.image_size)
            for batch in batches:
                pictures = [pixels for _, pixels in batch if pixels is not None][: SAMPLE_IMAGES - images]
                for found, of_layers in (
                    self._forward(np.stack(pictures), ExtractStats(), _energies) if pictures else ()
                ):
                    images += found
                    for total, more in zip(sums, of_layers, strict=True):
                        total.merge(more)
                if images == SAMPLE_IMAGES:
                    break
            stats.fitted = {task.group: self._decide(task, sums, images) if images else None}
        stats.seconds_fitting = time.perf_counter() - started
        return stats

    def _decide(self, task: FitTask, sums: Sequence[Energies], images: int) -> Compression:
        """Find and store the basis of a group, unless another run has stored one; return the one that holds."""
        bases = find_bases(sums, task.channels)
        directions = {layer: basis.vectors.numpy() for layer, basis in zip(self.meta.layers, bases, strict=True)}
        sha256 = write_directions(self.out_paths, self.meta.features_id, task.group, directions)
        energy = tuple(basis.energy for basis in bases)
        found = Compression(len(task.images), bases[0].vectors.shape[1], images, energy, sha256)
        return decide(self.out_paths, self.meta.features_id, task.group, found)

    def repair(self, task: ShardTask) -> ExtractStats:
        """Read a whole shard, and extract it again if it is broken."""
        fs, path = self.out_paths.fs, self.out_paths.shard(self.meta.features_id, task.group, task.shard)
        ids = [image.image_id for image in task.images]
        basis = None if task.compression is None else task.compression.sha256
        try:
            read_class_tokens(fs, path, ids)
            for layer in self.meta.layers:
                read_layer(fs, path, layer, ids, basis)
                if basis is not None:
                    read_norms(fs, path, layer, ids, basis)
        except (BrokenShardError, FileNotFoundError):
            return self.extract(task)
        return ExtractStats()

    def _embed_all(
        self, batches: Iterator[list[DecodedImage]], task: ShardTask, stats: ExtractStats
    ) -> tuple[list[ShardImage], Features]:
        """Run the model on all batches of a shard."""
        outcome: list[ShardImage] = []
        parts: list[Features] = []
        asked = time.perf_counter()
        for batch in batches:
            started = time.perf_counter()
            images, features = self._embed(batch, task, stats)
            outcome += images
            parts.append(features)
            stats.seconds_waiting_for_images += started - asked
            asked = time.perf_counter()
            stats.seconds_in_model += asked - started
        return outcome, concatenate(parts)

    def _embed(
        self, batch: Sequence[DecodedImage], task: ShardTask, stats: ExtractStats
    ) -> tuple[list[ShardImage], Features]:
        """Run the model on a batch's readable images; an image with infinite or NaN features fails alone."""

        def take(tokens: Tokens) -> Features:
            return self.store.features(tokens, task.group, task.compression)

        pictures = [pixels for _, pixels in batch if pixels is not None]
        if not pictures:
            return [image for image, _ in batch], take(self._no_tokens())
        features = concatenate(self._forward(np.stack(pictures), stats, take))
        finite = features.finite
        verdicts = zip(finite, features.outside, strict=True)
        images = [image if pixels is None else _judged(image, *next(verdicts)) for image, pixels in batch]
        return images, features.select(finite)

    def _forward(self, pictures: Pictures, stats: ExtractStats, take: Take) -> list[Any]:
        """Run the model on (A, H, W, 3) pictures; a batch that does not fit in memory is halved until it does.

        Returns:
            What `take` makes of the tokens, for each part of the batch.
        """
        try:
            return [take(self.backbone.forward(torch.from_numpy(pictures)))]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(pictures) == 1:
                raise
        if self.plan.device == "cuda":
            torch.cuda.empty_cache()
        stats.halved_batches += 1
        return [part for half in np.array_split(pictures, 2) for part in self._forward(half, stats, take)]

    def _no_tokens(self) -> Tokens:
        grid, device = self.backbone.info.grid, self.backbone.device
        layer = torch.empty(0, grid[0] * grid[1], self.meta.channels, device=device)
        return Tokens([layer] * len(self.meta.layers), torch.empty(0, self.meta.class_channels, device=device))


def _energies(tokens: Tokens) -> tuple[int, list[Energies]]:
    """Sum up the energies of the images whose tokens are finite; returns their number, too."""
    finite = torch.stack([layer.isfinite().all(dim=(1, 2)) for layer in tokens.layers]).all(dim=0)
    found = []
    for layer in tokens.layers:
        found.append(Energies(layer.shape[2], layer.device))
        found[-1].add(layer[finite])
    return int(finite.sum()), found


def _judged(image: ShardImage, finite: np.bool_, outside: npt.NDArray[np.float32]) -> ShardImage:
    """Add to an image what its features say of it."""
    if not finite:
        message = "The model gives infinite or NaN features for this image."
        return replace(image, error="FeatureError", message=message)
    return replace(image, outside=tuple(round(float(share), 6) for share in outside))
