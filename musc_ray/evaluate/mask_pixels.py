"""Decode masks of every mode and depth: the values of their pixels, their background, and what differs from it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from musc_ray.errors import ImageError, reason_of
from musc_ray.settings.limits import MAX_PIXELS
from musc_ray.sources.decoding import TURNED, open_picture
from musc_ray.sources.deep import DeepPixels, check_size
from musc_ray.sources.deep_files import ORIENTATION, deep_pixels
from musc_ray.sources.tiff import TIFF_STARTS, is_plain, read_tiff

Values = npt.NDArray[Any]
"""Grey values, label ids or opacity (H, W), or colours (H, W, 3)."""

Background = tuple[float, float, float]
"""A colour; three times the same number for grey values and label ids."""

BLACK: Background = (0, 0, 0)

HALF = 128
"""Minimum shade of an anomalous pixel where nothing else is said."""

MIN_GREYS = 3
MIN_BETWEEN = 0.25
"""A mask counts as grey, not as label ids, if it has this many values between background and maximum, and this share of
these pixels lies between a darker and a brighter neighbour: antialiasing and JPEG make slopes, label ids make plateaus.
Measured: 0.92 to 1.0 for the masks of 49 magnetic tiles (9 to 242 such values), 0.56 to 1.0 for masks of KolektorSDD
and glass after JPEG, resizing or blurring, at most 0.003 for generated maps of up to 19 label ids. The number of values
alone does not tell: antialiased masks of tiles have as few as 9, maps of label ids as many as 17."""

MIN_OF_BORDER = 0.75
MIN_OF_PIXELS = 0.5
MIN_OF_MASKS = 2 / 3
"""A colour other than black is the background of all masks if it covers these shares of the border and of the area of
most of them: a single defect may be that large, but hardly every one."""


@dataclass(frozen=True, eq=False)
class MaskPixels:
    """A decoded mask.

    Attributes:
        values: of its pixels, upright by its own EXIF.
        is_jpeg: whether compression has blurred the values.
        is_turned: whether it has an orientation in EXIF, which was applied.
    """

    values: Values
    is_jpeg: bool = False
    is_turned: bool = False


def read_mask(data: bytes, max_pixels: int = MAX_PIXELS) -> MaskPixels:
    """Decode a mask without scaling its values: 0 and 1 differ in 8, 16 and 32 bits alike.

    Args:
        data: an encoded image; of several frames the first is used.
        max_pixels: larger masks are refused before they are decoded.

    Raises:
        ImageError: not an image, a broken one, or one that is too large.
        MemoryError: memory is too short for it now.
    """
    try:
        return _read(data, max_pixels)
    except (ImageError, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise ImageError("The file is not an image in a known format.") from error
    except Image.DecompressionBombError as error:
        raise ImageError("The mask has more pixels than Pillow decodes, or than max_pixels.") from error
    except Exception as error:  # a broken file makes decoders raise errors of every kind
        raise ImageError(f"The mask is truncated or broken: {reason_of(error)}.") from error


def background_vote(mask: MaskPixels) -> Background | None:
    """Return the background of a mask seen by itself: the colour that surrounds and fills it, else black.

    None for a mask of one colour, which does not tell.
    """
    if _border(mask.values)[2] == 1.0:
        return None
    return surrounding_colour(mask) or BLACK


def surrounding_colour(mask: MaskPixels) -> Background | None:
    """Return the colour that surrounds and fills a mask; None if no colour does."""
    colour, of_border, of_pixels = _border(mask.values)
    return colour if of_border >= MIN_OF_BORDER and of_pixels > MIN_OF_PIXELS else None


def common_background(votes: Iterable[Background | None]) -> Background:
    """Return the background of most of some masks; black if they do not agree."""
    counts = Counter(vote for vote in votes if vote is not None)
    colour, count = max(counts.items(), key=lambda item: item[1], default=(BLACK, 0))
    return colour if count >= MIN_OF_MASKS * counts.total() else BLACK


def background_of(mask: MaskPixels, common: Background) -> Background:
    """Find a mask's background: the common one if it is there, else black, else the most frequent colour of its border.

    A mask of one colour that is neither is anomalous everywhere.
    """
    for colour in (common, BLACK):
        if not distance(mask.values, colour).all():
            return colour
    colour, _, of_pixels = _border(mask.values)
    return common if of_pixels == 1.0 else colour


def shades_of(mask: MaskPixels, background: Background) -> npt.NDArray[np.uint8]:
    """Return how anomalous each pixel (H, W) is, 0 to 255.

    Every pixel that differs from the background is 255, but a grey mask keeps its shades, scaled to its range: whoever
    uses it cuts at half, or, resized, at the level that the authors of a protocol cut at. JPEG is cut at half its range
    here, since compression moves all its values.
    """
    differences = distance(mask.values, background)
    if not (mask.is_jpeg or _is_grey(differences)):
        return np.where(differences > 0, np.uint8(255), np.uint8(0))
    shades = np.rint(differences * (255.0 / max(differences.max(), 1e-300))).astype(np.uint8)
    return np.where(shades >= HALF, np.uint8(255), np.uint8(0)) if mask.is_jpeg else shades


def distance(values: Values, background: Background) -> Values:
    """Compute how far each pixel (H, W) is from a colour: the largest difference of a channel."""
    if values.ndim == 2 and len(set(background)) == 1:
        if background[0] == 0 and values.dtype.kind == "u":
            return values
        wide: Any = np.float64 if values.dtype.kind == "f" else np.int16 if values.dtype == np.uint8 else np.int64
        differences: Values = values.astype(wide)
        differences -= wide(background[0])
        return np.asarray(np.abs(differences, out=differences))
    wide = values[..., None] if values.ndim == 2 else values
    return np.asarray(np.abs(wide.astype(np.float32) - np.array(background, np.float32)).max(axis=2))


def colour_name(colour: Background) -> str:
    """Return a colour as text: `value 255`, or `colour #23a436`."""
    if len(set(colour)) == 1:
        return f"value {colour[0]:g}"
    return "colour #" + "".join(f"{int(channel):02x}" for channel in colour)


def turn(values: Values, orientation: int) -> Values:
    """Turn stored pixels (H, W, ...) upright, as `PIL.ImageOps.exif_transpose` does."""
    if orientation in TURNED:
        values = values.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    return np.ascontiguousarray(values)


def _read(data: bytes, max_pixels: int) -> MaskPixels:
    """Read a mask as `sources.decoding` reads an image, but for the scaling to 8 bits."""
    is_tiff = data[:4] in TIFF_STARTS
    try:
        picture = open_picture(data, max_pixels)
    except UnidentifiedImageError:
        if is_tiff:  # of a kind that Pillow does not know
            return _of_deep(read_tiff(data, max_pixels))
        raise
    with picture:
        check_size(picture.width, picture.height, max_pixels)
        picture.seek(0)
        if is_tiff and not is_plain(picture, max_pixels):
            return _of_deep(read_tiff(data, max_pixels))
        deep = None if is_tiff else deep_pixels(picture, data, max_pixels)
        if deep is not None:
            return _of_deep(deep)
        is_turned = picture.getexif().get(ORIENTATION, 1) != 1  # before load(), which removes that of TIFF
        picture.load()
        return MaskPixels(_values(ImageOps.exif_transpose(picture)), picture.format == "JPEG", is_turned)


def _of_deep(deep: DeepPixels) -> MaskPixels:
    values = deep.values
    if not np.isfinite(values).all():
        raise ImageError("The mask holds NaN or infinite values.")
    if values.dtype.kind in "bf":
        values = values.astype(np.uint8 if values.dtype.kind == "b" else np.float64)
    if values.ndim == 3 and values.shape[2] != 3:  # inks: which one is used does not matter
        values = values.max(axis=2)
    if deep.alpha is not None:
        values = _opaque(values, deep.alpha)
    return MaskPixels(turn(_grey(values), deep.orientation), is_turned=deep.orientation != 1)


def _values(picture: Image.Image) -> Values:
    """Return a mask's 8-bit values, as grey values where all colours are grey."""
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        pixels = np.asarray(picture.convert("RGBA"))
        return _grey(_opaque(pixels[..., :3], pixels[..., 3]))
    if picture.mode == "P":
        return _grey(_of_palette(picture))
    if picture.mode in ("1", "L"):
        return np.asarray(picture).astype(np.uint8)
    return _grey(np.asarray(picture.convert("RGB")))


