"""Thresholds on the image scores of a group: an image is anomalous when its score is at least the threshold."""

import numpy as np
import numpy.typing as npt

from musc_ray.core.robust import MAD_TO_STD

FENCE = 3.5
"""Robust standard deviations above the bulk from which a value counts as an outlier (Iglewicz and Hoaglin, 1993)."""


def is_anomalous(scores: npt.NDArray[np.floating], threshold: float) -> npt.NDArray[np.bool_]:
    """Tell which of the scores (N,) are at least the threshold, compared in float64 as a database does."""
    result: npt.NDArray[np.bool_] = scores.astype(np.float64) >= threshold
    return result


def suggest_threshold(scores: npt.NDArray[np.floating]) -> float:
    """Suggest a threshold from the scores alone: 3.5 robust standard deviations above the bulk of good images.

    Most images are good and have similar scores; an unknown share of defects scores higher. The location of the good
    ones is the shorth, the mean of the shortest half of the sorted scores (Andrews et al., Robust Estimates of
    Location, 1972), which ignores a long tail on either side. Their spread is the lower MAD, the median distance of the
    scores below the shorth from it, which defects hardly affect (the lower half of the double MAD):

        threshold = shorth + 3.5 * 1.4826 * median(shorth - s | s <= shorth)

    Affine equivariant. Fails when half of the images or more are defective. `tests/benchmarks/bench_threshold.py`
    compares it with other rules.

    Args:
        scores: (N,) of one group, N >= 1.

    Returns:
        The threshold. It may lie above all scores: then no image is anomalous. If the scores below the shorth do not
        spread (half of all are equal) it is the next number above it, so that equal scores are never anomalous.

    Raises:
        ValueError: no scores, or NaN or infinite ones.
    """
    shorth, spread = bulk(scores)
    return max(shorth + FENCE * MAD_TO_STD * spread, float(np.nextafter(shorth, np.inf)))


def bulk(scores: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Estimate location and spread of the good images' scores, from all (N,): shorth and lower MAD, see above."""
    ordered = _sorted(scores)
    half = len(ordered) // 2 + 1
    widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
    start = int(np.argmin(widths))
    shortest = ordered[start : start + half]
    shorth = float(np.clip(shortest.mean(), shortest[0], shortest[-1]))  # rounding may move the mean out of its values
    return shorth, float(np.median(shorth - ordered[ordered <= shorth]))


def contamination_threshold(scores: npt.NDArray[np.floating], share: float) -> float:
    """Compute the threshold that flags the most anomalous share: the score of image max(1, round(share * N)).

    Images with equal scores are anomalous together: ties at the threshold add to the share.

    Args:
        scores: (N,) of one group, N >= 1.
        share: expected share of defective images, in (0, 1).

    Raises:
        ValueError: no scores, NaN or infinite ones, or a share outside (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share must lie between 0 and 1, got {share}.")
    ordered = _sorted(scores)
    return float(ordered[-max(1, round(share * len(ordered)))])


def _sorted(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Sort scores (N,) in ascending order as float64."""
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"scores must be (N,) with N >= 1, got {scores.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError("scores must not hold NaN or infinite values.")
    return np.sort(scores.astype(np.float64))
