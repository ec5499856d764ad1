"""Decode image bytes of every mode that cameras and archives produce; reject non-images with a clear error."""

import io
import math
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from musc_ray.core.crops import InputShape
from musc_ray.errors import ImageError, reason_of
from musc_ray.settings.limits import MAX_PIXELS
from musc_ray.sources.colour import is_grey, over_black, to_rgb
from musc_ray.sources.decoding_memory import DecodingMemory, Take
from musc_ray.sources.deep import BY_FORMAT, DeepPixels, DeepSample, Intensity, check_size, sample_of, to_eight_bits
from musc_ray.sources.deep_files import ORIENTATION, deep_pixels
from musc_ray.sources.model_input import ModelInput, model_input
from musc_ray.sources.png_text import needs_less_text, without_text
from musc_ray.sources.tiff import TIFF_STARTS, is_plain, read_tiff, tiff_size
from musc_ray.sources.tiff_bands import read_in_bands

Image.init()
ACCEPTED = ("AVIF", "BMP", "DIB", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP")
FORMATS = [name for name in ACCEPTED if name in Image.ID]
"""What cameras and archives produce. Pillow reads more: EPS, which it passes to Ghostscript, which runs programs in the
file; FITS, which it unpacks before it checks the size."""

TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What makes an image of an EXIF orientation upright."""

TURNED = range(5, 9)
"""Orientations of images that are turned by 90 degrees."""

DECODING = DecodingMemory()
"""Of all threads of this process."""

_pillow_limit = threading.Lock()
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # max_pixels decides

Eight = TypeVar("Eight")


class Decoded(NamedTuple):
    """Pixels for the model.

    Attributes:
        pictures: of the whole image, and of its crops.
        size: (H, W) of the image itself, upright.
        remarks: what the image holds and the pictures do not show; a phrase each.
    """

    pictures: ModelInput
    size: tuple[int, int]
    remarks: tuple[str, ...]


class Loading(NamedTuple):
    """How an image is decoded.

    Attributes:
        max_pixels: larger images are refused before they are decoded.
        take: takes memory for it, once its header is read.
        at_least: see `decode_original`.
        keeps_grey: whether grey may stay grey: RGB has four times its bytes.
    """

    max_pixels: int
    take: Take
    at_least: int | None = None
    keeps_grey: bool = False


def decode_image(data: bytes, image_size: tuple[int, int], *, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """Decode an image and resize it to the model's input; see `decode_for_model`."""
    return decode_for_model(data, InputShape(image_size), max_pixels, BY_FORMAT).pictures.whole


def decode_for_model(data: bytes, shape: InputShape, max_pixels: int, intensity: Intensity) -> Decoded:
    """Decode an image and resize it, and its crops, to the model's input, bicubic (as MuSc's code does).

    Args:
        data: an encoded image; of an animation the first frame is used.
        shape: what of it enters the model.
        max_pixels: larger images are refused before they are decoded.
        intensity: see `decode_original`.

    Raises:
        ImageError: not an image, a broken one, one that is too large, or deep pixels that `intensity` does not fit.
        MemoryError: memory is too short for it now.
    """
    with DECODING.lease() as take:
        if data[:4] in TIFF_STARTS:
            found = read_in_bands(data, shape, max_pixels, intensity, take)
            if found is not None:
                return Decoded(*found)
        picture, remarks = _decode(data, Loading(max_pixels, take, keeps_grey=True), intensity)
        return Decoded(model_input(picture, shape), (picture.height, picture.width), remarks)


def decode_original(
    data: bytes, max_pixels: int = MAX_PIXELS, at_least: int | None = None, intensity: Intensity = BY_FORMAT
) -> Image.Image:
    """Decode an image at its own size, upright (EXIF), as 8-bit RGB in sRGB.

    Pixels of more than 8 bits are scaled from a range, and clipped to it. Transparent pixels are composited over black:
    their hidden colour is arbitrary and must not look like structure; alpha that is the same everywhere is ignored.

    Args:
        data: an encoded image; of an animation the first frame is used.
        max_pixels: larger images are refused before they are decoded.
        at_least: a JPEG may be decoded at an eighth, a quarter or half of its size, several times as fast, as long as
            its longer side has this many pixels; None decodes it whole.
        intensity: the range of deep pixels; 8-bit images are never touched by it. By default that of the format:
            0..65535 becomes 0..255, values beyond 16 bits and floats are scaled from their own minimum and maximum.

    Raises:
        ImageError: not an image, a broken one, one that is too large, or deep pixels that `intensity` does not fit.
        MemoryError: memory is too short for it now.
    """
    with DECODING.lease() as take:
        return _decode(data, Loading(max_pixels, take, at_least), intensity)[0]


def sample_image(data: bytes, max_pixels: int = MAX_PIXELS) -> DeepSample | None:
    """Decode an image if it has more than 8 bits, and summarise its values; None for an 8-bit one.

    Raises:
        ImageError, MemoryError: as `decode_original`.
    """
    with DECODING.lease() as take, _errors_as_image_errors(max_pixels):
        found = _read(data, Loading(max_pixels, take), lambda _: None)
        return None if found is None or found.values.dtype == np.uint8 else sample_of(found)


def _decode(data: bytes, loading: Loading, intensity: Intensity) -> tuple[Image.Image, tuple[str, ...]]:
    """Decode to upright RGB, or grey where that is kept; return the remarks, too."""
    with _errors_as_image_errors(loading.max_pixels):
        found = _read(data, loading, lambda picture: _upright(picture, loading.at_least))
        if isinstance(found, DeepPixels):
            return _shown(found, intensity, loading.keeps_grey)
        return found if loading.keeps_grey and is_grey(found) else to_rgb(found), ()


def _read(data: bytes, loading: Loading, load: Callable[[Image.Image], Eight]) -> Eight | DeepPixels:
    """Read an image: what `load` makes of an opened 8-bit one, or deep pixels."""
    if not data:
        raise ImageError("The file is empty.")
    if data[:4] in TIFF_STARTS:
        return _read_tiff(data, loading, load)
    try:
        return _read_with_pillow(data, loading, load)
    except ValueError as error:
        if not needs_less_text(data, error):
            raise
    return _read_with_pillow(without_text(data), loading, load)


def _read_tiff(data: bytes, loading: Loading, load: Callable[[Image.Image], Eight]) -> Eight | DeepPixels:
    """Read a TIFF file: with Pillow what it shows as a viewer does, with tifffile what it does not know."""
    reason: Exception | None = None
    try:
        with open_picture(data, loading.max_pixels) as picture:
            check_size(picture.width, picture.height, loading.max_pixels)
            picture.seek(0)
            if is_plain(picture, loading.max_pixels):
                loading.take(decoded_bytes(picture))
                return load(picture)
    except (ImageError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:  # noqa: BLE001 - broken, or of a kind that Pillow does not know
        reason = error
    try:
        return read_tiff(data, loading.max_pixels, loading.take)
    except (ImageError, MemoryError):
        raise
    except Exception as error:
        raise reason or error from error


def _read_with_pillow(data: bytes, loading: Loading, load: Callable[[Image.Image], Eight]) -> Eight | DeepPixels:
    with open_picture(data, loading.max_pixels) as picture:
        check_size(picture.width, picture.height, loading.max_pixels)
        picture.seek(0)
        loading.take(decoded_bytes(picture))
        deep = deep_pixels(picture, data, loading.max_pixels)
        return load(picture) if deep is None else deep


def decoded_bytes(picture: Image.Image) -> int:
    """Estimate what decoding an opened image takes, at most: Pillow has 4 bytes a pixel, and copies to convert them."""
    if picture.format == "JPEG" and picture.mode in ("L", "RGB"):
        copies = 1 + ("icc_profile" in picture.info) + (picture.getexif().get(ORIENTATION, 1) != 1)
    else:
        copies = 4  # deep values, alpha, palettes
    return int(4 * picture.width * picture.height * copies)


def _upright(picture: Image.Image, at_least: int | None) -> Image.Image:
    """Load an opened picture and turn it as its EXIF says."""
    if at_least is not None:
        scale = at_least / max(picture.size)
        picture.draft(None, (math.ceil(picture.width * scale), math.ceil(picture.height * scale)))
    unused_alpha = picture.format == "TGA" and picture.mode == "RGBA" and not _tga_alpha_bits(picture)
    picture.load()
    if unused_alpha:
        return picture.convert("RGB")
    ImageOps.exif_transpose(picture, in_place=True)  # without: a copy, which takes a fifth of the time of large photos
    return picture


def _tga_alpha_bits(picture: Image.Image) -> int:
    """Return how many bits of a TGA file's pixels are alpha, by its header, which Pillow does not ask."""
    file = getattr(picture, "fp")  # noqa: B009 - of all opened pictures, but not of the type
    file.seek(17)
    return int(file.read(1)[0] & 0x0F)


def _shown(deep: DeepPixels, intensity: Intensity, keeps_grey: bool) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert deep pixels to upright RGB, or grey where that is kept; return the remarks, too."""
    picture, remarks = to_eight_bits(deep, intensity)
    picture.info["icc_profile"] = deep.profile
    colours = picture if keeps_grey and deep.alpha is None and is_grey(picture) else to_rgb(picture)
    if deep.alpha is not None and deep.alpha.min() < deep.alpha.max():
        colours = over_black(colours, Image.fromarray(np.rint(deep.alpha * 255).astype(np.uint8)))
    turn = TURNS.get(deep.orientation)
    return colours if turn is None else colours.transpose(turn), remarks


def open_picture(data: bytes, max_pixels: int) -> Image.Image:
    """Read an image's header with Pillow; its pixels are not decoded yet.

    Pillow's own limit is one of the process: it is raised where `max_pixels` allows more, and never lowered.

    Raises:
        UnidentifiedImageError, Image.DecompressionBombError, OSError: as Pillow.
    """
    with _pillow_limit:
        if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = max_pixels
    return Image.open(io.BytesIO(data), formats=FORMATS)


@contextmanager
def _errors_as_image_errors(max_pixels: int) -> Iterator[None]:
    """Turn what decoders raise on files that are broken or not images into ImageError."""
    try:
        yield
    except (ImageError, MemoryError):  # there may be more memory later
        raise
    except UnidentifiedImageError as error:
        raise ImageError("The file is not an image in a known format.") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"The image has more than {max_pixels} pixels, see max_pixels.") from error
    except Exception as error:  # a broken file makes decoders and the EXIF reader raise errors of every kind
        raise ImageError(f"The image is truncated or broken: {reason_of(error)}.") from error


def upright_size(data: bytes) -> tuple[int, int]:
    """Return the (H, W) that `decode_original` would give, from the header alone.

    Raises:
        ImageError: not an image in a known format.
    """
    try:
        if data[:4] in TIFF_STARTS:
            return tiff_size(data)
        with open_picture(data, MAX_PIXELS) as picture:
            turned = picture.getexif().get(ORIENTATION, 1) in TURNED
    except Exception as error:  # as in decode_original
        raise ImageError("The file is not an image in a known format.") from error
    return (picture.width, picture.height) if turned else (picture.height, picture.width)
