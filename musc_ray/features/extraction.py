"""Stage 2, catalog -> features: actors read, decode and embed the images of a shard and write it themselves."""

import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from musc_ray.backbones import Backbone, BackboneInfo, load_backbone
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.weights import fetch_weights
from musc_ray.core.memory import is_out_of_memory
from musc_ray.core.precision import MIN_IMAGES_LOW_PRECISION, resolve_precision
from musc_ray.errors import ImageError
from musc_ray.runtime.cluster import ActorPlan, take_share, use_threads
from musc_ray.runtime.pool import Pool
from musc_ray.settings.credentials import redacted
from musc_ray.settings.model import Settings
from musc_ray.sources.decoding import decode_image
from musc_ray.sources.images import CatalogImage
from musc_ray.sources.reading import read_image
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.retry import PERMANENT
from musc_ray.storage.shards import (
    BrokenShardError,
    FeaturesMeta,
    ShardImage,
    read_class_tokens,
    read_layer,
    write_shard,
)

BATCHES_AHEAD = 2
"""Batches decoded ahead of the model: enough to keep it busy, little enough to bound memory."""


Decoded = tuple[ShardImage, npt.NDArray[np.uint8] | None]
"""An image and its pixels (H, W, 3), or what is wrong with it and None."""

Features = tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float16]]]
"""Class tokens (A, class_channels) and, a layer each, tokens (A, h*w, C)."""


@dataclass(frozen=True)
class ShardTask:
    """One shard to extract."""

    group: str
    shard: int
    images: Sequence[CatalogImage]


@dataclass
class ExtractStats:
    """What extraction did; seconds are summed over actors."""

    shards: int = 0
    images: int = 0
    bytes_written: int = 0
    seconds_waiting_for_images: float = 0.0
    seconds_in_model: float = 0.0
    seconds_writing: float = 0.0
    halved_batches: int = 0
    lost_workers: int = 0
    failed: list[tuple[str, ShardImage]] = field(default_factory=list)

    def add(self, other: "ExtractStats") -> None:
        """Add the figures of one shard."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


def features_meta(info: BackboneInfo, weights_sha256: str, features_id: str) -> FeaturesMeta:
    """What all shards of a run have in common."""
    return FeaturesMeta(
        grid=info.grid,
        layers=info.layers,
        channels=info.channels,
        class_channels=info.class_channels,
        image_size=info.image_size,
        backbone=info.name,
        weights_sha256=weights_sha256,
        features_id=features_id,
    )


CALLS_AT_ONCE = 2
"""Shards an actor works on: one in the model, another being written or having its first images decoded."""


class Extractor:
    """An actor: one copy of the model; extracts a shard per call, its writing while the next one is in the model."""

    def __init__(self, settings: Settings, out: str, meta: FeaturesMeta, plan: ActorPlan) -> None:
        take_share(plan)
        self.settings, self.meta, self.plan = settings, meta, plan
        self.layout = OutPaths.at(out)
        self.model_turn = threading.Lock()
        self.readers = ThreadPoolExecutor(max(2, plan.threads))

    @cached_property
    def backbone(self) -> Backbone:
        """The model; loaded by the first call, so that what is wrong with its weights reaches the user as it is."""
        return load_backbone(
            self.settings.backbone,
            image_size=self.meta.image_size,
            layers=self.meta.layers,
            weights=fetch_weights(resolve_backbone(self.settings.backbone), self.settings.weights),
            device=self.plan.device,
            precision=model_precision(self.settings, self.plan.device),
        )

    def extract(self, task: ShardTask) -> ExtractStats:
        """Extract and write one shard; images that cannot be read become `failed` entries."""
        stats = ExtractStats(shards=1, images=len(task.images))
        batches = self._batches(task.images, stats)
        with self.model_turn:
            use_threads(self.plan.threads)  # PyTorch keeps the number per calling thread
            outcome, (class_tokens, layers) = self._embed_all(batches, stats)
        started = time.perf_counter()
        path = self.layout.shard(self.meta.features_id, task.group, task.shard)
        stats.bytes_written = write_shard(
            self.layout.fs, path, replace(self.meta, images=outcome), class_tokens, layers
        )
        stats.seconds_writing = time.perf_counter() - started
        stats.failed = [(task.group, image) for image in outcome if image.error is not None]
        return stats

    def repair(self, task: ShardTask) -> ExtractStats:
        """Read all of a shard, and extract it again if it is broken."""
        path = self.layout.shard(self.meta.features_id, task.group, task.shard)
        ids = [image.image_id for image in task.images]
        try:
            read_class_tokens(self.layout.fs, path, ids)
            for layer in self.meta.layers:
                read_layer(self.layout.fs, path, layer, ids)
        except (BrokenShardError, FileNotFoundError):
            return self.extract(task)
        return ExtractStats()

    def _embed_all(self, batches: Iterator[list[Decoded]], stats: ExtractStats) -> tuple[list[ShardImage], Features]:
        """Run the model on all batches of a shard."""
        outcome: list[ShardImage] = []
        parts: list[Features] = []
        for batch in batches:
            started = time.perf_counter()
            images, features = self._embed(batch, stats)
            outcome += images
            parts.append(features)
            stats.seconds_in_model += time.perf_counter() - started
        return outcome, _concatenate(parts)

    def _embed(self, batch: Sequence[Decoded], stats: ExtractStats) -> tuple[list[ShardImage], Features]:
        """Run the model on a batch's readable images; an image with infinite or NaN features fails alone."""
        pictures = [picture for _, picture in batch if picture is not None]
        if not pictures:
            return [image for image, _ in batch], self._no_features()
        class_tokens, layers = self._forward(np.stack(pictures), stats)
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(class_tokens).all(axis=1))
        for layer in layers:
            finite &= np.isfinite(layer).all(axis=(1, 2))
        verdicts = iter(list(finite))
        images = [image if picture is None or next(verdicts) else _not_finite(image) for image, picture in batch]
        return images, (class_tokens[finite], [layer[finite] for layer in layers])

    def _forward(self, pictures: npt.NDArray[np.uint8], stats: ExtractStats) -> Features:
        """Run the model on (A, H, W, 3) pictures; a batch that does not fit in memory is halved until it does."""
        try:
            tokens = self.backbone.forward(torch.from_numpy(pictures))
            layers = [layer.half().cpu().numpy() for layer in tokens.layers]
            return tokens.class_tokens.cpu().numpy(), layers
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(pictures) == 1:
                raise
        if self.plan.device == "cuda":
            torch.cuda.empty_cache()
        stats.halved_batches += 1
        return _concatenate([self._forward(half, stats) for half in np.array_split(pictures, 2)])

    def _no_features(self) -> Features:
        shape = (0, self.meta.grid[0] * self.meta.grid[1], self.meta.channels)
        return np.empty((0, self.meta.class_channels), np.float32), [np.empty(shape, np.float16)] * len(
            self.meta.layers
        )

    def _batches(self, images: Sequence[CatalogImage], stats: ExtractStats) -> Iterator[list[Decoded]]:
        """Read and decode ahead of the model, in order; the first images at once, before the shard's turn."""
        ahead = self.settings.batch_size * (BATCHES_AHEAD + 1)
        pending = deque(self.readers.submit(self._read, image) for image in images[:ahead])
        return self._decoded(images, pending, stats)

    def _decoded(
        self, images: Sequence[CatalogImage], pending: deque[Future[Decoded]], stats: ExtractStats
    ) -> Iterator[list[Decoded]]:
        """Batches as they are decoded, each making room for the reading of another."""
        size, ahead = self.settings.batch_size, len(pending)
        for start in range(0, len(images), size):
            started = time.perf_counter()
            batch = [self._read_of(pending.popleft(), image) for image in images[start : start + size]]
            stats.seconds_waiting_for_images += time.perf_counter() - started
            further = images[start + ahead : start + ahead + size]
            pending.extend(self.readers.submit(self._read, image) for image in further)
            yield batch

    def _read_of(self, reading: Future[Decoded], image: CatalogImage) -> Decoded:
        """What was read; once more, now that the model is not at work, if there was too little memory beside it."""
        try:
            return reading.result()
        except MemoryError:
            pass
        try:
            return self._read(image)
        except MemoryError:
            message = "The image needs more memory than its worker has: lower max_pixels, or raise max_worker_gb."
            failed = ShardImage(image.image_id, image.uri, image.version, "MemoryError", message)
            return failed, None

    def _read(self, image: CatalogImage) -> Decoded:
        """Read and decode one image; what is wrong with it is data, not an exception, but a storage fault is one."""
        done = ShardImage(image.image_id, image.uri, image.version)
        try:
            limits = self.settings.image_limits
            data = read_image(image.uri, limits.bytes)
            return done, decode_image(data, self.meta.image_size, max_pixels=limits.pixels)
        except (ImageError, *PERMANENT) as error:
            return replace(done, error=type(error).__name__, message=redacted(str(error))), None


