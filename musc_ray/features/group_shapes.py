"""What of each group's images enters the model: found once from a sample of its images, then the same for all.

That is the image size where shapes are kept, and where images are cut the layout of the crops and their input size.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from statistics import median
from typing import Any

from musc_ray.backbones.shape import shaped_grid
from musc_ray.core.crops import CropInput, CropLayout, InputShape, fewest_crops, layout_of_size
from musc_ray.errors import ImageError, MuscRayError, SettingsError
from musc_ray.features.workspace import Workspace
from musc_ray.settings.limits import ImageLimits
from musc_ray.settings.model import Settings
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


def group_shapes(
    workspace: Workspace,
    listed: Mapping[str, Sequence[CatalogImage]],
    existing: Mapping[str, Mapping[int, FeaturesMeta]],
) -> dict[str, InputShape]:
    """Find what of each group's images enters the model: as stored, else as in its shards, else by a sample.

    What is found is stored beside the group's features: later runs on more images use the same.

    Args:
        workspace: the OUT; with `overwrite`, what is stored there is found again. Its square says how many patches.
        listed: images by group, in the order of their ids, which are hashes: the first ones are a random sample.
        existing: written shards by group and number; those without a readable image do not count.

    Returns:
        By group; the square, cut as the settings say, where no image of a sample can be read. Empty where the settings
        give all groups the same size and no crops.

    Raises:
        StorageError: the storage did not answer.
        SettingsError: a group needs more crops than there can be.
        MuscRayError: a stored shape is broken.
    """
    settings = workspace.settings
    if not settings.keeps_shape and settings.crop_rule is None:
        return {}
    find = partial(_group_shape, workspace)
    shards = (existing.get(name, {}).values() for name in listed)
    with ThreadPoolExecutor(MAX_GROUPS) as pool:
        return dict(zip(listed, pool.map(find, listed, listed.values(), shards), strict=True))


def _group_shape(
    workspace: Workspace, group: str, images: Sequence[CatalogImage], shards: Iterable[FeaturesMeta]
) -> InputShape:
    fs, path = workspace.out_paths.fs, workspace.out_paths.image_size(workspace.meta.features_id, group)
    stored = read_json(fs, path)
    if stored is not None and not workspace.settings.overwrite:
        return _parsed(stored, path, workspace.patch)
    if stored is not None:
        with_retries(lambda: fs.rm_file(path), f"remove {path}")
    extracted = Counter(meta.shape for meta in shards if meta.extracted)  # others say nothing of a shape
    if extracted and not workspace.settings.overwrite:
        shape = extracted.most_common(1)[0][0]
    else:
        found = sample_size(images, workspace.settings.image_limits)
        if found is None:
            return _shape_without_sample(workspace)
        shape = input_shape(workspace.settings, group, workspace.meta.image_size, workspace.patch, *found)
    if create(fs, path, json.dumps(_described(shape)).encode()):
        return shape
    return _parsed(read_json(fs, path) or {}, path, workspace.patch)  # another run was faster


def input_shape(settings: Settings, group: str, square: Size, patch: int, ratio: float, pixels: float) -> InputShape:
    """Return what enters the model of a group's images.

    Args:
        settings: say whether shapes are kept, and where images are cut.
        group: named in the error.
        square: (H, W) of the model's input where shapes are not kept; otherwise it says how many patches.
        patch: side of a patch in pixels of the model.
        ratio: height to width of the images.
        pixels: of an image.

    Raises:
        SettingsError: they need more crops than there can be.
    """
    rule = settings.crop_rule

    def input_size(of_ratio: float) -> Size:
        if not settings.keeps_shape:
            return square
        h, w = shaped_grid(of_ratio, square[0] // patch)
        return h * patch, w * patch

    height, width = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
    if rule is None:
        return InputShape(input_size(ratio))
    try:
        if rule.size is not None:
            layout = layout_of_size(height, width, rule.size, rule.overlap)
        else:
            layout = rule.layout or fewest_crops(height, width, rule.overlap, input_size, rule.scale)
    except ValueError as error:
        raise SettingsError(
            f"Setting 'crops' {settings.crops} cuts the images of group '{group}', of about {height:.0f} x "
            f"{width:.0f} pixels, into too many parts ({error}): use a larger size, or a larger image_size."
        ) from error
    if layout.count == 1:
        return InputShape(input_size(ratio))
    high, wide = layout.crop_size(height, width)
    return InputShape(input_size(ratio), CropInput(layout, input_size(high / wide)))


def _shape_without_sample(workspace: Workspace) -> InputShape:
    """Return the shape of a group without a readable image; it is not stored, so that images to come decide."""
    rule, size = workspace.settings.crop_rule, workspace.meta.image_size
    return InputShape(size) if rule is None or rule.layout is None else InputShape(size, CropInput(rule.layout, size))


def sample_size(images: Sequence[CatalogImage], limits: ImageLimits) -> tuple[float, float] | None:
    """Return the median ratio of height to width, and number of pixels, of a group's first images, upright.

    Both are medians of logarithms: as many tall images as wide ones of the same sides make a square. None if no image
    can be read.

    Raises:
        StorageError: the storage did not answer.
    """
    found = _logarithms(images[:FIRST_IMAGES], limits)
    ratios = [ratio for ratio, _ in found]
    if not ratios or max(ratios) - min(ratios) > math.log(SAME_RATIO):
        found += _logarithms(images[FIRST_IMAGES:SAMPLE_IMAGES], limits)
    if not found:
        return None
    ratio, pixels = (math.exp(median(values)) for values in zip(*found, strict=True))
    return ratio, pixels


def _logarithms(images: Sequence[CatalogImage], limits: ImageLimits) -> list[tuple[float, float]]:
    """Read logarithms of height to width and of pixels; what cannot be read is left out: extraction says why."""
    sizes = (header_size(image, limits) for image in images)
    return [(math.log(size[0] / size[1]), math.log(size[0] * size[1])) for size in sizes if size is not None]


def header_size(image: CatalogImage, limits: ImageLimits) -> Size | None:
    """Read the (H, W) of an image, upright, from its header; None if it cannot be read: extraction says why.

    Raises:
        StorageError: the storage did not answer.
    """
    from musc_ray.sources.decoding import upright_size  # here: a run that continues has its sizes

    try:
        return upright_size(read_image(image.uri, limits.bytes))
    except (ImageError, MemoryError, *PERMANENT):
        return None


def _described(shape: InputShape) -> dict[str, Any]:
    if shape.crops is None:
        return {"image_size": shape.whole}
    return {"image_size": shape.whole, "crops": {**asdict(shape.crops.layout), "image_size": shape.crops.size}}


def _parsed(content: Mapping[str, Any], path: str, patch: int) -> InputShape:
    try:
        whole = _checked_size(content["image_size"], patch)
        if "crops" not in content:
            return InputShape(whole)
        layout = dict(content["crops"])
        crop = _checked_size(layout.pop("image_size"), patch)
        return InputShape(whole, CropInput(CropLayout(**layout), crop))
    except (LookupError, TypeError, ValueError) as error:
        raise MuscRayError(f"{path} is not an image size ({error}): delete it and run again.") from error


def _checked_size(size: Any, patch: int) -> Size:
    height, width = size
    if any(type(side) is not int or side < patch or side % patch for side in (height, width)):
        raise ValueError(f"{height} x {width} is not whole patches of {patch}")
    return height, width
