"""From patch maps to pixel maps and to raw image scores (MuSc, section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor

PIXELS_CHUNK = 2**24
"""Pixels held at a time."""


def pixel_map(patch_maps: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Upsample patch maps (N, h, w) to pixel maps (N, H, W) float32, bilinear with align_corners=True."""
    return F.interpolate(patch_maps[:, None].float(), size=image_size, mode="bilinear", align_corners=True)[:, 0]


def image_scores(patch_maps: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Compute `score_raw`: the maximum of each image's pixel map at the model's input size.

    Args:
        patch_maps: (N, h, w) float32.
        image_size: (H, W) of the model's input in pixels.

    Returns:
        (N,) float32.
    """
    chunk = max(1, PIXELS_CHUNK // (image_size[0] * image_size[1]))
    return torch.cat([pixel_map(maps, image_size).amax(dim=(1, 2)) for maps in torch.split(patch_maps, chunk)])
