"""Fit a mask to its image: turned as the image is, and of the same aspect ratio; it is never stretched."""

import io
import warnings
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.TiffImagePlugin import IMAGELENGTH, IMAGEWIDTH, TiffImageFile

from musc_ray.errors import ImageError
from musc_ray.evaluate.mask_pixels import ORIENTATION
from musc_ray.sources.decoding import FORMATS

TURNED = range(5, 9)
"""Orientations that exchange height and width."""


@dataclass(frozen=True)
class ImageShape:
    """Size (H, W) of an image as it is stored, and its orientation in EXIF, 1 to 8."""

    stored: tuple[int, int]
    orientation: int = 1

    @property
    def upright(self) -> tuple[int, int]:
        """Size (H, W) of the image as it is scored and shown."""
        return self.stored[::-1] if self.orientation in TURNED else self.stored


def image_shape(data: bytes) -> ImageShape:
    """Read an image's size and orientation from its header alone.

    Raises:
        ImageError: not an image in a known format.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                orientation = picture.getexif().get(ORIENTATION, 1)
                if isinstance(picture, TiffImageFile):  # Pillow reports the size upright, and turns it in load()
                    stored = (picture.tag_v2[IMAGELENGTH], picture.tag_v2[IMAGEWIDTH])
                else:
                    stored = picture.size[::-1]
                return ImageShape(stored, orientation if orientation in range(1, 9) else 1)
    except Exception as error:  # as in read_mask
        raise ImageError("The file is not an image in a known format.") from error


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


def turn(shades: npt.NDArray[np.uint8], orientation: int) -> npt.NDArray[np.uint8]:
    """Turn stored pixels (H, W) upright, as `PIL.ImageOps.exif_transpose` does."""
    if orientation in TURNED:
        shades = shades.T
    if orientation in (2, 3, 6, 7):
        shades = shades[:, ::-1]
    if orientation in (3, 4, 7, 8):
        shades = shades[::-1]
    return np.ascontiguousarray(shades)
