"""From patch maps to pixel maps and to raw image scores (MuSc, section 3.3).

NaN in a patch map marks a patch that is not scored (`kept_patches`). Where a picture is made of a map it has the lowest
score of its image.
"""

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor

PIXELS_CHUNK = 2**24
"""Pixels held at a time."""


def fill_unscored(patch_maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Replace NaN, of patches that are not scored, by the lowest score of their image.

    Args:
        patch_maps: (N, ...) float32, one map for each of N images.

    Returns:
        The same shape; the argument itself where nothing is missing. A map of NaN alone stays as it is.
    """
    missing = np.isnan(patch_maps)
    if not missing.any():
        return patch_maps
    images = (len(patch_maps), *(1,) * (patch_maps.ndim - 1))
    lowest = np.where(missing, np.inf, patch_maps).reshape(len(patch_maps), -1).min(axis=1).reshape(images)
    return np.where(missing & np.isfinite(lowest), lowest, patch_maps).astype(np.float32)


def pixel_map(patch_maps: "Tensor", image_size: tuple[int, int]) -> "Tensor":
    """Upsample patch maps (N, h, w) to pixel maps (N, H, W) float32, bilinear with align_corners=True.

    Patches that are not scored (NaN) count with the lowest score of their image.
    """
    import torch  # here: a report fills maps, and needs no torch
    import torch.nn.functional as F

    maps = torch.from_numpy(fill_unscored(patch_maps.float().numpy()))
    return F.interpolate(maps[:, None], size=image_size, mode="bilinear", align_corners=True)[:, 0]


def pixel_rows(patch_map: npt.NDArray[np.float32], image_size: tuple[int, int], rows: range) -> npt.NDArray[np.float32]:
    """Upsample a patch map (h, w) to some rows (len(rows), W) of its pixel map (H, W), see `pixel_map`.

    All rows at once are equal to `pixel_map`; of fewer rows, values may differ from it by rounding.
    """
    import torch

    height, width = image_size
    maps = torch.from_numpy(np.array(patch_map, np.float32))[None]
    if len(rows) == height:
        whole: npt.NDArray[np.float32] = pixel_map(maps, image_size)[0].numpy()
        return whole
    h = patch_map.shape[0]
    place = np.array(rows) * ((h - 1) / (height - 1))
    above = np.minimum(place.astype(np.int64), max(h - 2, 0))
    first, last = int(above[0]), min(int(above[-1]) + 1, h - 1)
    filled = torch.from_numpy(fill_unscored(maps.numpy()))[:, first : last + 1]
    wide = pixel_map(filled, (last + 1 - first, width))[0].numpy()
    share = (place - above).astype(np.float32)[:, None]
    upper, lower = wide[above - first], wide[np.minimum(above + 1, h - 1) - first]
    found: npt.NDArray[np.float32] = upper * (1 - share) + lower * share
    return found


def image_scores(patch_maps: "Tensor", image_size: tuple[int, int]) -> "Tensor":
    """Compute `score_raw`: the maximum of each image's pixel map at the model's input size.

    Args:
        patch_maps: (N, h, w) float32.
        image_size: (H, W) of the model's input in pixels.

    Returns:
        (N,) float32.
    """
    import torch

    chunk = max(1, PIXELS_CHUNK // (image_size[0] * image_size[1]))
    return torch.cat([pixel_map(maps, image_size).amax(dim=(1, 2)) for maps in torch.split(patch_maps, chunk)])
