"""Pixel AUROC, AP, F1-max and AUPRO from counts of pixels, in pieces that add up.

All pixels of all images are ranked by score. Each distinct score is a threshold: pixels at or above it count as
defective. A piece of the ranking, with the counts above it, gives its share of each metric; pieces can be computed on
different workers. Metrics are exact, thresholds are not sampled.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from musc_ray.core.metrics.counting import BinCounts, Floats, PlaceCounter, values_of

FPR_LIMIT = 0.3
"""False positive rate up to which the per-region overlap is integrated (MVTec AD, Bergmann et al. 2021)."""


@dataclass(frozen=True)
class Totals:
    """Numbers of pixels outside masks, of pixels in masks, and of connected regions of masks."""

    negatives: int
    positives: int
    regions: int


@dataclass(frozen=True)
class Above:
    """Counts of what scores higher: pixels outside masks, in masks, and the sum of the regions' overlaps."""

    negatives: float
    positives: float
    overlaps: float


@dataclass(frozen=True)
class PixelMetrics:
    """A piece's share of AUROC, AP and AUPRO, and its best F1; the sum of all pieces gives the metrics.

    `threshold` is the lowest score at which F1 is the largest.
    """

    auroc: float = 0.0
    ap: float = 0.0
    f1_max: float = 0.0
    threshold: float = np.inf
    aupro: float = 0.0

    def __add__(self, other: "PixelMetrics") -> "PixelMetrics":
        best = max((self.f1_max, -self.threshold), (other.f1_max, -other.threshold))
        return PixelMetrics(self.auroc + other.auroc, self.ap + other.ap, best[0], -best[1], self.aupro + other.aupro)


@dataclass(frozen=True)
class Bins:
    """Bins, from the highest, whose places have to be counted, and the counts above each."""

    bins: npt.NDArray[np.int64]
    above: list[Above]


def totals_of(counts: BinCounts) -> Totals:
    """Sum the counts of all bins."""
    return Totals(int(counts.negatives.sum()), int(counts.positives.sum()), counts.regions)


def plan_bins(counts: BinCounts, max_bytes: int) -> tuple[PixelMetrics, list[Bins]]:
    """Compute the contribution of bins without mask pixels (order in them does not matter); collect the other bins.

    Args:
        counts: of all images, with pixels of both kinds.
        max_bytes: memory for the counts of the bins processed at a time.
    """
    totals, known = totals_of(counts), PixelMetrics()
    bins: list[int] = []
    above: list[Above] = []
    so_far = Above(0.0, 0.0, 0.0)
    for i in range(len(counts.bins) - 1, -1, -1):
        if counts.positives[i]:
            bins.append(int(counts.bins[i]))
            above.append(so_far)
        else:
            one = slice(i, i + 1)
            known += metrics_of(
                counts.bins[one] << 16,
                counts.negatives[one],
                counts.positives[one],
                counts.overlaps[one],
                so_far,
                totals,
            )
        so_far = Above(
            so_far.negatives + counts.negatives[i],
            so_far.positives + counts.positives[i],
            so_far.overlaps + counts.overlaps[i],
        )
    step = max(1, max_bytes // PlaceCounter.BYTES_PER_BIN)
    starts = range(0, len(bins), step)
    return known, [Bins(np.array(bins[i : i + step], np.int64), above[i : i + step]) for i in starts]


def bins_metrics(counted: Bins, counter: PlaceCounter, totals: Totals) -> PixelMetrics:
    """Compute the contribution of bins whose places are counted for all images."""
    result = PixelMetrics()
    for row, (number, above) in enumerate(zip(counted.bins, counted.above, strict=True)):
        negatives, positives = counter.negatives[row], counter.positives[row]
        places = np.flatnonzero(negatives | positives)[::-1]
        keys = (number << 16) + places
        result += metrics_of(keys, negatives[places], positives[places], counter.overlaps[row, places], above, totals)
    return result


def metrics_of(
    keys: npt.NDArray[np.int64],
    negatives: npt.NDArray[np.integer],
    positives: npt.NDArray[np.integer],
    overlaps: Floats,
    above: Above,
    totals: Totals,
) -> PixelMetrics:
    """Compute a piece's share of the metrics.

    Args:
        keys: (K,) distinct scores' keys, descending.
        negatives, positives, overlaps: (K,) counts of pixels with exactly these scores.
        above: counts of what scores higher.
        totals: counts of all; negatives, positives and regions are not 0.
    """
    if len(keys) == 0:
        return PixelMetrics()
    fp = above.negatives + np.cumsum(negatives, dtype=np.float64)
    tp = above.positives + np.cumsum(positives, dtype=np.float64)
    overlap = above.overlaps + np.cumsum(overlaps)
    fp_before, tp_before = np.append(above.negatives, fp[:-1]), np.append(above.positives, tp[:-1])
    f1 = 2.0 * tp / (tp + fp + totals.positives)
    best = len(f1) - 1 - int(np.argmax(f1[::-1]))
    return PixelMetrics(
        auroc=float(((tp_before + tp) / 2 * (fp - fp_before)).sum() / totals.negatives / totals.positives),
        ap=float(((tp - tp_before) * (tp / (tp + fp))).sum() / totals.positives),
        f1_max=float(f1[best]),
        threshold=float(values_of(keys[best])),
        aupro=_overlap_area(
            np.append(fp_before[0], fp) / totals.negatives, np.append(above.overlaps, overlap) / totals.regions
        ),
    )


def _overlap_area(fpr: Floats, overlap: Floats) -> float:
    """Compute the area below the per-region overlap, a polygon over FPR, up to the limit, as a share of the limit."""
    width = np.diff(fpr)
    inside = np.clip(FPR_LIMIT - fpr[:-1], 0.0, width)
    part = np.divide(inside, width, out=np.zeros_like(width), where=width > 0)
    end = overlap[:-1] + part * np.diff(overlap)
    return float(((overlap[:-1] + end) / 2 * inside).sum() / FPR_LIMIT)
