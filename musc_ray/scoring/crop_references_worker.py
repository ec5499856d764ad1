"""Look at a sample of a group on a scoring worker: do crops find their nearest patches at their own place?"""

import torch

from musc_ray.core.crop_reference_limits import SAMPLE_IMAGES, SAMPLE_PLACES
from musc_ray.core.crop_references import crop_figures
from musc_ray.core.operands.base import PreparedShard
from musc_ray.core.rscon import salient_layer
from musc_ray.core.tile_product import multiply_tile
from musc_ray.scoring.matching_worker import sample_of
from musc_ray.scoring.patch_sets import PatchSet, spread
from musc_ray.scoring.ring import GroupImages
from musc_ray.scoring.shard_cache import ShardCache
from musc_ray.storage.group_crop_references import GroupCropReferences


def sample_crop_references(images: GroupImages, cache: ShardCache, layers: tuple[int, ...]) -> GroupCropReferences:
    """Choose which crops meet by a seeded sample of a group's images, in one layer.

    Patches of some crops of each image look for their nearest in all crops of each other one. Both distances, to the
    nearest anywhere and at the same place, are minima of the same products, so that they compare in any arithmetic.

    Args:
        images: of the group, with a set of all crops.
        cache: reads and prepares images.
        layers: of the run.
    """
    settings, layer, (_, crops) = cache.settings, salient_layer(layers), images.sets
    at = spread(len(crops.places), SAMPLE_PLACES)
    looking, own = PatchSet(crops.number, tuple(crops.places[n] for n in at), crops.grid), torch.tensor(at)
    dtype = cache.product_dtype(images.group, images.images)

    def prepared(sampled: tuple[int, str], patch_set: PatchSet) -> PreparedShard:
        """Prepare the crops of an image, each by itself: which of them is the nearest is the question."""
        number, image_id = sampled
        shard = cache.prepare((images.group, layer), {number: [image_id]}, patch_set, dtype, None)
        shard.places = 1
        return shard

    sample = [(number, image_id) for number, ids in sample_of(images, settings.seed, SAMPLE_IMAGES) for image_id in ids]
    queries = [prepared(sampled, looking) for sampled in sample]
    shape = settings.vectors, len(sample), looking.patches, len(sample)
    everywhere, same = torch.full(shape, torch.inf), torch.full(shape, torch.inf)
    for j, sampled in enumerate(sample):
        references = prepared(sampled, crops)
        for i, query in enumerate(queries):
            if i != j:
                distances, _ = multiply_tile(query, references)  # (D, looking, L, crops)
                everywhere[:, i, :, j] = distances.amin(dim=3).flatten(1)
                at_own = own[:, None, None].expand(-1, distances.shape[2], 1)
                same[:, i, :, j] = distances.gather(3, at_own.expand(len(distances), -1, -1, -1)).flatten(1)
    figures = crop_figures(everywhere, same, settings.interval)
    return GroupCropReferences(
        meeting="same" if figures.same_suffices else "all",
        reason=figures.said,
        images=len(sample),
        found=figures.found,
        agrees=figures.agrees,
    )
