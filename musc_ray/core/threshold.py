"""Thresholds on the image scores of a group: an image is anomalous when its score is at least the threshold."""

import numpy as np
import numpy.typing as npt

FENCE = 3.5
"""Robust standard deviations above the bulk from which a value counts as an outlier (Iglewicz and Hoaglin, 1993)."""

NORMAL_MAD = 1.4826
"""Standard deviation of a normal distribution by its median absolute deviation: 1 / Phi^-1(3/4)."""


def is_anomalous(scores: npt.NDArray[np.floating], threshold: float) -> npt.NDArray[np.bool_]:
    """Which of the scores (N,) are at least the threshold, compared in float64 as a database does."""
    result: npt.NDArray[np.bool_] = scores.astype(np.float64) >= threshold
    return result


def suggest_threshold(scores: npt.NDArray[np.floating]) -> float:
    """A threshold from the scores alone: 3.5 robust standard deviations above the bulk of good images.

    Most images are good and lie close together, an unknown share of defects lies above them. So where the good ones lie
    is the shorth, the mean of the shortest half of the sorted scores (Andrews et al., Robust Estimates of Location,
    1972), which leaves out a longer tail on either side; and how far they spread is the lower MAD, the median distance
    from there of the scores below, which defects hardly reach (the lower half of the double MAD):

        threshold = shorth + 3.5 * 1.4826 * median(shorth - s | s <= shorth)

    Affine equivariant; of no use when half of the images or more are defective. `tests/benchmarks/bench_threshold.py`
    compares it with other rules.

    Args:
        scores: (N,) of one group, N >= 1.

    Returns:
        The threshold. It may lie above all scores: then no image stands out. Where the scores below the shorth do not
        spread (half of all are equal) it is the next number above it, so that equal scores are never anomalous.

    Raises:
        ValueError: no scores, or NaN or infinite ones.
    """
    shorth, spread = bulk(scores)
    return max(shorth + FENCE * NORMAL_MAD * spread, float(np.nextafter(shorth, np.inf)))


def bulk(scores: npt.NDArray[np.floating]) -> tuple[float, float]:
    """Where the good ones among scores (N,) lie and how far they spread: shorth and lower MAD, see above."""
    ordered = _sorted(scores)
    half = len(ordered) // 2 + 1
    widths = ordered[half - 1 :] - ordered[: len(ordered) - half + 1]
    start = int(np.argmin(widths))
    shortest = ordered[start : start + half]
    shorth = float(np.clip(shortest.mean(), shortest[0], shortest[-1]))  # the mean may round out of its values
    return shorth, float(np.median(shorth - ordered[ordered <= shorth]))


def contamination_threshold(scores: npt.NDArray[np.floating], share: float) -> float:
    """The score of the last image that belongs to the most anomalous share: round(share * N) images, at least one.

    Images with equal scores are anomalous together, so ties at the threshold add to the share.

    Args:
        scores: (N,) of one group, N >= 1.
        share: of the images that are defective, in (0, 1).

    Raises:
        ValueError: no scores, NaN or infinite ones, or a share outside (0, 1).
    """
    if not 0.0 < share < 1.0:
        raise ValueError(f"share must lie between 0 and 1, got {share}.")
    ordered = _sorted(scores)
    return float(ordered[-max(1, round(share * len(ordered)))])


def _sorted(scores: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Scores (N,) in ascending order as float64."""
    if scores.ndim != 1 or len(scores) == 0:
        raise ValueError(f"scores must be (N,) with N >= 1, got {scores.shape}.")
    if not np.isfinite(scores).all():
        raise ValueError("scores must not hold NaN or infinite values.")
    return np.sort(scores.astype(np.float64))
