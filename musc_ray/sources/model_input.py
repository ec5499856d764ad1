"""From a decoded image to what enters the model: the whole of it, and its crops, each resized on its own."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from musc_ray.core.crops import CropInput, InputShape, Size

Pixels = npt.NDArray[np.uint8]


class ModelInput(NamedTuple):
    """Pictures of one image for the model.

    Attributes:
        whole: (H, W, 3) uint8 RGB.
        crops: (P, h, w, 3) uint8 RGB, row by row; None of an image that is not cut.
    """

    whole: Pixels
    crops: Pixels | None = None

    def equals(self, other: "ModelInput") -> bool:
        """Tell whether all pixels are the same."""
        if self.crops is None or other.crops is None:
            return self.crops is other.crops and np.array_equal(self.whole, other.whole)
        return np.array_equal(self.whole, other.whole) and np.array_equal(self.crops, other.crops)


def model_input(picture: Image.Image, shape: InputShape) -> ModelInput:
    """Resize an upright picture (RGB, or grey), and the crops of it, bicubic (as MuSc's code does).

    A crop is cut out first: its pixels do not depend on those around it.
    """
    whole = resized(picture, shape.whole)
    if shape.crops is None:
        return ModelInput(whole)
    boxes = shape.crops.layout.boxes(picture.height, picture.width)
    cut = (picture.crop((left, top, right, bottom)) for top, left, bottom, right in boxes)
    return ModelInput(whole, stacked(cut, shape.crops))


def stacked(cut: Iterable[Image.Image], crops: CropInput) -> Pixels:
    """Resize crops as they come, (P, h, w, 3)."""
    pixels = np.empty((crops.layout.count, *crops.size, 3), np.uint8)
    for place, picture in enumerate(cut):
        pixels[place] = resized(picture, crops.size)
    return pixels


def resized(picture: Image.Image, size: Size) -> Pixels:
    """Resize a picture to (H, W), as RGB; a grey one gets its colours then, which are the same and take a third."""
    small = picture.resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return np.asarray(small if small.mode == "RGB" else small.convert("RGB"))
