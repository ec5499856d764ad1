"""The sample that a group's basis is found from: images, and of cut ones the whole and some of the crops."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch

from musc_ray.backbones import Tokens
from musc_ray.core.compression import Energies
from musc_ray.core.compression_limits import SAMPLE_IMAGES
from musc_ray.core.crops import InputShape, Size
from musc_ray.features.embedding import Embedder, Pictures, batched
from musc_ray.features.extraction import ExtractStats
from musc_ray.features.read_ahead import DecodedImage

MAX_CANDIDATES = 2 * SAMPLE_IMAGES
"""Listed images of a group that are tried until its sample is complete."""

SAMPLE_ROWS = 2 * SAMPLE_IMAGES
MIN_CUT_IMAGES = 32
"""Inputs of the model in a sample of cut images, and of how many images they are at least: large ones take long to
decode, and crops of one image differ less than images do."""


def sample_size(shape: InputShape) -> tuple[int, int]:
    """Return the images of a sample, and how many crops of each are part of it."""
    if shape.crops is None:
        return SAMPLE_IMAGES, 0
    images = min(SAMPLE_IMAGES, max(MIN_CUT_IMAGES, SAMPLE_ROWS // shape.places))
    return images, min(shape.places - 1, SAMPLE_ROWS // images - 1)


def sample_energies(
    embedder: Embedder, batches: Iterator[list[DecodedImage]], shape: InputShape
) -> tuple[list[Energies], int]:
    """Sum up the energies of a sample by layer; returns the number of its images, too.

    Args:
        embedder: the model.
        batches: images as they are decoded, more than the sample needs.
        shape: what of them enters the model.
    """
    sums: list[Energies] = []

    def add(pictures: Sequence[Pictures]) -> int:
        images = 0
        for found, of_layers in embedder.forward(np.stack(pictures), ExtractStats(), _energies):
            images += found
            if not sums:
                sums.extend(of_layers)
                continue
            for total, more in zip(sums, of_layers, strict=True):
                total.merge(more)
        return images

    if shape.crops is not None:
        return sums, _add_cut(embedder, batches, shape, shape.crops.size, add)
    embedder.backbone.resize(shape.whole)
    images = 0
    for batch in batches:
        pictures = [found.whole for _, found in batch if found is not None][: SAMPLE_IMAGES - images]
        images += add(pictures) if pictures else 0
        if images == SAMPLE_IMAGES:
            break
    return sums, images


def _add_cut(
    embedder: Embedder,
    batches: Iterator[list[DecodedImage]],
    shape: InputShape,
    crop: Size,
    add: Callable[[Sequence[Pictures]], int],
) -> int:
    """Add some crops of each image, other places of each, and then the whole images; returns their number."""
    limit, of_each = sample_size(shape)
    wholes: list[Pictures] = []

    def chosen() -> Iterator[Pictures]:
        for batch in batches:
            for _, found in batch:
                if found is None or found.crops is None:
                    continue
                first = len(wholes) * of_each
                wholes.append(found.whole)
                yield from (found.crops[(first + number) % len(found.crops)] for number in range(of_each))
                if len(wholes) == limit:
                    return

    embedder.backbone.resize(crop)
    for chunk in batched(chosen(), embedder.batch_size):
        add(chunk)
    embedder.backbone.resize(shape.whole)
    return sum(add(chunk) for chunk in batched(wholes, embedder.batch_size))


def _energies(tokens: Tokens) -> tuple[int, list[Energies]]:
    """Sum up the energies of the images whose tokens are finite; returns their number, too."""
    finite = torch.stack([layer.isfinite().all(dim=(1, 2)) for layer in tokens.layers]).all(dim=0)
    found = []
    for layer in tokens.layers:
        found.append(Energies(layer.shape[2], layer.device))
        found[-1].add(layer[finite])
    return int(finite.sum()), found
