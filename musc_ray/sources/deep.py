"""Pixels of more than 8 bits: where their range is found from a sample of a group, and how they become 8 bits."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from musc_ray.errors import ImageError

Values = npt.NDArray[Any]

DEPTHS = (8, 10, 12, 14, 16)
"""Bits of cameras. 16-bit files hold any of them."""

PERCENTILES = (0.1, 99.9)
"""Of floats and of integers beyond 16 bits: a few hot pixels do not decide the range."""

SAMPLE_VALUES = 2**16
"""Values of an image in a sample, for the percentiles."""

MAX_BANDS = 64
MAX_VALUES_PER_PIXEL = 5
"""Bands of an image, and how many times `max_pixels` values it may have: five bands at the full size."""

BLOCK = 2**20
"""Values that are scaled at a time, in float64."""

BY_FORMAT: Final = "format"
"""The range where no group decides: that of integers up to 16 bits, otherwise the image's own minimum and maximum."""

CLIPPED = "values outside the intensity were clipped (setting intensity)"
OTHER_KIND = "the values were scaled by their format, since most images of the group hold another kind of numbers"
NAN = "NaN pixels were taken for the lowest value"


@dataclass(frozen=True)
class Range:
    """The values that are shown black and white, the same ones for all images of a group.

    Attributes:
        low, high: in the image's own numbers.
        kind: of the numbers that it was found from; "" fits both.
        robust: found from percentiles, so that a share of the values lies outside.
    """

    low: float
    high: float
    kind: Literal["integer", "float", ""] = ""
    robust: bool = False

    @classmethod
    def stated(cls, low: float, high: float) -> "Range":
        """Return the range of a run's manifest, whose kind shows in its numbers."""
        integers = float(low).is_integer() and float(high).is_integer() and high > 1
        return cls(low, high, "integer" if integers else "float")


Rule = Literal["auto", "full", "percentile"]
"""How the range of a group is found: the setting `intensity`."""

Intensity = Range | Literal["format"] | None
"""How deep pixels become 8 bits; None refuses them, since their group was sampled and has no range."""


