"""Ranks and percentiles of image scores within their group, or among other images of it."""

import numpy as np
import numpy.typing as npt


def ranks(scores: npt.NDArray[np.float32], image_ids: npt.NDArray[np.str_]) -> npt.NDArray[np.int32]:
    """Rank images (N,) by score: 1 = most anomalous, ties in the order of image_id."""
    order = np.lexsort((image_ids, -scores))
    result = np.empty(len(scores), dtype=np.int32)
    result[order] = np.arange(1, len(scores) + 1, dtype=np.int32)
    return result


def percentiles_among(scores: npt.NDArray[np.float32], others: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Compute the percentile (N,) of each score among other images (M,), 0 to 100: share of lower ones, ties half."""
    ordered = np.sort(others)
    lower = np.searchsorted(ordered, scores, side="left")
    not_higher = np.searchsorted(ordered, scores, side="right")
    return ((lower + not_higher) * (50.0 / len(others))).astype(np.float32)


def percentiles(scores: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Compute the percentile (N,) of each score among the others of the group, 0 to 100, ties half."""
    others = len(scores) - 1
    if others == 0:
        return np.full(1, 50.0, dtype=np.float32)
    ordered = np.sort(scores)
    lower = np.searchsorted(ordered, scores, side="left")
    not_higher = np.searchsorted(ordered, scores, side="right") - 1  # without the image itself
    return ((lower + not_higher) * (50.0 / others)).astype(np.float32)
