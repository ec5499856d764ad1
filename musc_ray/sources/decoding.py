"""Decode image bytes of every mode that cameras and archives produce; reject non-images with a clear error."""

import io
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from musc_ray.errors import ImageError, reason_of
from musc_ray.settings.limits import MAX_PIXELS

Image.init()
ACCEPTED = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP")
FORMATS = [name for name in ACCEPTED if name in Image.ID]
"""What cameras and archives produce. Pillow reads more: EPS, which it passes to Ghostscript, which runs programs in the
file; FITS, which it unpacks before it checks the size."""

DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I", "F")
ALPHA_MODES = ("RGBA", "LA", "PA", "RGBa", "La")

ORIENTATION, TURNED = 0x0112, range(5, 9)
"""EXIF's orientation tag, and its values for images that are turned by 90 degrees."""


def decode_image(data: bytes, image_size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode an image and resize it to the model's input, bicubic and without crop (as MuSc's code does).

    Args:
        data: an encoded image; of an animation the first frame is used.
        image_size: (H, W) in pixels.
        max_pixels: larger images are refused before they are decoded.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: not an image, a broken one, or one that is too large.
        MemoryError: memory is too short for it now.
    """
    height, width = image_size
    picture = decode_original(data, max_pixels).resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture)


def decode_original(data: bytes, max_pixels: int = MAX_PIXELS, at_least: int | None = None) -> Image.Image:
    """Decode an image at its own size, upright (EXIF), as 8-bit RGB.

    16-bit and float images are scaled to 8 bits, never clipped: 0..65535 becomes 0..255; 32-bit values beyond 16 bits
    and floats are scaled from their own minimum and maximum. Transparent pixels are composited over black: their hidden
    colour is arbitrary and must not look like structure.

    Args:
        data: an encoded image; of an animation the first frame is used.
        max_pixels: larger images are refused before they are decoded.
        at_least: a JPEG may be decoded at an eighth, a quarter or half of its size, several times as fast, as long as
            its longer side has this many pixels; None decodes it whole.

    Raises:
        ImageError: not an image, a broken one, or one that is too large.
        MemoryError: memory is too short for it now.
    """
    if not data:
        raise ImageError("The file is empty.")
    with _errors_as_image_errors(max_pixels), _opened(data) as picture:
        _check_pixels(picture, max_pixels)
        picture.seek(0)
        if at_least is not None:
            scale = at_least / max(picture.size)
            picture.draft(None, (math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
        picture.load()
        return _rgb(ImageOps.exif_transpose(picture))


@contextmanager
def _opened(data: bytes) -> Iterator[Image.Image]:
    """Read an image's header; Pillow's warnings of large images are off, since max_pixels decides."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield Image.open(io.BytesIO(data), formats=FORMATS)


@contextmanager
def _errors_as_image_errors(max_pixels: int) -> Iterator[None]:
    """Turn what Pillow raises on files that are broken or not images into ImageError."""
    try:
        yield
    except (ImageError, MemoryError):  # there may be more memory later
        raise
    except UnidentifiedImageError as error:
        raise ImageError("The file is not an image in a known format.") from error
    except Image.DecompressionBombError as error:
        most = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise ImageError(
            f"The image has more than {most} pixels, the smaller of max_pixels {max_pixels} and Pillow's own limit."
        ) from error
    except Exception as error:  # a broken file makes Pillow's decoders and EXIF reader raise errors of every kind
        raise ImageError(f"The image is truncated or broken: {reason_of(error)}.") from error


def _check_pixels(picture: Image.Image, max_pixels: int) -> None:
    """Refuse a decompression bomb by the size in its header."""
    if picture.width * picture.height > max_pixels:
        raise ImageError(f"The image has {picture.width} x {picture.height} pixels, more than max_pixels {max_pixels}.")


def _rgb(picture: Image.Image) -> Image.Image:
    """Convert any Pillow mode to 8-bit RGB."""
    if picture.mode in DEEP_MODES:
        return Image.fromarray(_to_eight_bits(np.asarray(picture))).convert("RGB")
    if picture.mode in ALPHA_MODES or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        black = Image.new("RGBA", picture.size, (0, 0, 0, 255))
        return Image.alpha_composite(black, picture).convert("RGB")
    return picture.convert("RGB")


def _to_eight_bits(values: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Scale deep grey values (H, W) to 0..255."""
    scaled = values.astype(np.float64)
    if not np.isfinite(scaled).all():
        raise ImageError("The image holds NaN or infinite values.")
    low, high = 0.0, 65535.0
    if values.dtype.kind == "f" or scaled.min() < low or scaled.max() > high:
        low, high = float(scaled.min()), float(scaled.max())
    return np.rint((scaled - low) * (255.0 / max(high - low, 1e-12))).astype(np.uint8)


def upright_size(data: bytes) -> tuple[int, int]:
    """Return the (H, W) that `decode_original` would give, from the header alone.

    Raises:
        ImageError: not an image in a known format.
    """
    try:
        with _opened(data) as picture:
            turned = picture.getexif().get(ORIENTATION, 1) in TURNED
    except Exception as error:  # as in decode_original
        raise ImageError("The file is not an image in a known format.") from error
    return (picture.width, picture.height) if turned else (picture.height, picture.width)
