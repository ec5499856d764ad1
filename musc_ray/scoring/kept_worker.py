"""Which patches are kept, on a scoring worker: a sample that shows the foreground, and the flags of each shard."""

import numpy as np
import torch

from musc_ray.core.foreground import Foreground, find_foreground
from musc_ray.core.foreground_limits import SAMPLE_IMAGES
from musc_ray.core.rscon import salient_layer
from musc_ray.errors import MuscRayError
from musc_ray.features.ignored import fits
from musc_ray.features.layer_reader import LayerReader
from musc_ray.scoring.kept_flags import KeptTask, ShardKept, crops_of
from musc_ray.scoring.matching_worker import sample_of
from musc_ray.scoring.ring import GroupImages
from musc_ray.settings.model import Settings
from musc_ray.storage.group_foreground import ForegroundDirection, GroupForeground
from musc_ray.storage.kept_table import KeptFlags, kept_path, write_kept
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.shards import FeaturesMeta, read_meta


def sample_foreground(
    images: GroupImages, reader: LayerReader, settings: Settings, layers: tuple[int, ...]
) -> GroupForeground:
    """Find by a seeded sample of a group's images how its part is told from the background, if it has any."""
    layer, out = salient_layer(layers), reader.out_paths
    samples, count = [], 0
    for number, ids in sample_of(images, settings.seed, SAMPLE_IMAGES):
        samples.append(reader.read(images.group, out.shard(reader.features_id, images.group, number), layer, ids))
        count += len(ids)
    foreground, figures = find_foreground(samples, images.grid, reader.is_compressed(images.group))
    answer = GroupForeground(
        reason=figures.objection or f"a part fills {figures.foreground:.0%} of the images before a plain background",
        images=count,
        separation=round(figures.separation, 4),
        border=round(figures.border, 4),
        centre=round(figures.centre, 4),
        unclear=round(figures.unclear, 4),
        share=round(figures.foreground, 4),
    )
    if figures.objection is not None:
        return answer
    found = ForegroundDirection(
        layer=layer,
        mean=tuple(foreground.mean.tolist()),
        direction=tuple(foreground.direction.tolist()),
        threshold=foreground.threshold,
        usual=tuple(foreground.usual.tolist()),
        share=foreground.share,
    )
    return answer.model_copy(update={"found": found})


def write_shard_kept(run_paths: RunPaths, reader: LayerReader, task: KeptTask) -> ShardKept:
    """Write which patches of a shard's images are kept.

    Raises:
        MuscRayError: a mask leaves nothing of an image.
    """
    kept, found = stored_flags(reader, task)
    write_kept(run_paths.fs, kept_path(run_paths, task.group, task.shard.number), kept)
    return found


def stored_flags(reader: LayerReader, task: KeptTask) -> tuple[dict[str, KeptFlags], ShardKept]:
    """Find which patches of a shard's images are kept, by image id.

    Raises:
        MuscRayError: a mask leaves nothing of an image.
    """
    path = reader.out_paths.shard(reader.features_id, task.group, task.shard.number)
    meta, tokens = read_meta(reader.out_paths.fs, path), None
    if task.foreground is not None:
        tokens = reader.read(task.group, path, task.foreground.layer, task.shard.ids)
    return flags_of(task, meta, tokens, reader.is_compressed(task.group))


def flags_of(
    task: KeptTask, meta: FeaturesMeta, tokens: torch.Tensor | None, compressed: bool
) -> tuple[dict[str, KeptFlags], ShardKept]:
    """Tell which patches of some images are kept, by image id.

    Args:
        task: the images.
        meta: of their features, with their sizes.
        tokens: (A, h*w, C) of the foreground's layer, of the whole images; None without a foreground.
        compressed: whether tokens are compressed ones.

    Raises:
        MuscRayError: a mask leaves nothing of an image.
    """
    sizes = {image.image_id: (image.height, image.width) for image in meta.extracted}
    lengths = _lengths(meta)
    parts, lost = _parts(task, meta, tokens, compressed)
    kept: dict[str, KeptFlags] = {}
    unmasked = stretched = 0
    for row, image_id in enumerate(task.shard.ids):
        height, width = sizes[image_id]
        size = None if height is None or width is None else (height, width)
        mask = task.masks.get(None) or task.masks.get(size)
        flags = mask.kept if mask else (np.ones(lengths[0], np.bool_), np.ones(lengths[1], np.bool_))
        unmasked += bool(task.masks) and mask is None
        stretched += mask is not None and size is not None and not fits(mask.shape, *size)
        if not flags[0].any():
            raise MuscRayError("its mask (setting ignore) covers at least half of every patch: ignore less")
        if parts is not None and (flags[0] & parts[row][0]).any():
            flags = flags[0] & parts[row][0], flags[1] & parts[row][1]
        kept[image_id] = flags
    both = [np.stack([flags[side] for flags in kept.values()]) for side in (0, 1)]
    used = np.asarray(both[0].any(axis=0)), np.asarray(both[1].any(axis=0))
    counts = int(sum(side.sum() for side in both)), sum(side.size for side in both)
    return kept, ShardKept(used, *counts, unmasked, stretched, int(lost))


def _parts(
    task: KeptTask, meta: FeaturesMeta, tokens: torch.Tensor | None, compressed: bool
) -> tuple[list[KeptFlags] | None, int]:
    """Return the patches of the part in each image, and in how many it was not found; None without a foreground."""
    if task.foreground is None or tokens is None:
        return None, 0
    found, grid = task.foreground, meta.grid_of((0,))
    foreground = Foreground(
        torch.tensor(found.mean), torch.tensor(found.direction), found.threshold, np.array(found.usual), found.share
    )
    flags, lost = foreground.kept(tokens, grid, compressed)
    return [(row, crops_of(~row.reshape(grid), meta)) for row in flags], int(lost.sum())


def _lengths(meta: FeaturesMeta) -> tuple[int, int]:
    h, w = meta.grid_of((0,))
    return h * w, (meta.places - 1) * meta.grid[0] * meta.grid[1]
