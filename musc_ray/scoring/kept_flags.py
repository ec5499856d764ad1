"""Flags of kept patches as driver and workers exchange them, without torch."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from musc_ray.core.kept_patches import Flags, kept_of_mask
from musc_ray.scoring.ring import RingShard
from musc_ray.storage.group_foreground import ForegroundDirection
from musc_ray.storage.kept_table import KeptFlags
from musc_ray.storage.shards import FeaturesMeta


@dataclass(frozen=True)
class MaskedPatches:
    """What a mask of a shape (H, W) leaves of an image's patches."""

    shape: tuple[int, ...]
    kept: KeptFlags


@dataclass(frozen=True)
class KeptTask:
    """Write the flags of a shard.

    Attributes:
        masks: by height and width of images; of all images with None.
        foreground: of the group; None keeps all patches.
    """

    group: str
    shard: RingShard
    masks: Mapping[tuple[int, int] | None, MaskedPatches]
    foreground: ForegroundDirection | None


@dataclass(frozen=True)
class ShardKept:
    """What is kept of a shard: used places, numbers of patches, and of images that `GroupKept` counts."""

    used: KeptFlags
    kept: int
    patches: int
    unmasked: int
    stretched: int
    lost: int


def kept_by(mask: Flags, meta: FeaturesMeta) -> KeptFlags:
    """Tell which patches of an image and of its crops a mask (H, W) leaves."""
    return kept_of_mask(mask, meta.grid_of((0,))), crops_of(mask, meta)


def crops_of(mask: Flags, meta: FeaturesMeta) -> Flags:
    """Tell which patches of an image's crops a mask of the whole image leaves, (P * L,)."""
    spans = [] if meta.crops is None else meta.crops.spans
    parts = [kept_of_mask(mask, meta.grid, span) for span in spans]
    return np.concatenate(parts) if parts else np.ones(0, np.bool_)
