"""Fit a mask to its image: turned as the image is, and of the same aspect ratio; it is never stretched."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from musc_ray.evaluate.mask_pixels import turn
from musc_ray.settings.limits import MAX_PIXELS
from musc_ray.sources.decoding import TURNED, open_picture, upright_size
from musc_ray.sources.deep_files import ORIENTATION


@dataclass(frozen=True)
class ImageShape:
    """Size (H, W) of an image as it is scored and shown, and its orientation in EXIF, 1 to 8."""

    upright: tuple[int, int]
    orientation: int = 1

    @property
    def stored(self) -> tuple[int, int]:
        """Size (H, W) of the image as it is stored."""
        return self.upright[::-1] if self.orientation in TURNED else self.upright


def image_shape(data: bytes) -> ImageShape:
    """Read an image's size and orientation from its header alone.

    Raises:
        ImageError: not an image in a known format.
    """
    upright = upright_size(data)
    try:
        with open_picture(data, MAX_PIXELS) as picture:
            orientation = picture.getexif().get(ORIENTATION, 1)
    except Exception:  # noqa: BLE001 - EXIF of a kind that Pillow does not know
        orientation = 1
    return ImageShape(upright, orientation if orientation in range(1, 9) else 1)


def fit_mask(shades: npt.NDArray[np.uint8], image: ImageShape) -> npt.NDArray[np.uint8] | None:
    """Return a mask's shades (h, w) as they lie on the upright image; None if their aspect ratios differ.

    A mask that fits the upright image is taken as it is. One that fits only the image as it is stored was drawn by a
    tool that ignores EXIF, and is turned as the image is. Turning by 180 degrees and mirroring leave no such trace: the
    mask counts as upright.
    """
    if same_aspect(shades.shape, image.upright):
        return shades
    if same_aspect(shades.shape, image.stored):
        return turn(shades, image.orientation)
    return None


def fits_both(size: tuple[int, ...], image: ImageShape) -> bool:
    """Return whether the size (h, w) of a mask does not tell if it was drawn on the upright or on the stored image."""
    return same_aspect(size, image.upright) and same_aspect(size, image.stored)


def same_aspect(size: tuple[int, ...], other: tuple[int, int]) -> bool:
    """Return whether two sizes (H, W) have the same aspect ratio, but for rounding one side to a whole pixel."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(*size, *other)
