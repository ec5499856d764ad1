"""The role of extraction: reads, decodes and embeds the images of a shard, and writes it itself."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch

from musc_ray.backbones import load_backbone
from musc_ray.backbones.names import model_module, resolve_backbone
from musc_ray.backbones.weights import fetch_weights
from musc_ray.core.memory import is_out_of_memory
from musc_ray.features.extraction import ExtractorOptions, ExtractStats, ShardTask
from musc_ray.features.one_picture import OnePicture
from musc_ray.features.read_ahead import DecodedImage, ReadAhead
from musc_ray.runtime.worker import WorkerResources, import_modules, use_threads
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shards import (
    BrokenShardError,
    FeaturesMeta,
    ShardImage,
    read_class_tokens,
    read_layer,
    write_shard,
)

Features = tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float16]]]
"""Class tokens (A, class_channels) and, per layer, tokens (A, h*w, C)."""


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
            outcome, (class_tokens, layers) = self._embed_all(seen.watch(batches), stats)
        started = time.perf_counter()
        path = self.out_paths.shard(self.meta.features_id, task.group, task.shard)
        intensity = None if task.intensity is None else (task.intensity.low, task.intensity.high)
        meta = replace(self.meta, images=outcome, intensity=intensity, one_picture=seen.digest)
        meta = replace(meta, image_size=image_size, grid=grid)
        stats.bytes_written = write_shard(self.out_paths.fs, path, meta, class_tokens, layers)
        stats.seconds_writing = time.perf_counter() - started
        stats.failed = [(task.group, image) for image in outcome if image.error is not None]
        stats.sizes.update(
            (task.group, i.height, i.width) for i in outcome if i.height is not None and i.width is not None
        )
        stats.remarks = Counter((task.group, remark) for image in meta.extracted for remark in image.remarks)
        return stats

    def repair(self, task: ShardTask) -> ExtractStats:
        """Read a whole shard, and extract it again if it is broken."""
        path = self.out_paths.shard(self.meta.features_id, task.group, task.shard)
        ids = [image.image_id for image in task.images]
        try:
            read_class_tokens(self.out_paths.fs, path, ids)
            for layer in self.meta.layers:
                read_layer(self.out_paths.fs, path, layer, ids)
        except (BrokenShardError, FileNotFoundError):
            return self.extract(task)
        return ExtractStats()

    def _embed_all(
        self, batches: Iterator[list[DecodedImage]], stats: ExtractStats
    ) -> tuple[list[ShardImage], Features]:
        """Run the model on all batches of a shard."""
        outcome: list[ShardImage] = []
        parts: list[Features] = []
        asked = time.perf_counter()
        for batch in batches:
            started = time.perf_counter()
            images, features = self._embed(batch, stats)
            outcome += images
            parts.append(features)
            stats.seconds_waiting_for_images += started - asked
            asked = time.perf_counter()
            stats.seconds_in_model += asked - started
        return outcome, _concatenate(parts)

    def _embed(self, batch: Sequence[DecodedImage], stats: ExtractStats) -> tuple[list[ShardImage], Features]:
        """Run the model on a batch's readable images; an image with infinite or NaN features fails alone."""
        pictures = [pixels for _, pixels in batch if pixels is not None]
        if not pictures:
            return [image for image, _ in batch], self._no_features()
        class_tokens, layers = self._forward(np.stack(pictures), stats)
        finite: npt.NDArray[np.bool_] = np.asarray(np.isfinite(class_tokens).all(axis=1))
        for layer in layers:
            finite &= np.isfinite(layer).all(axis=(1, 2))
        verdicts = iter(list(finite))
        images = [image if pixels is None or next(verdicts) else _not_finite(image) for image, pixels in batch]
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
        grid = self.backbone.info.grid
        shape = (0, grid[0] * grid[1], self.meta.channels)
        return np.empty((0, self.meta.class_channels), np.float32), [np.empty(shape, np.float16)] * len(
            self.meta.layers
        )


def _concatenate(parts: Sequence[Features]) -> Features:
    """Concatenate the features of several batches."""
    layers = [np.concatenate(layer) for layer in zip(*(part[1] for part in parts), strict=True)]
    return np.concatenate([part[0] for part in parts]), layers


def _not_finite(image: ShardImage) -> ShardImage:
    message = "The model gives infinite or NaN features for this image."
    return replace(image, error="FeatureError", message=message)
