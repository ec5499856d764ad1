"""Stitch the maps of an image's crops into one patch map, without seams.

Blending is separable: along each axis one matrix takes the patches of all crops, side by side, to the points of the
stitched map. A point's value in a crop is interpolated linearly between the centres of its patches. Where crops
overlap their values are averaged with weights that fall to 0 at the crop's edge, so that the result is continuous.

The points of the stitched map lie as `pixel_map` expects them (align_corners): row i of H at i / (H - 1) of the image.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from musc_ray.core.crops import CropLayout, crop_side
from musc_ray.core.peaks import peak_patches

FloatArray = npt.NDArray[np.float32]

MIN_WEIGHT = 0.5
"""Points of which less than this share of the weight falls on scored patches are not scored."""


def stitch(maps: FloatArray, layout: CropLayout) -> FloatArray:
    """Stitch the maps of crops.

    Args:
        maps: (A, P, h, w) of A images, places row by row; NaN where a patch is not scored.
        layout: of the crops.

    Returns:
        (A, H, W) float32, H and W of `CropLayout.map_grid`; NaN where most of what a point would average is not scored.
    """
    images, _, h, w = maps.shape
    rows, columns = layout.rows, layout.columns
    beside = maps.reshape(images, rows, columns, h, w).transpose(0, 1, 3, 2, 4).reshape(images, rows * h, columns * w)
    height, width = layout.map_grid((h, w))
    down, across = blending(rows, h, layout.overlap, height), blending(columns, w, layout.overlap, width)
    return _blend(beside, down, across)


def resample(maps: FloatArray, size: tuple[int, int]) -> FloatArray:
    """Resample the maps (A, h, w) of whole images to the points (A, H, W) of a stitched map of a size (H, W)."""
    return _blend(maps, blending(1, maps.shape[1], 0.0, size[0]), blending(1, maps.shape[2], 0.0, size[1]))


def crop_patches(maps: FloatArray, layout: CropLayout, grid: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Find the crop and its patch under the peak of each stitched map.

    Args:
        maps: (A, H, W), see `stitch`.
        layout: of the crops.
        grid: (h, w) patches of a crop.

    Returns:
        (A, 2): place, from 1, of the crop whose middle is nearest, and the patch of it, row-major.
    """
    height, width = maps.shape[1:]
    flat = peak_patches(maps)
    row, down = _part_of(flat // width / max(1, height - 1), layout.rows, layout.overlap, grid[0])
    column, across = _part_of(flat % width / max(1, width - 1), layout.columns, layout.overlap, grid[1])
    return np.stack([1 + row * layout.columns + column, down * grid[1] + across], axis=1)


def _part_of(
    at: npt.NDArray[np.float64], parts: int, overlap: float, patches: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the crop along an axis whose middle is nearest to each place, and its patch there."""
    side = crop_side(parts, overlap)
    inside = (at[:, None] - np.arange(parts) * side * (1 - overlap)) / side
    part = np.abs(inside - 0.5).argmin(axis=1)
    patch = np.floor(np.take_along_axis(inside, part[:, None], axis=1)[:, 0] * patches)
    return part, np.clip(patch, 0, patches - 1).astype(np.int64)


def _blend(maps: FloatArray, down: npt.NDArray[np.float64], across: npt.NDArray[np.float64]) -> FloatArray:
    """Multiply maps (A, n, m) by matrices (H, n) and (W, m) from both sides; NaN takes no part."""
    missing = np.isnan(maps)
    if not missing.any():
        return (down @ maps.astype(np.float64) @ across.T).astype(np.float32)
    weights = down @ (~missing).astype(np.float64) @ across.T
    sums = down @ np.where(missing, 0.0, maps) @ across.T
    return np.where(weights >= MIN_WEIGHT, sums / np.maximum(weights, MIN_WEIGHT), np.nan).astype(np.float32)


@lru_cache(64)
def blending(parts: int, patches: int, overlap: float, points: int) -> npt.NDArray[np.float64]:
    """Return the matrix (points, parts * patches) from the patches of crops along an axis to points; rows sum to 1.

    Args:
        parts: crops along the axis.
        patches: of a crop along it.
        overlap: see `CropLayout`.
        points: of the result, from the image's first edge to its last.
    """
    side = crop_side(parts, overlap)
    at = np.linspace(0, 1, points) if points > 1 else np.array([0.5])
    matrix = np.zeros((points, parts * patches))
    for part in range(parts):
        inside = (at - part * side * (1 - overlap)) / side
        weight = _weights(inside, overlap, part > 0, part < parts - 1)
        place = np.clip(inside * patches - 0.5, 0, patches - 1)  # in patches, from the centre of the first
        before = np.minimum(place.astype(np.intp), max(0, patches - 2))
        share = place - before
        rows = np.arange(points)
        np.add.at(matrix, (rows, part * patches + before), weight * (1 - share))
        np.add.at(matrix, (rows, part * patches + np.minimum(before + 1, patches - 1)), weight * share)
    matrix /= matrix.sum(axis=1, keepdims=True)
    matrix.flags.writeable = False
    return matrix


def _weights(
    inside: npt.NDArray[np.float64], overlap: float, has_before: bool, has_after: bool
) -> npt.NDArray[np.float64]:
    """Return a crop's weight at places, 0..1 inside it: 0 outside, rising over the overlap with a neighbour."""
    tolerance, least = 1e-9, 1e-6  # not 0: two crops may meet in a point without an overlap
    weight = ((inside >= -tolerance) & (inside <= 1 + tolerance)).astype(np.float64)
    if overlap > tolerance:
        weight *= np.clip(inside / overlap, least, 1) if has_before else 1
        weight *= np.clip((1 - inside) / overlap, least, 1) if has_after else 1
    return weight
