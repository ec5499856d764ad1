"""Stage 2, catalog -> features: actors read, decode and embed the images of a shard and write it themselves."""

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import fsspec
import numpy as np
import numpy.typing as npt
import ray
import torch

from musc_ray.backbones import BackboneInfo, load_backbone
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.weights import fetch_weights
from musc_ray.config import Settings
from musc_ray.images import ImageError, decode_image
from musc_ray.stages.catalog import CatalogImage
from musc_ray.stages.cluster import ActorPlan, plan_actors, run_on_actors, use_threads
from musc_ray.storage.features import FeaturesMeta, ShardImage, write_shard
from musc_ray.storage.layout import Layout

BATCHES_AHEAD = 2
"""Batches decoded ahead of the model: enough to keep it busy, little enough to bound memory."""


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


class Extractor:
    """An actor: one copy of the model; extracts a shard per call."""

    def __init__(self, settings: Settings, out: str, meta: FeaturesMeta, plan: ActorPlan) -> None:
        use_threads(plan.threads)
        weights = fetch_weights(resolve_backbone(settings.backbone), settings.weights)
        self.backbone = load_backbone(
            settings.backbone,
            image_size=meta.image_size,
            layers=meta.layers,
            weights=weights,
            device=plan.device,
            precision=model_precision(settings, plan.device),
        )
        self.settings, self.meta, self.plan = settings, meta, plan
        self.layout = Layout.at(out)
        self.readers = ThreadPoolExecutor(max(2, plan.threads))

    def extract(self, task: ShardTask) -> ExtractStats:
        """Extract and write one shard; images that cannot be read become `failed` entries."""
        stats = ExtractStats(shards=1, images=len(task.images))
        grid = self.meta.grid
        layers = [
            np.empty((len(task.images), grid[0] * grid[1], self.meta.channels), np.float16) for _ in self.meta.layers
        ]
        class_tokens = np.empty((len(task.images), self.meta.class_channels), np.float32)
        outcome: list[ShardImage] = []
        row = 0
        for batch in self._batches(task.images, stats):
            outcome += [image for image, _ in batch]
            pictures = [picture for _, picture in batch if picture is not None]
            if not pictures:
                continue
            started = time.perf_counter()
            tokens = self.backbone.forward(torch.from_numpy(np.stack(pictures)))
            for target, source in zip(layers, tokens.layers, strict=True):
                target[row : row + len(pictures)] = source.half().cpu().numpy()
            class_tokens[row : row + len(pictures)] = tokens.class_tokens.float().cpu().numpy()
            row += len(pictures)
            stats.seconds_in_model += time.perf_counter() - started
        started = time.perf_counter()
        meta = replace(self.meta, images=outcome)
        path = self.layout.shard(meta.features_id, task.group, task.shard)
        stats.bytes_written = write_shard(
            self.layout.fs, path, meta, class_tokens[:row], [tokens[:row] for tokens in layers]
        )
        stats.seconds_writing = time.perf_counter() - started
        stats.failed = [(task.group, image) for image in outcome if image.error is not None]
        return stats

    def _batches(
        self, images: Sequence[CatalogImage], stats: ExtractStats
    ) -> Iterator[list[tuple[ShardImage, npt.NDArray[np.uint8] | None]]]:
        """Read and decode ahead of the model, in order."""
        size = self.settings.batch_size
        ahead = size * (BATCHES_AHEAD + 1)
        pending = [self.readers.submit(self._read, image) for image in images[:ahead]]
        for start in range(0, len(images), size):
            started = time.perf_counter()
            batch = [pending.pop(0).result() for _ in images[start : start + size]]
            stats.seconds_waiting_for_images += time.perf_counter() - started
            pending += [
                self.readers.submit(self._read, image) for image in images[start + ahead : start + ahead + size]
            ]
            yield batch

    def _read(self, image: CatalogImage) -> tuple[ShardImage, npt.NDArray[np.uint8] | None]:
        """Read and decode one image; what is wrong with it is data, not an exception."""
        done = ShardImage(image.image_id, image.uri, image.version)
        try:
            with fsspec.open(image.uri, "rb") as file:
                data = file.read()
            return done, decode_image(data, self.meta.image_size, max_pixels=self.settings.max_pixels)
        except (ImageError, OSError) as error:
            return replace(done, error=type(error).__name__, message=str(error)), None


def model_precision(settings: Settings, device: str) -> str:
    """The model's autocast type: `auto` is float16 on a GPU and float32 on a CPU."""
    if settings.model_precision != "auto":
        return settings.model_precision
    return "float16" if device == "cuda" else "float32"


def extract(
    settings: Settings, layout: Layout, meta: FeaturesMeta, tasks: Sequence[ShardTask]
) -> Iterator[ExtractStats]:
    """Extract shards on a pool of actors; yields each shard's figures as soon as it is written."""
    if not tasks:
        return
    plan = plan_actors(settings, len(tasks))
    actor_class = ray.remote(Extractor).options(**plan.options())
    actors = [actor_class.remote(settings, layout.uri(layout.root), meta, plan) for _ in range(plan.actors)]
    for _, reference in run_on_actors(actors, tasks, lambda actor, task: actor.extract.remote(task)):
        yield ray.get(reference)
    for actor in actors:
        ray.kill(actor)