def _of_palette(picture: Image.Image) -> Values:
    """Return the colours of a picture with a palette, or its numbers where the colours do not say more.

    That is where two numbers have one colour, or where no colour is black: number 0 is the background then.
    """
    numbers = np.asarray(picture)
    used = np.unique(numbers)
    palette = np.zeros((256, 3), np.uint8)
    given = np.array(picture.getpalette("RGB") or [], np.uint8).reshape(-1, 3)[:256]
    palette[: len(given)] = given
    colours = palette[used]
    one_each = len(np.unique(colours, axis=0)) == len(used)
    black_or_no_zero = not colours.any(axis=1).all() or used[0] != 0
    return palette[numbers] if one_each and black_or_no_zero else numbers


def _opaque(colours: Values, opacity: Values) -> Values:
    """Return colours (H, W) or (H, W, 3): transparent ones are black, opacity that is everywhere the same is ignored.

    Where all visible pixels have one colour, the opacity is the mask.
    """
    if opacity.min() == opacity.max():
        return colours
    visible = colours[opacity > 0]
    if (visible == visible[0]).all():
        return opacity
    colours = colours.copy()
    colours[opacity == 0] = 0
    return colours


def _grey(values: Values) -> Values:
    """Return colours (H, W, 3) as grey values (H, W) if all of them are grey."""
    if values.ndim == 3 and (values == values[..., :1]).all():
        return np.ascontiguousarray(values[..., 0])
    return values


def _border(values: Values) -> tuple[Background, float, float]:
    """Find the most frequent colour of the outermost pixels, its share of these, and of all pixels."""
    sides = (values[0], values[-1], values[1:-1, 0], values[1:-1, -1])
    colours, counts = np.unique(np.concatenate(sides), axis=0, return_counts=True)
    most = colours[counts.argmax()]
    if values.ndim == 2:
        colour, same = (most.item(),) * 3, values == most
    else:
        colour, same = tuple(most.tolist()), (values == most).all(axis=2)
    return colour, float(counts.max() / counts.sum()), float(same.mean())


def _is_grey(differences: Values) -> bool:
    """Return whether differences from the background (H, W) are those of an antialiased mask, not of label ids."""
    from scipy import ndimage  # of the evaluate extra

    rows, columns = (np.flatnonzero(differences.any(axis=axis)) for axis in (1, 0))
    if len(rows) == 0:
        return False
    # the neighbours outside this part are background
    part = np.pad(differences[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], 1)
    between = (part > 0) & (part < part.max())
    if len(np.unique(part[between])) < MIN_GREYS:
        return False
    darker = ndimage.minimum_filter(part, 3) < part
    brighter = ndimage.maximum_filter(part, 3) > part
    return bool((between & darker & brighter).sum() >= MIN_BETWEEN * between.sum())
