"""Look at a sample of a group on a scoring worker: may its patches be matched near their own place alone?"""

import hashlib
from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from musc_ray.core.crop_reference_limits import SAMPLE_PLACES
from musc_ray.core.matching import choose_matching, radii_to_try
from musc_ray.core.matching_limits import SAMPLE_IMAGES
from musc_ray.core.rscon import salient_layer
from musc_ray.core.tile_product import multiply_tile
from musc_ray.scoring.patch_sets import PatchSet, spread
from musc_ray.scoring.ring import GroupImages
from musc_ray.scoring.shard_cache import ShardCache
from musc_ray.storage.group_matching import GroupMatching


def sample_matching(images: GroupImages, cache: ShardCache, layers: tuple[int, ...]) -> GroupMatching:
    """Choose the matching of a group by a seeded sample of its images, in one layer, in float32.

    Of images that are cut, crops say it, where a displacement is more patches than in the whole image.

    Args:
        images: of the group.
        cache: reads and prepares images.
        layers: of the run.
    """
    settings, layer = cache.settings, salient_layer(layers)

    def distances(radius: int | None) -> Tensor:
        """Compute distances (D, S, L, S) among the sample's images, L of all sampled sets."""
        return torch.cat([of_set(patch_set, radius) for patch_set in sampled], dim=2)

    def of_set(patch_set: PatchSet, radius: int | None) -> Tensor:
        """Compute distances (D, S, L, S) of one set."""
        shards = [
            cache.prepare((images.group, layer), {number: ids}, patch_set, torch.float32, radius)
            for number, ids in sample
        ]
        starts = [sum(shard.images for shard in shards[:index]) for index in range(len(shards) + 1)]
        found = torch.empty(settings.vectors, starts[-1], patch_set.patches, starts[-1])
        slices = [slice(*ends) for ends in pairwise(starts)]
        for index, a in enumerate(shards):
            for other, b in list(enumerate(shards))[index:]:
                rows, columns = slices[index], slices[other]
                multiply_tile(a, b, out=(found[:, rows, :, columns], found[:, columns, :, rows]))
        return found

    crops = images.sets[1:]
    sampled = [crops[at] for at in spread(len(crops), SAMPLE_PLACES)] if crops else images.sets[:1]
    sample = list(sample_of(images, settings.seed, SAMPLE_IMAGES))
    radii = radii_to_try(sampled[0].grid, settings.radius)
    choice = choose_matching(distances, settings.interval, radii)
    return GroupMatching.of(choice, images=sum(len(ids) for _, ids in sample))


def sample_of(images: GroupImages, seed: int, count: int) -> Iterator[tuple[int, list[str]]]:
    """Yield shards and ids of their images, `count` in all: few shards in a seeded order, random images each."""
    left = count
    for shard in sorted(images.ring, key=lambda shard: _seeded(seed, str(shard.number))):
        ids = sorted(sorted(shard.ids, key=lambda image_id: _seeded(seed, image_id))[:left])
        if ids:
            yield shard.number, ids
        left -= len(ids)


def _seeded(seed: int, name: str) -> str:
    return hashlib.sha256(f"{seed}-{name}".encode()).hexdigest()
