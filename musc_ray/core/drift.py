"""Drift: the distance of one night's raw scores from those of the images they were scored against."""

import numpy as np
import numpy.typing as npt

from musc_ray.core.robust import MAD_TO_STD

MEDIAN_ERROR = 1.2533
"""Standard error of a normal sample's median, in standard deviations, times the square root of its size."""

MIN_RELATIVE_SPREAD = 1e-6
"""Smallest spread assumed, as a share of the median: equal scores would divide by zero."""


def drift(new: npt.NDArray[np.float32], window: npt.NDArray[np.float32]) -> float:
    """Compute the distance of the medians of raw scores in robust standard deviations.

    The window's spread is its median absolute deviation, so defects in it hardly count. Positive: the new images look
    more anomalous as a whole, as after a change of light, lens or material.

    Args:
        new: (n,) raw scores of the new images.
        window: (m,) raw scores of the earlier images.
    """
    median = float(np.median(window))
    spread = MAD_TO_STD * float(np.median(np.abs(window - median)))
    least = max(MIN_RELATIVE_SPREAD * abs(median), float(np.finfo(np.float32).tiny))
    return (float(np.median(new)) - median) / max(spread, least)


def is_drift(value: float, images: int, level: float) -> bool:
    """Tell whether a drift of n images exceeds the level and 3 standard errors of their median (chance)."""
    return abs(value) >= level and abs(value) > 3 * MEDIAN_ERROR / images**0.5