def _concatenate(parts: Sequence[Features]) -> Features:
    """The features of several batches one after the other."""
    layers = [np.concatenate(layer) for layer in zip(*(part[1] for part in parts), strict=True)]
    return np.concatenate([part[0] for part in parts]), layers


def _not_finite(image: ShardImage) -> ShardImage:
    message = "The model gives infinite or NaN features for this image."
    return replace(image, error="FeatureError", message=message)


def model_precision(settings: Settings, device: str) -> str:
    """The model's arithmetic; `auto` is what the tile product's `auto` is for many images on this device."""
    if settings.model_precision != "auto":
        return settings.model_precision
    return str(resolve_precision("auto", torch.device(device), MIN_IMAGES_LOW_PRECISION)).removeprefix("torch.")


def extract(
    settings: Settings, layout: OutPaths, meta: FeaturesMeta, tasks: Sequence[ShardTask], only_broken: bool = False
) -> Iterator[ExtractStats]:
    """Extract shards on a pool of actors; yields each shard's figures as soon as it is written.

    With `only_broken` each shard is read first, and only what is broken is extracted.
    """

    def call(actor: Any, task: ShardTask) -> Any:
        return (actor.repair if only_broken else actor.extract).remote(task)

    if not tasks:
        return
    arguments, seen = (settings, layout.uri(layout.root), meta), 0
    with Pool(Extractor, settings, len(tasks), *arguments, calls_at_once=CALLS_AT_ONCE) as pool:
        for _, stats in pool.map(iter(tasks), call):
            stats.lost_workers, seen = pool.lost - seen, pool.lost
            yield stats
