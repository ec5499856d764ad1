"""The image size of each group where shapes are kept: found once from a sample of its images, then the same for all."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median
from typing import Any

from musc_ray.backbones.shape import shaped_grid
from musc_ray.errors import ImageError, MuscRayError
from musc_ray.features.workspace import Workspace
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.images import CatalogImage
from musc_ray.sources.reading import read_image
from musc_ray.storage.conditional import create
from musc_ray.storage.filesystem import read_json
from musc_ray.storage.retry import PERMANENT, with_retries
from musc_ray.storage.shards import FeaturesMeta

Size = tuple[int, int]
"""Height and width in pixels."""

FIRST_IMAGES, SAMPLE_IMAGES = 8, 32
"""Images of a sample: the first ones alone decide where all have the same aspect ratio."""

SAME_RATIO = 1.01
"""Aspect ratios up to this factor apart count as the same."""

MAX_GROUPS = 8
"""Groups whose samples are read at the same time."""


def group_image_sizes(
    workspace: Workspace,
    listed: Mapping[str, Sequence[CatalogImage]],
    existing: Mapping[str, Mapping[int, FeaturesMeta]],
) -> dict[str, Size]:
    """Find the image size of each group: the stored one first, then that of its shards, then from a sample.

    What is found is stored beside the group's features: later runs on more images use the same.

    Args:
        workspace: the OUT; with `overwrite`, what is stored there is found again. Its square says how many patches.
        listed: images by group, in the order of their ids, which are hashes: the first ones are a random sample.
        existing: written shards by group and number; those without a readable image do not count.

    Returns:
        (H, W) by group, the square where no image of a sample can be read; empty where the settings give all groups
        the same.

    Raises:
        StorageError: the storage did not answer.
        MuscRayError: a stored size is broken.
    """
    if not workspace.settings.keeps_shape:
        return {}
    find = partial(_group_size, workspace)
    shards = (existing.get(name, {}).values() for name in listed)
    with ThreadPoolExecutor(MAX_GROUPS) as pool:
        return dict(zip(listed, pool.map(find, listed, listed.values(), shards), strict=True))


def _group_size(
    workspace: Workspace, group: str, images: Sequence[CatalogImage], shards: Iterable[FeaturesMeta]
) -> Size:
    fs, path = workspace.out_paths.fs, workspace.out_paths.image_size(workspace.meta.features_id, group)
    patch = workspace.meta.image_size[0] // workspace.meta.grid[0]
    stored = read_json(fs, path)
    if stored is not None and not workspace.settings.overwrite:
        return _parsed(stored, path, patch)
    if stored is not None:
        with_retries(lambda: fs.rm_file(path), f"remove {path}")
    extracted = Counter(meta.image_size for meta in shards if meta.extracted)  # others say nothing of a shape
    if extracted and not workspace.settings.overwrite:
        size = extracted.most_common(1)[0][0]
    else:
        ratio = sample_ratio(images, workspace.settings.image_limits)
        if ratio is None:
            return workspace.meta.image_size
        h, w = shaped_grid(ratio, workspace.meta.grid[0])
        size = h * patch, w * patch
    if create(fs, path, json.dumps({"image_size": size}).encode()):
        return size
    return _parsed(read_json(fs, path) or {}, path, patch)  # another run was faster


def sample_ratio(images: Sequence[CatalogImage], limits: ImageLimits) -> float | None:
    """Return the median ratio of height to width of a group's first images, upright; None if none can be read.

    The median is that of logarithms: as many tall images as wide ones of the same sides make a square.

    Raises:
        StorageError: the storage did not answer.
    """
    ratios = _ratios(images[:FIRST_IMAGES], limits)
    if not ratios or max(ratios) - min(ratios) > math.log(SAME_RATIO):
        ratios += _ratios(images[FIRST_IMAGES:SAMPLE_IMAGES], limits)
    return math.exp(median(ratios)) if ratios else None


def _ratios(images: Sequence[CatalogImage], limits: ImageLimits) -> list[float]:
    """Read logarithms of height to width; images that cannot be read are left out: extraction says why."""
    from musc_ray.sources.decoding import upright_size  # here: a run that continues has its sizes

    ratios = []
    for image in images:
        try:
            height, width = upright_size(read_image(image.uri, limits.bytes))
        except (ImageError, MemoryError, *PERMANENT):
            continue
        ratios.append(math.log(height / width))
    return ratios


def _parsed(content: Mapping[str, Any], path: str, patch: int) -> Size:
    try:
        height, width = content["image_size"]
        if any(type(side) is not int or side < patch or side % patch for side in (height, width)):
            raise ValueError(f"{height} x {width} is not whole patches of {patch}")
    except (LookupError, TypeError, ValueError) as error:
        raise MuscRayError(f"{path} is not an image size ({error}): delete it and run again.") from error
    return height, width
