"""Exact counts of billions of pixels in bounded memory: floats as ordered integers, counted in two levels.

The bits of a float32, flipped where it is negative, are an integer (its key) that orders as the number does. A key's
upper 16 bits are its bin, the lower 16 its place in the bin. One pass over the pixels counts the bins; further passes
count the places of those bins in which order matters, as many bins at a time as fit in memory. Nothing is rounded.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

BINS = PLACES = 2**16

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint32]
Number = TypeVar("Number", np.int64, np.float64)


def keys_of(values: npt.NDArray[np.float32]) -> Keys:
    """Map float32 values to uint32 keys of the same order; zeros of both signs get the same key."""
    bits = (values + np.float32(0)).view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(2**31))


def values_of(keys: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Map keys back to float32 values."""
    given = np.asarray(keys, np.uint32)
    return np.where(given >> 31, given ^ np.uint32(2**31), ~given).view(np.float32)


@dataclass(frozen=True)
class BinCounts:
    """Pixels of a set of images in each bin; two sets add up.

    Attributes:
        bins: (B,) int64 ascending, the bins that are not empty.
        negatives: (B,) int64 pixels outside of masks.
        positives: (B,) int64 pixels in masks.
        overlaps: (B,) sums over pixels in masks of 1 / pixels of their region.
        normals: (B,) sums over pixels of good images of 1 / pixels of their image.
        regions: number of connected regions of the masks.
        good: number of good images.
    """

    bins: npt.NDArray[np.int64]
    negatives: npt.NDArray[np.int64]
    positives: npt.NDArray[np.int64]
    overlaps: Floats
    normals: Floats
    regions: int = 0
    good: int = 0

    def __add__(self, other: "BinCounts") -> "BinCounts":
        bins, places = np.unique(np.concatenate([self.bins, other.bins]), return_inverse=True)
        own, others = places[: len(self.bins)], places[len(self.bins) :]

        def both(mine: npt.NDArray[Number], yours: npt.NDArray[Number]) -> npt.NDArray[Number]:
            summed = np.zeros(len(bins), mine.dtype)
            summed[own] = mine
            summed[others] += yours
            return summed

        return BinCounts(
            bins,
            both(self.negatives, other.negatives),
            both(self.positives, other.positives),
            both(self.overlaps, other.overlaps),
            both(self.normals, other.normals),
            self.regions + other.regions,
            self.good + other.good,
        )


_NONE, _NOTHING = np.empty(0, np.int64), np.empty(0, np.float64)
EMPTY = BinCounts(_NONE, _NONE, _NONE, _NOTHING, _NOTHING)


class BinCounter:
    """Count images into bins, one after the other."""

    def __init__(self) -> None:
        self._negatives, self._positives = np.zeros(BINS, np.int64), np.zeros(BINS, np.int64)
        self._overlaps, self._normals = np.zeros(BINS), np.zeros(BINS)
        self._regions = self._good = 0

    def add(self, values: npt.NDArray[np.float32], regions: npt.NDArray[np.int32], shares: Floats, good: bool) -> None:
        """Count an image.

        Args:
            values: (P,) pixel scores.
            regions: (P,) the number of each pixel's region from 1, 0 outside; or (0,) for an image without a mask.
            shares: (R + 1,) 1 / pixels of each region, [0] = 0.
            good: whether the image is good.

        Raises:
            ValueError: NaN scores.
        """
        self.add_parts([(values, regions)], shares, good)

    def add_parts(
        self, parts: Iterable[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]], shares: Floats, good: bool
    ) -> None:
        """Count an image whose values and regions come in parts; otherwise as `add`."""
        from musc_ray.core.kernels.pixel_counts import count_bins  # here: imports numba

        negatives, pixels = np.zeros(BINS, np.int64) if good else self._negatives, 0
        for values, regions in parts:
            if not count_bins(values, regions, shares, negatives, self._positives, self._overlaps):
                raise ValueError("pixel scores must not hold NaN.")
            pixels += len(values)
        self._regions += len(shares) - 1
        if good:
            self._negatives += negatives
            self._normals += negatives / pixels
            self._good += 1

    def counts(self) -> BinCounts:
        """Return the counts of all images added."""
        bins = np.flatnonzero(self._negatives + self._positives)
        return BinCounts(
            bins,
            self._negatives[bins],
            self._positives[bins],
            self._overlaps[bins],
            self._normals[bins],
            self._regions,
            self._good,
        )


class PlaceCounter:
    """Count the places of some bins.

    Attributes:
        negatives, positives: (B, 65536) pixels by bin and place.
        overlaps: (B, 65536) as in BinCounts.
    """

    BYTES_PER_BIN = PLACES * (4 + 4 + 8)

    def __init__(self, bins: npt.NDArray[np.int64], pixels: int) -> None:
        """Allocate the counts.

        Args:
            bins: (B,) bins to count the places of.
            pixels: maximum number of pixels.
        """
        dtype = np.uint32 if pixels < 2**32 else np.uint64
        self.negatives, self.positives = (np.zeros((len(bins), PLACES), dtype) for _ in range(2))
        self.overlaps = np.zeros((len(bins), PLACES))
        self._rows = np.full(BINS, -1, np.int32)
        self._rows[bins] = np.arange(len(bins), dtype=np.int32)

    def may_hold(self, low: float, high: float) -> bool:
        """Tell whether a value from low to high can lie in the bins, with a margin for rounding."""
        first, last = (keys_of(np.array([low, high], np.float32)) >> 16).astype(np.int64)
        return bool((self._rows[max(first - 1, 0) : last + 2] >= 0).any())

    def add(self, values: npt.NDArray[np.float32], regions: npt.NDArray[np.int32], shares: Floats) -> None:
        """Count an image or a part of one, as in BinCounter."""
        from musc_ray.core.kernels.pixel_counts import count_places  # here: imports numba

        count_places(values, regions, shares, self._rows, self.negatives, self.positives, self.overlaps)
