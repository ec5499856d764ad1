"""Encode patch maps as files of the original image's size: a coloured picture, or the values themselves.

The scale of the pictures goes from `low`, the normal level, to `high`, the most anomalous of the group, in the 256
colours of `report.colormap`.
"""

from collections.abc import Iterator
from pathlib import Path
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


def strips(
    patch_map: npt.NDArray[np.float32], size: tuple[int, int], pixels: int | None = None
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Resize a patch map (h, w) to an image's `size` (W, H) in pixels, bilinear with aligned corners, strip by strip.

    Yields:
        First row, and values (rows, W), of strips of at most `pixels` (default: PIXELS_CHUNK), at least a row each.
    """
    from musc_ray.core.pixel_map import PIXELS_CHUNK, pixel_rows  # here, for the workers alone: they import torch

    width, height = size
    rows = max(1, (pixels or PIXELS_CHUNK) // width)
    for top in range(0, height, rows):
        yield top, pixel_rows(patch_map, (height, width), range(top, min(top + rows, height)))


def write_heatmap(
    path: Path,
    patch_map: npt.NDArray[np.float32],
    size: tuple[int, int],
    file_format: Format,
    scale: Scale,
    picture: Image.Image | None,
) -> None:
    """Write a patch map as a local file of an image's size; only strips of float32 values are held, but for a tiff.

    Args:
        path: of the file; it need not end like the format.
        patch_map: (h, w).
        size: (W, H) of the original.
        file_format: `npy` float32 (H, W); `tiff` one float32 channel, deflated; `png` 256 colours.
        scale: of a png.
        picture: the original (RGB, W x H), to lay a png over, which changes it; None for the heat map alone.
    """
    width, height = size
    if file_format == "npy":
        with path.open("wb") as file:
            header = {"descr": "<f4", "fortran_order": False, "shape": (height, width)}
            np.lib.format.write_array_header_1_0(file, header)
            for _, values in strips(patch_map, size):
                file.write(np.ascontiguousarray(values, "<f4").data)
    elif file_format == "tiff":
        whole = np.concatenate([values for _, values in strips(patch_map, size)])
        Image.fromarray(whole).save(path, "TIFF", compression="tiff_adobe_deflate")
    elif picture is not None:
        for top, values in strips(patch_map, size):
            lay_over(levels(values, scale), picture, top)
        picture.save(path, "PNG")
    else:
        shown = np.concatenate([levels(values, scale) for _, values in strips(patch_map, size)])
        coloured(shown).save(path, "PNG")


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


def lay_over(shown: npt.NDArray[np.uint8], picture: Image.Image, top: int = 0) -> None:
    """Lay levels (rows, W) over an RGB picture of this width, from row `top` on; higher levels are more opaque."""
    alpha = np.rint(np.linspace(0, 1, LEVELS) ** ALPHA_EXPONENT * 255).astype(np.uint8)
    picture.paste(coloured(shown).convert("RGB"), (0, top), Image.fromarray(alpha[shown]))