@dataclass(frozen=True)
class DeepPixels:
    """Decoded pixels that are not 8-bit grey or RGB yet.

    Attributes:
        values: (H, W), (H, W, 3) RGB or (H, W, 4) CMYK, of any real dtype; uint8 is shown as it is.
        bits: of the file's format.
        declared: bits that the file says its values have; None where it says nothing.
        alpha: (H, W) 0..1, 0 is transparent; None without.
        is_inverted: whether the lowest value is white.
        remarks: what of the file is not shown.
        orientation: EXIF's, 1 is upright.
        profile: ICC profile of the colours.
    """

    values: Values
    bits: int
    declared: int | None = None
    alpha: npt.NDArray[np.float32] | None = None
    is_inverted: bool = False
    remarks: tuple[str, ...] = ()
    orientation: int = 1
    profile: bytes | None = None

    @property
    def kind(self) -> Literal["integer", "float"]:
        """Whether the numbers are integers or floats."""
        return "float" if self.values.dtype.kind == "f" else "integer"

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and highest number of the format; 0 and 1 for floats."""
        if self.kind == "float":
            return 0.0, 1.0
        if self.values.dtype.kind == "i":
            return -(2.0 ** (self.bits - 1)), 2.0 ** (self.bits - 1) - 1
        return 0.0, 2.0**self.bits - 1


@dataclass(frozen=True)
class DeepSample:
    """What the range of a group is found from: one of its images.

    Attributes:
        kind, bits, declared, limits: see `DeepPixels`.
        low, high: smallest and largest finite value.
        values: up to SAMPLE_VALUES finite values.
    """

    kind: Literal["integer", "float"]
    bits: int
    declared: int | None
    limits: tuple[float, float]
    low: float
    high: float
    values: npt.NDArray[np.float64]


def check_size(width: int, height: int, max_pixels: int, bands: int = 1) -> None:
    """Refuse a decompression bomb by the size in its header.

    Raises:
        ImageError: too many pixels, or bands.
    """
    if width * height > max_pixels:
        raise ImageError(f"The image has {width} x {height} pixels, more than max_pixels {max_pixels}.")
    if bands > MAX_BANDS or width * height * bands > MAX_VALUES_PER_PIXEL * max_pixels:
        raise ImageError(
            f"The image has {width} x {height} pixels of {bands} bands, more than max_pixels {max_pixels} "
            f"or {MAX_BANDS} bands."
        )


def sample_of(deep: DeepPixels) -> DeepSample:
    """Summarise an image's values.

    Raises:
        ImageError: it has no finite value.
    """
    values = deep.values.reshape(-1)
    if deep.kind == "float":
        values = values[np.isfinite(values)]
    if not values.size:
        raise ImageError("The image holds no value but NaN and infinite ones.")
    few = values[:: max(1, values.size // SAMPLE_VALUES)].astype(np.float64)
    low, high, declared = float(values.min()), float(values.max()), deep.declared
    if declared is not None and high >= 2.0**declared:
        declared = deep.bits  # scaled to the whole format, as the PNG specification asks
    return DeepSample(deep.kind, deep.bits, declared, deep.limits, low, high, few)


def find_range(samples: Sequence[DeepSample], rule: Rule) -> tuple[Range, str]:
    """Find the range of a group, and say how.

    Args:
        samples: at least one; where integers and floats are mixed, those of which there are fewer are left out.
        rule: see the setting `intensity`.
    """
    floats = [sample for sample in samples if sample.kind == "float"]
    integers = [sample for sample in samples if sample.kind == "integer"]
    used = floats if len(floats) > len(integers) else integers
    kind, bits = used[0].kind, max(sample.bits for sample in used)
    low, high = min(sample.low for sample in used), max(sample.high for sample in used)
    name = f"{bits}-bit {'float ' if kind == 'float' else ''}images"
    if rule == "full":
        low, high = min(each.limits[0] for each in used), max(each.limits[1] for each in used)
        return Range(low, high, kind), f"{name} are shown in their whole range"
    if rule == "auto" and kind == "float" and low >= 0 and high <= 1:
        return Range(0.0, 1.0, kind), f"{name} hold values from 0 to 1"
    if rule == "auto" and kind == "integer" and low >= 0 and high < 2**16:
        needed = max(int(high).bit_length(), *(sample.declared or 0 for sample in used))
        depth = next((depth for depth in DEPTHS if depth >= needed), needed)
        return Range(0.0, 2.0**depth - 1, kind), f"{name} hold {depth}-bit data"
    pooled = np.concatenate([sample.values for sample in used])
    low, high = (float(value) for value in np.percentile(pooled, PERCENTILES))
    if low == high:  # as good as constant: what differs must show
        low, high = low - 0.5, high + 0.5
    what = "are shown" if rule == "percentile" else f"hold values from {low:g} to {high:g}"
    return Range(low, high, kind, robust=True), f"{name} {what} between the percentiles 0.1 and 99.9 of a sample"


def to_eight_bits(deep: DeepPixels, intensity: Intensity) -> tuple[Image.Image, tuple[str, ...]]:
    """Convert to an 8-bit picture of mode L, RGB or CMYK, without alpha; return the remarks, too.

    Raises:
        ImageError: no value is finite, or the group's range does not fit these values.
    """
    if deep.values.dtype == np.uint8:
        eight, remarks = deep.values, deep.remarks
    else:
        found = _range_of(deep, intensity)
        eight = scaled(deep.values, found.low, found.high, deep.kind == "integer" and intensity != BY_FORMAT)
        remarks = deep.remarks + _remarks(deep, found)
        if isinstance(intensity, Range) and intensity.kind not in ("", deep.kind):
            remarks += (OTHER_KIND,)
    if deep.is_inverted:
        eight = 255 - eight
    if eight.ndim == 3 and eight.shape[2] == 4:
        return Image.frombytes("CMYK", eight.shape[1::-1], np.ascontiguousarray(eight).tobytes()), remarks
    return Image.fromarray(eight), remarks


def scaled(values: Values, low: float, high: float, in_bins: bool = False) -> npt.NDArray[np.uint8]:
    """Scale low..high to 0..255; clip what is outside; NaN is low.

    Args:
        values: of any real dtype.
        low, high: become 0 and 255.
        in_bins: for integers: 256 bins of the same width instead of rounding. Of 12 bits the lower 4 are dropped, which
            gives back 8-bit values that were multiplied by 16, and those that were scaled to 4095.
    """
    factor = 256.0 / (high - low + 1) if in_bins else 255.0 / max(high - low, 1e-300)
    whole = np.floor if in_bins else np.rint

    def convert(part: Values) -> npt.NDArray[np.uint8]:
        wide = (part.astype(np.float64) - low) * factor
        return whole(np.clip(np.nan_to_num(wide, nan=0.0, posinf=255.0, neginf=0.0), 0.0, 255.0)).astype(np.uint8)

    if values.dtype.itemsize <= 2 and values.dtype.kind in "ui":
        table = convert(np.arange(2**16, dtype=np.uint16).view(f"{values.dtype.kind}2"))
        return table[values.astype(f"{values.dtype.kind}2", copy=False).view(np.uint16)]
    return _in_blocks(values, convert)


def _in_blocks(values: Values, convert: Callable[[Values], npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    flat = values.reshape(-1)
    result = np.empty(flat.size, np.uint8)
    for start in range(0, flat.size, BLOCK):
        result[start : start + BLOCK] = convert(flat[start : start + BLOCK])
    return result.reshape(values.shape)


def _range_of(deep: DeepPixels, intensity: Intensity) -> Range:
    if intensity is None:
        raise ImageError(
            f"The image holds {deep.bits}-bit values, but the images that were sampled of its group are 8-bit ones: "
            f"give their range, for example --intensity 0,4095, or put it into another group."
        )
    if isinstance(intensity, Range):
        return intensity if intensity.kind in ("", deep.kind) else _other_kind(deep, intensity)
    sample = sample_of(deep)
    if deep.kind == "integer" and sample.low >= 0 and sample.high < 2**16:
        return Range(0.0, 2.0 ** min(deep.bits, 16) - 1)
    return Range(sample.low, sample.high)


def _other_kind(deep: DeepPixels, intensity: Range) -> Range:
    """Return the whole range of the format, for floats among integers and the reverse.

    Raises:
        ImageError: floats that are not from 0 to 1.
    """
    low, high = deep.limits
    if deep.kind == "float" and not (
        low <= np.nanmin(deep.values, initial=low) and np.nanmax(deep.values, initial=high) <= high
    ):
        raise ImageError(
            f"The image holds float values beyond 0..1, but most images of its group hold integers, with intensity "
            f"{intensity.low:g},{intensity.high:g}: put it into another group, or give --intensity."
        )
    return Range(low, high, deep.kind)


def _remarks(deep: DeepPixels, found: Range) -> tuple[str, ...]:
    """Say what the range does to an image's values.

    Raises:
        ImageError: they are all NaN.
    """
    remarks = []
    if deep.kind == "float":
        missing = int(np.isnan(deep.values).sum())
        if missing == deep.values.size:
            raise ImageError("The image holds NaN values only.")
        if missing:
            remarks.append(NAN)
    if not found.robust and (np.nanmax(deep.values) > found.high or np.nanmin(deep.values) < found.low):
        remarks.insert(0, CLIPPED)
    return tuple(remarks)
