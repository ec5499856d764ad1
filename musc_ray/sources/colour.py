"""Colours as a viewer shows them: colour profiles become sRGB, what is transparent becomes black."""

import io
from functools import lru_cache
from typing import Any

import numpy as np
from PIL import Image

ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

SPACES = {b"GRAY": "L", b"RGB ": "RGB", b"CMYK": "CMYK"}
"""Colour spaces of profiles, and the modes of the pictures that they describe."""

SPACE_PLACE = slice(16, 20)
"""Where the header of a profile names its colour space."""

SAME_LEVELS = 2
"""A profile that changes no colour by more levels than this is sRGB, whoever wrote it; its pictures are not touched."""


def to_rgb(picture: Image.Image) -> Image.Image:
    """Convert an 8-bit picture of any mode to RGB in sRGB; composite what is transparent over black.

    Hidden colours are arbitrary and must not look like structure. Alpha that is the same everywhere hides nothing: it
    is a channel that some camera or tool did not use.
    """
    profile = picture.info.get("icc_profile")
    if picture.mode not in ALPHA_MODES and "transparency" not in picture.info:
        return _in_srgb(picture, profile)
    mode = "L" if picture.mode in ("L", "LA", "La") else "RGB"
    picture = picture.convert("RGBA")
    alpha, colours = picture.getchannel("A"), _in_srgb(picture.convert(mode), profile)
    lowest, highest = alpha.getextrema()
    return colours if lowest == highest else over_black(colours, alpha)


def is_grey(picture: Image.Image) -> bool:
    """Tell whether `to_rgb` would only repeat a picture's one band."""
    return picture.mode == "L" and "transparency" not in picture.info and not picture.info.get("icc_profile")


def over_black(colours: Image.Image, alpha: Image.Image) -> Image.Image:
    """Composite an RGB picture over black by its alpha (L)."""
    picture = colours.copy()
    picture.putalpha(alpha)
    black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
    return Image.alpha_composite(black, picture).convert("RGB")


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert to RGB, through the colour profile if it fits the picture and is not sRGB."""
    if not profile:
        return picture if picture.mode == "RGB" else picture.convert("RGB")  # which copies, though nothing changes
    mode = SPACES.get(bytes(profile[SPACE_PLACE]))
    if mode == "RGB" and picture.mode != "CMYK":
        picture = picture.convert("RGB")  # of a palette
    transform = _transform(profile, mode) if mode == picture.mode else None
    if transform is None:
        return picture.convert("RGB")
    from PIL import ImageCms

    converted = ImageCms.applyTransform(picture, transform)
    return picture.convert("RGB") if converted is None else converted


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> Any:
    """Return the transform of a profile to sRGB; None for a broken one, and for sRGB itself."""
    from PIL import ImageCms

    try:
        transform = ImageCms.buildTransform(
            io.BytesIO(profile), ImageCms.createProfile("sRGB"), mode, "RGB", ImageCms.Intent.PERCEPTUAL
        )
        if mode == "CMYK":
            return transform
        levels = np.linspace(0, 255, 18).astype(np.uint8)
        grid = levels[None] if mode == "L" else np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3)
        colours = Image.fromarray(grid)
        before = np.asarray(colours.convert("RGB"), int)
        after = np.asarray(ImageCms.applyTransform(colours, transform), int)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if np.abs(after - before).max() <= SAME_LEVELS else transform
