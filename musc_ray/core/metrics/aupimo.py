"""AUPIMO: how much of each defective image's mask is found at thresholds with very few false positives.

Bertoldo et al., "AUPIMO: Redefining Visual Anomaly Detection Benchmarks with High Speed and Low Tolerance" (BMVC 2024),
section 3. The x-axis is the false positive rate at pixel level on good images alone, the mean over images, on a log
axis from 1e-5 to 1e-4; the y-axis an image's own share of mask pixels found; AUPIMO is the area, 1 at best.

A mask pixel counts at every rate from the one on at which its score is reached. So an image's area is the mean over its
mask pixels of a credit that depends on the pixel's score alone, and only the good images' highest scores are needed.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from musc_ray.core.metrics.counting import BinCounts, Floats, Keys, keys_of

FPR_BOUNDS = (1e-5, 1e-4)


@dataclass(frozen=True)
class NormalTail:
    """The highest scores of good images' pixels; the tails of two sets of images add up.

    Attributes:
        keys: (K,) uint32 ascending, distinct scores.
        weights: (K,) sums over pixels with this score of 1 / pixels of their image.
    """

    keys: Keys
    weights: Floats

    def __add__(self, other: "NormalTail") -> "NormalTail":
        keys, places = np.unique(np.concatenate([self.keys, other.keys]), return_inverse=True)
        return NormalTail(
            keys, np.bincount(places, np.concatenate([self.weights, other.weights]), len(keys)).astype(np.float64)
        )


NO_TAIL = NormalTail(np.empty(0, np.uint32), np.empty(0))


def lowest_tail_bin(counts: BinCounts) -> int:
    """Find the bin in which the false positive rate on good images exceeds the upper bound."""
    reached = np.cumsum(counts.normals[::-1]) > FPR_BOUNDS[1] * counts.good
    return int(counts.bins[::-1][np.argmax(reached)]) if reached.any() else 0


def normal_tail(values: npt.NDArray[np.float32], lowest_bin: int, pixels: int) -> NormalTail:
    """Compute the tail of pixel scores (P,) of one good image, down to a bin.

    Args:
        values: all scores of the image, or a part of them, whose tails add up.
        lowest_bin: see `lowest_tail_bin`.
        pixels: of the whole image.
    """
    keys = keys_of(values)
    keys, counts = np.unique(keys[keys >> 16 >= lowest_bin], return_counts=True)
    return NormalTail(keys, counts / pixels)


class Credits:
    """The credit of mask pixels by score.

    As in the authors' code (and anomalib's), the area is taken between the occurring rates nearest to the bounds, and
    divided by the area between the bounds.

    Attributes:
        usable: whether these two rates differ; if not, the good images have too few pixels for AUPIMO.
    """

    def __init__(self, tail: NormalTail, good: int) -> None:
        """Compute credits from the tail of all good images and their number, at least 1."""
        rates = np.cumsum(tail.weights[::-1])[::-1] / good  # of scores at or above
        low, high = (rates[np.argmin(np.abs(rates - bound))] for bound in FPR_BOUNDS)
        self.usable = bool(low < high)
        self._keys = tail.keys
        rates = np.clip(np.append(rates, 0.0), low, high)
        self._credits = np.log(high / rates) / np.log(FPR_BOUNDS[1] / FPR_BOUNDS[0])

    def of(self, values: npt.NDArray[np.float32]) -> float:
        """Compute the AUPIMO of an image from the scores (M,) of its mask's pixels, M > 0.

        A score that also occurs in good images counts halfway between the rates without and with it.
        """
        keys = keys_of(values)
        at_or_above = self._credits[np.searchsorted(self._keys, keys, side="left")]
        above = self._credits[np.searchsorted(self._keys, keys, side="right")]
        return min(1.0, float(np.mean(at_or_above + above) / 2))
