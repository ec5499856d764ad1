"""Encode patch maps as files of the original image's size: a coloured picture, or the values themselves.

The scale of the pictures goes from `low`, the normal level, to `high`, the most anomalous of the group, in the 256
colours of `report.colormap`.
"""

import io
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from musc_ray.report.colormap import colormap
from musc_ray.sources.containers import image_name
from musc_ray.storage.paths import escape_group

Format = Literal["png", "npy", "tiff"]
Scale = tuple[float, float]
"""`low` and `high`, patch scores."""

LEVELS = 256
ALPHA_EXPONENT = 1.5
"""Opacity of an overlay; chosen by eye on real tiles: 1 tints the normal regions, 2 hides the weaker defects."""


def heatmap_name(uri: str, image_id: str, extension: str) -> str:
    """Return the file name of an image's heat map: what people know the image by, escaped, and what makes it unique."""
    return f"{escape_group(image_name(uri))}-{image_id}.{extension}"


def upsample(patch_map: npt.NDArray[np.float32], size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Resize a patch map (h, w) to an image's `size` (W, H) in pixels: (H, W), bilinear with aligned corners."""
    import torch  # here, for the workers alone

    from musc_ray.core.pixel_map import pixel_map

    result: npt.NDArray[np.float32] = pixel_map(torch.tensor(patch_map)[None], size[::-1])[0].numpy()
    return result


def encode(values: npt.NDArray[np.float32], file_format: Format, scale: Scale, picture: Image.Image | None) -> bytes:
    """Encode a pixel map (H, W) as a file.

    Args:
        values: patch scores at the original's pixels.
        file_format: `npy` float32 (H, W); `tiff` one float32 channel, deflated; `png` 256 colours.
        scale: of a png.
        picture: the original (RGB, W x H), to lay a png over; None for the heat map alone.
    """
    buffer = io.BytesIO()
    if file_format == "npy":
        np.save(buffer, values, allow_pickle=False)
    elif file_format == "tiff":
        Image.fromarray(values).save(buffer, "TIFF", compression="tiff_adobe_deflate")
    else:
        shown = levels(values, scale)
        (coloured(shown) if picture is None else overlaid(shown, picture)).save(buffer, "PNG")
    return buffer.getvalue()


def levels(values: npt.NDArray[np.float32], scale: Scale) -> npt.NDArray[np.uint8]:
    """Scale values (H, W) to 0 (at `low` or below) to 255 (at `high` or above); all 0 where `high` <= `low`."""
    low, high = scale
    if high <= low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values - np.float32(low)) * np.float32((LEVELS - 1) / (high - low))
    result: npt.NDArray[np.uint8] = np.rint(np.clip(scaled, 0, LEVELS - 1)).astype(np.uint8)
    return result


def coloured(shown: npt.NDArray[np.uint8]) -> Image.Image:
    """Make a picture with a palette of levels (H, W)."""
    picture = Image.fromarray(shown)
    picture.putpalette(colormap(np.linspace(0, 1, LEVELS)).tobytes())
    return picture


def overlaid(shown: npt.NDArray[np.uint8], picture: Image.Image) -> Image.Image:
    """Lay levels (H, W) over an RGB picture of the same size; higher levels are more opaque."""
    alpha = np.rint(np.linspace(0, 1, LEVELS) ** ALPHA_EXPONENT * 255).astype(np.uint8)
    return Image.composite(coloured(shown).convert("RGB"), picture, Image.fromarray(alpha[shown]))
