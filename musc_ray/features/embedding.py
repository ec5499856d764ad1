"""Run the model on pictures as they are decoded: images, or whole images and their crops at a size of their own."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from musc_ray.backbones import Tokens
from musc_ray.backbones.base import Backbone
from musc_ray.core.crops import InputShape, Size
from musc_ray.core.memory import is_out_of_memory
from musc_ray.features.extraction import ExtractStats
from musc_ray.features.read_ahead import DecodedImage
from musc_ray.features.stored_tokens import Features, concatenate
from musc_ray.storage.shards import ShardImage

Take = Callable[[Tokens], Any]
"""What is done with the tokens of a batch, or of a part of one."""

Pictures = npt.NDArray[np.uint8]


class Embedded(NamedTuple):
    """A shard's images after the model.

    Attributes:
        images: what became of each.
        features: of those that have any; where they are cut, of their crops, one image after the other.
        wholes: of whole images beside their crops; None without crops.
    """

    images: list[ShardImage]
    features: Features
    wholes: Features | None = None


class Embedder:
    """The model with a size of batches.

    Args:
        backbone: the model.
        batch_size: pictures that go through it at once.
    """

    def __init__(self, backbone: Backbone, batch_size: int) -> None:
        self.backbone, self.batch_size = backbone, batch_size

    def embed(
        self, batches: Iterator[list[DecodedImage]], shape: InputShape, take: Take, stats: ExtractStats
    ) -> Embedded:
        """Embed the images of a shard; one with infinite or NaN features, in any of its crops, fails alone.

        Args:
            batches: images as they are decoded.
            shape: what of them enters the model.
            take: makes `Features` of tokens.
            stats: gets the seconds, and batches that were halved.
        """
        timed = _timed(batches, stats)
        if shape.crops is not None:
            return self._embed_cut(timed, shape.whole, shape.crops.size, take, stats)
        self.backbone.resize(shape.whole)
        images: list[ShardImage] = []
        parts: list[Features] = []
        for batch in timed:
            pictures = [found.whole for _, found in batch if found is not None]
            features = self._features(pictures, take, stats)
            verdicts = zip(features.finite, features.outside, strict=True)
            images += [image if found is None else judged(image, *next(verdicts)) for image, found in batch]
            parts.append(features.select(features.finite))
        return Embedded(images, concatenate(parts))

    def _embed_cut(
        self, batches: Iterator[list[DecodedImage]], whole: Size, crop: Size, take: Take, stats: ExtractStats
    ) -> Embedded:
        """Embed crops in full batches as they come, then the whole images; the model changes its size twice a shard."""
        read: list[DecodedImage] = []
        wholes: list[Pictures] = []

        def crops() -> Iterator[Pictures]:
            for batch in batches:
                for image, found in batch:
                    read.append(DecodedImage(image, found and found._replace(crops=None)))
                    if found is not None and found.crops is not None:
                        wholes.append(found.whole)
                        yield from found.crops

        self.backbone.resize(crop)
        parts = [self._features(chunk, take, stats) for chunk in batched(crops(), self.batch_size)]
        of_crops = concatenate(parts or [self._features([], take, stats)])
        started = time.perf_counter()
        self.backbone.resize(whole)
        parts = [self._features(chunk, take, stats) for chunk in batched(wholes, self.batch_size)]
        of_wholes = concatenate(parts or [self._features([], take, stats)])
        stats.seconds_in_model += time.perf_counter() - started
        rows = len(of_crops.finite) // max(1, len(wholes))
        finite = of_wholes.finite & of_crops.finite.reshape(len(wholes), rows).all(axis=1)
        outside = of_crops.outside.reshape(len(wholes), rows, of_crops.outside.shape[1]).sum(axis=1)
        verdicts = zip(finite, (outside + of_wholes.outside) / (rows + 1), strict=True)
        images = [image if found is None else judged(image, *next(verdicts)) for image, found in read]
        return Embedded(images, of_crops.select(np.repeat(finite, rows)), of_wholes.select(finite))

    def _features(self, pictures: Sequence[Pictures], take: Take, stats: ExtractStats) -> Features:
        if not pictures:
            features: Features = take(self._no_tokens())
            return features
        return concatenate(self.forward(np.stack(pictures), stats, take))

    def forward(self, pictures: Pictures, stats: ExtractStats, take: Take) -> list[Any]:
        """Run the model on (A, H, W, 3) pictures; a batch that does not fit in memory is halved until it does.

        Returns:
            What `take` makes of the tokens, for each part of the batch.
        """
        try:
            return [take(self.backbone.forward(torch.from_numpy(pictures)))]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error) or len(pictures) == 1:
                raise
        if self.backbone.device.type == "cuda":
            torch.cuda.empty_cache()
        stats.halved_batches += 1
        return [part for half in np.array_split(pictures, 2) for part in self.forward(half, stats, take)]

    def _no_tokens(self) -> Tokens:
        info, device = self.backbone.info, self.backbone.device
        layer = torch.empty(0, info.grid[0] * info.grid[1], info.channels, device=device)
        return Tokens([layer] * len(info.layers), torch.empty(0, info.class_channels, device=device))


def batched(pictures: Iterable[Pictures], size: int) -> Iterator[list[Pictures]]:
    """Yield lists of `size` pictures, and the rest."""
    batch: list[Pictures] = []
    for picture in pictures:
        batch.append(picture)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def judged(image: ShardImage, finite: np.bool_, outside: npt.NDArray[np.float32]) -> ShardImage:
    """Add to an image what its features say of it."""
    if not finite:
        message = "The model gives infinite or NaN features for this image."
        return replace(image, error="FeatureError", message=message)
    return replace(image, outside=tuple(round(float(share), 6) for share in outside))


def _timed(batches: Iterator[list[DecodedImage]], stats: ExtractStats) -> Iterator[list[DecodedImage]]:
    """Add the seconds in which the model waits for a batch, and those in which it has one."""
    asked = time.perf_counter()
    for batch in batches:
        started = time.perf_counter()
        stats.seconds_waiting_for_images += started - asked
        yield batch
        asked = time.perf_counter()
        stats.seconds_in_model += asked - started
