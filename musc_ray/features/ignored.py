"""What is ignored in the images of each group: its masks, before any image is scored."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from musc_ray.errors import SettingsError
from musc_ray.features.group_shapes import header_size
from musc_ray.settings.model import Settings
from musc_ray.sources.ignore_masks import Flags, Size, open_ignore_masks
from musc_ray.sources.images import CatalogImage

SAME_RATIO = 1.1
"""Aspect ratios of a mask and of an image up to this factor apart fit."""

IMAGES_TRIED = 8
"""Images of a group that are opened until one can be read."""


@dataclass(frozen=True)
class GroupMasks:
    """The masks of a group.

    Attributes:
        every: (H, W) bool, the mask of all images, True where they are ignored; None where masks are by size.
        by_size: masks of images by height and width, where `every` is None.
    """

    every: Flags | None
    by_size: Mapping[Size, Flags]

    @cached_property
    def digest(self) -> str:
        """Return a hash of the masks' pixels."""
        content = hashlib.sha256()
        masks = {(0, 0): self.every} if self.every is not None else self.by_size
        for size, mask in sorted(masks.items()):
            content.update(f"{size} {mask.shape}".encode() + np.packbits(mask).tobytes())
        return content.hexdigest()[:16]


def group_masks(settings: Settings, listed: Mapping[str, Sequence[CatalogImage]]) -> dict[str, GroupMasks]:
    """Read the masks of each group; without those of groups that none is for.

    Args:
        settings: of the run: ignore and the limits of an image.
        listed: images by group.

    Raises:
        SettingsError: masks that are missing, unreadable, or of another shape than the images.
    """
    if settings.ignore is None:
        return {}
    masks = open_ignore_masks(settings.ignore, settings.image_limits)
    by_size, found = masks.by_size, dict[str, GroupMasks]()
    for name, images in listed.items():
        every = masks.of_group(name)
        if every is not None:
            _check_shape(settings, name, every.shape, images)
            found[name] = GroupMasks(every, {})
        elif by_size:
            found[name] = GroupMasks(None, by_size)
    if not found:
        raise SettingsError(
            f"The folder {settings.ignore} (setting ignore) holds no mask of any group or size: name masks "
            "GROUP.png or WIDTHxHEIGHT.png."
        )
    return found


def digests(masks: Mapping[str, GroupMasks]) -> dict[str, Mapping[str, object]]:
    """Return what of the masks is part of the run id: by group a hash of their pixels, wherever they lie."""
    return {"ignore": {name: of_group.digest for name, of_group in masks.items()}}


def fits(mask: tuple[int, ...], height: int, width: int) -> bool:
    """Tell whether a mask (H, W) has about the aspect ratio of an image."""
    ratio = mask[0] * width / (mask[1] * height)
    return 1 / SAME_RATIO <= ratio <= SAME_RATIO


def _check_shape(settings: Settings, group: str, mask: tuple[int, ...], images: Sequence[CatalogImage]) -> None:
    """Refuse a mask whose aspect ratio is not that of the group's first readable image.

    Raises:
        SettingsError: one sentence.
    """
    for size in (header_size(image, settings.image_limits) for image in images[:IMAGES_TRIED]):
        if size is None:
            continue
        height, width = size
        if not fits(mask, height, width):
            raise SettingsError(
                f"The mask of group '{group}' (setting ignore) has {mask[1]} x {mask[0]} pixels, an image of it "
                f"{width} x {height}: give a mask of the images' aspect ratio, in a folder one for each group or size."
            )
        return
