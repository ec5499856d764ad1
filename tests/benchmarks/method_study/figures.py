"""Figures of scores and maps: image AUROC, image AP, pixel AP, AUPRO, in percent."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from scipy.ndimage import label

from method_study.image_sets import ImageSet
from musc_ray.core.metrics.image import average_precision, image_auroc
from musc_ray.core.metrics.pixel_curve import Above, Totals, metrics_of
from musc_ray.core.pixel_map import pixel_map

Figures = npt.NDArray[np.float64]
"""(4,): image AUROC, image AP, pixel AP, AUPRO, in percent; NaN where a set has none."""

CANVAS_SIDE = 128
"""Masks and maps meet on a canvas of this side squared pixels, in the shape of the set: fast, and fair to all grids."""

BINS = 2**14
NO_FIGURE = (np.nan, np.nan)


class Truth:
    """Labels and masks of a set, ready to be compared with scores and maps.

    Attributes:
        images: the set.
    """

    def __init__(self, images: ImageSet) -> None:
        self.images = images
        ratio = images.ratio**0.5
        self._canvas = (round(CANVAS_SIDE * ratio), round(CANVAS_SIDE / ratio))

    def figures(self, scores: npt.ArrayLike, maps: torch.Tensor) -> Figures:
        """Compute all figures of scores (N,) and patch maps (N, h, w)."""
        return np.array([*self.of_scores(scores), *self.of_maps(maps)])

    def of_scores(self, scores: npt.ArrayLike) -> tuple[float, float]:
        """Compute image AUROC and AP."""
        if not self.images.has_image_metrics:
            return NO_FIGURE
        labels = self.images.labels
        return 100 * image_auroc(labels, scores), 100 * average_precision(labels, scores)

    def of_maps(self, maps: torch.Tensor) -> tuple[float, float]:
        """Compute pixel AP and AUPRO of the good images and the defective ones with a mask."""
        if not self.images.has_masks:
            return NO_FIGURE
        masked, shares, regions, images = self._masks
        values = pixel_map(maps[images], self._canvas).numpy()
        low, high = values.min(), values.max()
        bins = ((values - low) * ((BINS - 1) / (high - low))).astype(np.int32)
        positives = np.bincount(bins[masked], minlength=BINS)[::-1]
        negatives = np.bincount(bins.ravel(), minlength=BINS)[::-1] - positives
        overlaps = np.bincount(bins[masked], weights=shares, minlength=BINS)[::-1]
        totals, used = Totals(int(negatives.sum()), int(positives.sum()), regions), (positives + negatives) > 0
        keys = np.arange(BINS, dtype=np.int64)[::-1]
        counts = (values[used] for values in (keys, negatives, positives, overlaps))
        found = metrics_of(*counts, Above(0.0, 0.0, 0.0), totals)
        return 100 * found.ap, 100 * found.aupro

    @cached_property
    def _masks(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64], int, npt.NDArray[np.int64]]:
        """Return masked pixels (K, H, W), of each masked pixel the share of its region, regions, positions of the K."""
        masks = [self._mask(i) for i in range(len(self.images.paths))]
        images = np.array([i for i, mask in enumerate(masks) if mask is not None])
        masked = np.stack([mask for mask in masks if mask is not None])
        shares, regions = [], 0
        for mask in masked:
            numbers, count = label(mask, np.ones((3, 3)))
            areas = np.bincount(numbers.ravel())
            shares.append(1.0 / areas[numbers[mask]])
            regions += count
        return masked, np.concatenate(shares), regions, images

    def _mask(self, i: int) -> npt.NDArray[np.bool_] | None:
        """Return a mask on the canvas; None if the image is defective and its mask is missing or black."""
        if not self.images.labels[i]:
            return np.zeros(self._canvas, np.bool_)
        path = self.images.masks[i]
        if path is None:
            return None
        shades = np.asarray(Image.open(path).convert("L")) >= 128  # the level of MuSc's code
        if not shades.any():
            return None
        shares = np.asarray(Image.fromarray(np.float32(shades)).resize(self._canvas[::-1], Image.Resampling.BOX))
        return shares >= 0.5 if (shares >= 0.5).any() else shares > 0  # a defect thinner than a pixel stays


def mean_of_sets(figures: Sequence[Figures]) -> Figures:
    """Average each metric over the sets that have it (4,)."""
    stacked = np.stack(figures)
    known = ~np.isnan(stacked)
    return np.divide(np.where(known, stacked, 0).sum(0), known.sum(0), out=np.full(4, np.nan), where=known.any(0))


def wins_and_losses(differences: Sequence[Figures], at_least: float = 0.05) -> tuple[int, int]:
    """Count the sets that gain and that lose, by the mean of the metrics they have, in points."""
    gains = [float(np.nanmean(difference)) for difference in differences]
    return sum(gain > at_least for gain in gains), sum(gain < -at_least for gain in gains)


def row_of(values: Figures, sign: str = "+") -> str:
    """Format figures for a table; `sign` is empty for figures that are no differences."""
    return "".join(f"{'-':>8}" if np.isnan(value) else f"{value:{sign}8.1f}" for value in values)
