"""RsCIN: re-score images by the scores of those that look most like them as a whole (MuSc, section 3.4)."""

from collections.abc import Sequence

import numpy.typing as npt

from musc_ray.core.rescoring import FloatArray, rescored


def rscin(scores: npt.ArrayLike, class_tokens: npt.ArrayLike, k_list: Sequence[int] = (1, 2, 3)) -> FloatArray:
    """Re-score image scores by the scores of their most similar images (MuSc, eq. 7 and 8).

    For each k the score becomes the mean of the k most similar images' scores (itself included), weighted by
    cosine similarity; the result is the mean over k_list.

    Args:
        scores: (N,) raw image scores of one group; min-max scaled to [0, 1] here.
        class_tokens: (N, C) class tokens of the same images; L2-normalised here.
        k_list: neighbourhood sizes; a k beyond N counts as N.

    Returns:
        (N,) float32.

    Raises:
        ValueError: mismatched shapes, NaN or infinite values, an empty k_list or a k below 1.
    """
    return rescored(scores, class_tokens, k_list, "class_tokens")
