"""RsCIN: re-scoring of image scores by their most similar images (MuSc, section 3.4), by FAISS neighbours.

No N x N matrix is ever made: only each image's max(k_list) nearest images are kept.
"""

from collections.abc import Sequence

import faiss
import numpy as np
import numpy.typing as npt

EXACT_SEARCH_LIMIT = 200_000
"""Up to so many class tokens of a group the neighbours are exact; beyond, an inverted-file index finds them."""

FloatArray = npt.NDArray[np.float32]


def min_max(scores: npt.NDArray[np.floating]) -> FloatArray:
    """Scale scores (N,) to [0, 1] over the group; a group of equal scores becomes all 0."""
    low, high = float(scores.min()), float(scores.max())
    if high <= low:
        return np.zeros(len(scores), dtype=np.float32)
    return ((scores.astype(np.float64) - low) / (high - low)).astype(np.float32)


def nearest_images(class_tokens: FloatArray, k: int) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """The k most similar images of each image by cosine, the image itself always first.

    Args:
        class_tokens: (N, C) float32, of any length; normalised here.
        k: neighbours to find, the image itself included.

    Returns:
        similarities (N, k) float32 in descending order and image indices (N, k) int64; where an approximate index
        finds fewer, the similarity is 0 and the index the image's own.
    """
    tokens = np.ascontiguousarray(class_tokens, dtype=np.float32).copy()
    faiss.normalize_L2(tokens)
    n, channels = tokens.shape
    k = min(k, n)
    index = faiss.IndexFlatIP(channels) if n <= EXACT_SEARCH_LIMIT else _inverted_file(tokens)
    index.add(tokens)
    similarities, indices = index.search(tokens, k)
    return _self_first(similarities, indices)


def _inverted_file(tokens: FloatArray) -> faiss.IndexIVFFlat:
    """A trained, empty index that looks into 1/16 of its 4 sqrt(N) lists."""
    n, channels = tokens.shape
    lists = int(4 * np.sqrt(n))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(channels), channels, lists, faiss.METRIC_INNER_PRODUCT)
    index.nprobe = max(1, lists // 16)
    index.train(tokens[:: max(1, n // (64 * lists))])
    return index


def _self_first(similarities: FloatArray, indices: npt.NDArray[np.int64]) -> tuple[FloatArray, npt.NDArray[np.int64]]:
    """Put every image at the head of its own row: ties (duplicates) and rounding may have pushed it back or out."""
    own = np.arange(len(indices), dtype=np.int64)[:, None]
    is_own = indices == own
    lost = ~is_own.any(axis=1)
    is_own[lost, -1] = True  # the last neighbour makes room
    order = np.argsort(~is_own, axis=1, kind="stable")
    similarities = np.take_along_axis(similarities, order, axis=1)
    indices = np.take_along_axis(indices, order, axis=1)
    similarities[:, 0] = 1.0
    indices[:, 0] = own[:, 0]
    missing = indices < 0
    similarities[missing] = 0.0
    return similarities, np.where(missing, own, indices)


def rescore(scores: npt.ArrayLike, class_tokens: npt.ArrayLike, k_list: Sequence[int] = (1, 2, 3)) -> FloatArray:
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
        ValueError: shapes that do not fit, NaN or infinite values, no or non-positive k.
    """
    scores = np.asarray(scores, dtype=np.float64)
    tokens = np.asarray(class_tokens, dtype=np.float32)
    if scores.ndim != 1 or tokens.ndim != 2 or len(scores) != len(tokens) or len(scores) == 0:
        raise ValueError(
            f"scores must be (N,) and class_tokens (N, C) with the same N >= 1, got {scores.shape} and {tokens.shape}."
        )
    if not (np.isfinite(scores).all() and np.isfinite(tokens).all()):
        raise ValueError("scores and class_tokens must not hold NaN or infinite values.")
    if not k_list or min(k_list) < 1:
        raise ValueError(f"k_list must hold numbers of at least 1, got {list(k_list)}.")
    scaled = min_max(scores).astype(np.float64)
    similarities, indices = nearest_images(tokens, max(k_list))
    weighted = similarities.astype(np.float64) * scaled[indices]
    total = np.zeros(len(scores))
    for k in k_list:
        k = min(k, similarities.shape[1])
        total += weighted[:, :k].sum(axis=1) / similarities[:, :k].sum(axis=1, dtype=np.float64)
    return (total / len(k_list)).astype(np.float32)
