"""Find where patch maps are largest, in pixels of the original images."""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Size = tuple[int | None, int | None]
"""(H, W) in pixels; None where unknown."""


def peak_patches(patch_maps: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Find the highest patch (N,) of each map (N, h, w), row-major, the first of equals; NaN is not scored."""
    flat = np.where(np.isnan(patch_maps), -np.inf, patch_maps).reshape(len(patch_maps), -1)
    found: npt.NDArray[np.int64] = flat.argmax(axis=1)
    return found


def peak_pixels(
    patch_maps: npt.NDArray[np.float32], sizes: Sequence[Size]
) -> Iterable[tuple[int, int] | tuple[None, None]]:
    """Yield the pixel (y, x) where each patch map is largest; (None, None) if its image's size or peak is unknown.

    The maximum of the bilinear pixel map is at a patch. With aligned corners row i of h lies at
    i * (height - 1) / (h - 1), and likewise in a row; a single row or column lies in the middle.

    Args:
        patch_maps: (N, h, w); NaN where a patch is not scored.
        sizes: of the N images.
    """
    h, w = patch_maps.shape[1:]
    for at, patch_map, (height, width) in zip(peak_patches(patch_maps).tolist(), patch_maps, sizes, strict=True):
        if height is None or width is None or np.isnan(patch_map.flat[at]):
            yield None, None
        else:
            yield _pixel(at // w, h, height), _pixel(at % w, w, width)


def _pixel(patch: int, patches: int, pixels: int) -> int:
    """Return the pixel under a patch's middle, along one side."""
    return round(patch * (pixels - 1) / (patches - 1)) if patches > 1 else (pixels - 1) // 2
