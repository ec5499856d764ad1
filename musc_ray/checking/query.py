"""Embed images that are to be checked as a run embedded those of their group, without writing anything."""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from musc_ray.backbones import Tokens, load_backbone
from musc_ray.checking.stored_group import StoredGroup
from musc_ray.checking.stored_model import arithmetic_of, range_of, weights_of
from musc_ray.features.embedding import Embedder
from musc_ray.features.extraction import ExtractStats
from musc_ray.features.layer_reader import LayerReader
from musc_ray.features.read_ahead import ReadAhead
from musc_ray.features.stored_tokens import Features, TokenStore
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.layer_columns import LayerTokens
from musc_ray.storage.shards import ShardImage


@dataclass(frozen=True)
class Query:
    """Images of a group after the model.

    Attributes:
        images: those that could be embedded.
        failed: the others, with their errors.
        whole: features of the whole images.
        crops: of their crops, one image after the other; None where they are not cut.
    """

    images: Sequence[ShardImage]
    failed: Sequence[ShardImage]
    whole: Features
    crops: Features | None

    @property
    def ids(self) -> list[str]:
        """Return the ids of the images."""
        return [image.image_id for image in self.images]

    def select(self, images: Sequence[int]) -> "Query":
        """Return some of the images, by their index."""
        chosen = np.zeros(len(self.images), np.bool_)
        chosen[list(images)] = True
        crops = self.crops
        if crops is not None:
            crops = crops.select(np.repeat(chosen, len(crops.class_tokens) // len(self.images)))
        return Query([self.images[image] for image in images], [], self.whole.select(chosen), crops)

    def tokens(self, reader: LayerReader, group: StoredGroup, layer: int, places: Sequence[int] = (0,)) -> Tensor:
        """Return the tokens (A * places, h*w, C) of a layer, as `LayerReader.read` returns those of a shard."""
        at = group.meta.layers.index(layer)
        if self.crops is None or tuple(places) == (0,):
            return reader.as_read(group.name, layer, self.whole.layers[at])
        count = group.meta.places - 1
        rows = np.add.outer(np.arange(len(self.images)) * count, np.array(places) - 1).ravel()
        return reader.as_read(group.name, layer, _rows(self.crops.layers[at], rows))


def _rows(stored: LayerTokens, rows: npt.NDArray[np.int64]) -> LayerTokens:
    scales = None if stored.scales is None else stored.scales[rows]
    return LayerTokens(stored.tokens[rows], scales, None if stored.norms is None else stored.norms[rows])


class Embeddings:
    """Embeds images of groups; keeps the model of the last one, which groups of a run have in common.

    Args:
        weights: path or URI of the weights, where they are not where the runs read them from.
        threads: CPU threads.
    """

    def __init__(self, weights: str | None, threads: int) -> None:
        self.weights, self.threads = weights, threads
        self._loaded: tuple[str, Embedder] | None = None

    def embed(self, group: StoredGroup, images: Sequence[CatalogImage], reader: LayerReader) -> Query:
        """Embed images of a group.

        Raises:
            MuscRayError: the weights are gone, or not those of the run.
            StorageError: the storage did not answer.
        """
        settings, meta = group.run.settings, group.meta
        reading = ReadAhead(settings.batch_size, settings.image_limits, self.threads)
        batches = reading.batches(images, meta.shape, range_of(group))  # decodes while the model is loaded
        embedder = self._embedder(group)
        compression = None if settings.compress == "none" else reader.compression_of(group.name)
        store = TokenStore(group.out_paths, meta, meta.dtype, embedder.backbone.device)

        def take(tokens: Tokens) -> Features:
            return store.features(tokens, group.name, compression)

        found = embedder.embed(batches, meta.shape, take, ExtractStats())
        good = [image for image in found.images if image.error is None]
        failed = [image for image in found.images if image.error is not None]
        if found.wholes is None:
            return Query(good, failed, found.features, None)
        return Query(good, failed, found.wholes, found.features)

    def _embedder(self, group: StoredGroup) -> Embedder:
        run, meta = group.run, group.meta
        arithmetic = arithmetic_of(run)
        key = json.dumps([meta.backbone, meta.weights_sha256, meta.layers, arithmetic.model_precision])
        if self._loaded is None or self._loaded[0] != key:
            backbone = load_backbone(
                run.settings.backbone,
                image_size=meta.shape.whole,
                layers=meta.layers,
                weights=weights_of(run, self.weights),
                device=arithmetic.device,
                precision=arithmetic.model_precision,
            )
            self._loaded = key, Embedder(backbone, run.settings.batch_size)
        return self._loaded[1]
