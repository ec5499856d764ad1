"""Calibrate the maps of crops patch by patch over a group, and choose what shows its defects: whole images or crops.

Finer is not better by itself. In crops every benign spot and edge is as unusual as a defect, and the maximum over many
more patches finds one in every image: on thin cracks in rough commutators image AUROC falls from 0.94 to 0.82 however
crops overlap or are blended (bench_crops.py). Two things help:

1. Where a product is always unusual (edges, print), all images have high scores there. Each patch is divided by what is
   usual at its place: the median over the group's images.
2. A group's defects are few and stand out: of whole images and crops, the maps are taken whose image scores stand out
   further. `outstanding` is the 95th percentile of the logarithms of image scores, in robust standard deviations from
   their median.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from musc_ray.core.crops import CropLayout
from musc_ray.core.robust import MAD_TO_STD
from musc_ray.core.stitching import stitch

FloatArray = npt.NDArray[np.float32]

Shown = Literal["whole", "crops"]
"""What patch maps are from."""

SAMPLE_IMAGES = 256
"""Images that usual scores and the choice are found from."""

MIN_IMAGES = 16
"""With fewer images a median over them would take a defect for usual: maps stay as they are, and show crops."""

MIN_USUAL = 0.5
"""Least usual score of a patch, as a share of the median of all: what never changes is not made sensitive at will."""

OUTSTANDING = 0.95
"""Quantile of image scores that says how far they stand out: of a group with few defects it is one of them."""


@dataclass(frozen=True)
class ShownMaps:
    """What the maps of a group show, and why.

    Attributes:
        shown: maps of whole images or of crops.
        reason: a phrase.
        whole, crops: how far image scores stand out in each; None of a group of too few images.
    """

    shown: Shown
    reason: str
    whole: float | None = None
    crops: float | None = None


def usual_scores(maps: FloatArray) -> FloatArray:
    """Compute what is usual of each patch: the median over images, at least MIN_USUAL of the median of all patches.

    Args:
        maps: (N, n) of a sample of the group; NaN where a patch of an image is not scored.

    Returns:
        (n,) float32; 1 where no image has a score, and everywhere for fewer than MIN_IMAGES images.
    """
    if len(maps) < MIN_IMAGES:
        return np.ones(maps.shape[1], np.float32)
    seen = ~np.isnan(maps).all(axis=0)
    usual = np.full(maps.shape[1], np.nan)
    usual[seen] = np.nanmedian(maps[:, seen], axis=0)
    if not seen.any() or not np.nanmedian(usual) > 0:
        return np.ones(maps.shape[1], np.float32)
    usual = np.maximum(usual, MIN_USUAL * np.nanmedian(usual))
    return np.where(seen, usual, 1).astype(np.float32)


def calibrated(maps: FloatArray, usual: FloatArray) -> FloatArray:
    """Divide maps (A, n) by what is usual of each patch (n,); the result is in distances, as maps are."""
    result: FloatArray = maps / usual * np.median(usual)
    return result


def outstanding(scores: npt.NDArray[np.floating]) -> float:
    """Return how far the scores (N,) of a group stand out, in robust standard deviations; 0 where all are the same."""
    logarithms = np.log(np.maximum(scores.astype(np.float64), np.finfo(np.float32).tiny))
    middle = float(np.median(logarithms))
    deviation = MAD_TO_STD * float(np.median(np.abs(logarithms - middle)))
    return (float(np.quantile(logarithms, OUTSTANDING)) - middle) / deviation if deviation > 0 else 0.0


def choose_shown(whole: FloatArray, crops: FloatArray, layout: CropLayout) -> ShownMaps:
    """Choose what the maps of a group show, by a sample of its images.

    Args:
        whole: (N, n) maps of whole images.
        crops: (N, P, h, w) maps of their crops.
        layout: of the crops.
    """
    images = len(whole)
    if images < MIN_IMAGES:
        return ShownMaps("crops", f"there are fewer than {MIN_IMAGES} images")
    of_crops = calibrated(crops.reshape(images, -1), usual_scores(crops.reshape(images, -1))).reshape(crops.shape)
    of_whole = calibrated(whole, usual_scores(whole))
    figures = outstanding(peaks(of_whole)), outstanding(peaks(stitch(of_crops, layout)))
    shown: Shown = "whole" if figures[0] >= figures[1] else "crops"
    other = {"whole": "crops", "crops": "whole images"}[shown]
    reason = (
        f"the highest scores stand out by {max(figures):.1f} robust standard deviations, in maps of {other} by "
        f"{min(figures):.1f}"
    )
    return ShownMaps(shown, reason, *figures)


def peaks(maps: FloatArray) -> FloatArray:
    """Return the maximum (N,) of each map, patches that are not scored left out; 0 where none is."""
    flat = maps.reshape(len(maps), -1)
    result: FloatArray = np.where(np.isnan(flat), 0, flat).max(axis=1)
    return result
