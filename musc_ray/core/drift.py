"""Drift: how far the raw scores of one night lie from those of the images they were scored against."""

import numpy as np
import numpy.typing as npt

MAD_OF_NORMAL = 1.4826
"""Standard deviation of a normal distribution in units of its median absolute deviation."""

MEDIAN_ERROR = 1.2533
"""Standard error of a normal sample's median, in standard deviations, times the root of its size."""

SMALLEST_SPREAD = 1e-6
"""Of the median: what spread is taken for none."""


def drift(new: npt.NDArray[np.float32], window: npt.NDArray[np.float32]) -> float:
    """Distance of the medians of raw scores, new (n,) and of the window (m,), in robust standard deviations.

    The window's spread is its median absolute deviation, so that defects in it hardly count. Positive: tonight's
    images look more anomalous as a whole, as after a change of light, lens or material.
    """
    median = float(np.median(window))
    spread = MAD_OF_NORMAL * float(np.median(np.abs(window - median)))
    least = max(SMALLEST_SPREAD * abs(median), float(np.finfo(np.float32).tiny))
    return (float(np.median(new)) - median) / max(spread, least)


def is_drift(value: float, images: int, level: float) -> bool:
    """Whether a drift of n images is beyond the level and beyond what chance does to a median (3 standard errors)."""
    return abs(value) >= level and abs(value) > 3 * MEDIAN_ERROR / images**0.5
