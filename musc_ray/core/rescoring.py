"""Rescoring: average the score of each image with those of the images most similar to it, found with FAISS.

RsCIN (`rscin`) and RsCon (`rscon`) differ in the vectors that they compare. No N x N matrix is built: only each image's
max(k_list) most similar images are kept. The search is exact for any N: it takes 2 N^2 C operations, a thousandth of
mutual scoring.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def min_max(scores: npt.NDArray[np.floating], bounds: tuple[float, float] | None = None) -> FloatArray:
    """Scale scores (N,) to [0, 1] over the group, or over given bounds; a group of equal scores becomes all 0."""
    low, high = bounds or (float(scores.min()), float(scores.max()))
    if high <= low:
        return np.zeros(len(scores), dtype=np.float32)
    return ((scores.astype(np.float64) - low) / (high - low)).astype(np.float32)


def neighbourhood_sizes(rescoring: str, k_list: Sequence[int]) -> tuple[int, ...]:
    """Return the k that scores are averaged over: with `rscon` 1 is one of them, the authors' code appends it."""
    return (*k_list, 1) if rescoring == "rscon" and 1 not in k_list else tuple(k_list)


def similar_images(
    queries: FloatArray, own: IntArray, parts: Iterable[FloatArray], k: int
) -> tuple[FloatArray, IntArray]:
    """Find the k most similar images of a group by cosine, for some of its images; each image itself comes first.

    Args:
        queries: (n, C) float32, a vector an image; L2-normalised here.
        own: (n,) int64, their positions in the group.
        parts: vectors of the whole group in order, some images at a time.
        k: images to find, the image itself included.

    Returns:
        similarities (n, k) float32 and positions in the group (n, k) int64; fewer columns in a group of fewer than k.
    """
    import faiss  # here: drivers use the rest of this module

    queries = _unit(queries)
    similarities, indices = np.empty((len(queries), 0), np.float32), np.empty((len(queries), 0), np.int64)
    start = 0
    for part in parts:
        found = faiss.knn(queries, _unit(part), min(k, len(part)), metric=faiss.METRIC_INNER_PRODUCT)
        similarities = np.concatenate([similarities, found[0]], axis=1)
        indices = np.concatenate([indices, found[1] + start], axis=1)
        best = np.argsort(-similarities, axis=1, kind="stable")[:, :k]
        similarities = np.take_along_axis(similarities, best, axis=1)
        indices = np.take_along_axis(indices, best, axis=1)
        start += len(part)
    return _self_first(similarities, indices, own)


def _unit(vectors: FloatArray) -> FloatArray:
    """Normalise rows to length 1, in a copy."""
    import faiss

    rows = np.array(vectors, dtype=np.float32, order="C")
    faiss.normalize_L2(rows)
    return rows


def _self_first(similarities: FloatArray, indices: IntArray, own: IntArray) -> tuple[FloatArray, IntArray]:
    """Move every image to the front of its own row: ties (duplicates) and rounding may have moved it back or out."""
    is_own = indices == own[:, None]
    missing = ~is_own.any(axis=1)
    is_own[missing, -1] = True  # it replaces the least similar one
    order = np.argsort(~is_own, axis=1, kind="stable")
    similarities = np.take_along_axis(similarities, order, axis=1)
    indices = np.take_along_axis(indices, order, axis=1)
    similarities[:, 0] = 1.0
    indices[:, 0] = own
    return similarities, indices


def weighted_scores(
    scores: npt.NDArray[np.floating],
    similarities: FloatArray,
    indices: IntArray,
    k_list: Sequence[int],
    bounds: tuple[float, float] | None = None,
) -> FloatArray:
    """Average the scores of each image's k most similar ones, weighted by similarity (MuSc, eq. 7 and 8), over k_list.

    Similarities may be negative, as in the authors' code. Where the k similarities of an image sum to exactly 0, which
    leaves the mean undefined, its own score counts.

    Args:
        scores: (N,) raw scores of the group; min-max scaled to [0, 1] here.
        similarities, indices: (n, k) each, from `similar_images`, for all or some images of the group.
        k_list: neighbourhood sizes; a k beyond N counts as N.
        bounds: scores that become 0 and 1; None means the smallest and the largest.

    Returns:
        (n,) float32.
    """
    near = min_max(scores, bounds).astype(np.float64)[indices]
    weights = similarities.astype(np.float64)
    total = np.zeros(len(indices))
    for k in k_list:
        k = min(k, weights.shape[1])
        sums = weights[:, :k].sum(axis=1)
        means = (weights[:, :k] * near[:, :k]).sum(axis=1) / np.where(sums == 0, 1, sums)
        total += np.where(sums == 0, near[:, 0], means)
    return (total / len(k_list)).astype(np.float32)


def rescored(scores: npt.ArrayLike, vectors: npt.ArrayLike, k_list: Sequence[int], name: str) -> FloatArray:
    """Rescore all images of a group by the similarity of one vector an image.

    Args:
        scores: (N,) raw scores.
        vectors: (N, C).
        k_list: neighbourhood sizes; a k beyond N counts as N.
        name: what the vectors are called in errors.

    Returns:
        (N,) float32.

    Raises:
        ValueError: mismatched shapes, NaN or infinite values, an empty k_list or a k below 1.
    """
    scores = np.asarray(scores, dtype=np.float64)
    rows = np.asarray(vectors, dtype=np.float32)
    if scores.ndim != 1 or rows.ndim != 2 or len(scores) != len(rows) or len(scores) == 0:
        raise ValueError(
            f"scores must be (N,) and {name} (N, C) with the same N >= 1, got {scores.shape} and {rows.shape}."
        )
    if not (np.isfinite(scores).all() and np.isfinite(rows).all()):
        raise ValueError(f"scores and {name} must not hold NaN or infinite values.")
    if not k_list or min(k_list) < 1:
        raise ValueError(f"k_list must hold numbers of at least 1, got {list(k_list)}.")
    similarities, indices = similar_images(rows, np.arange(len(rows)), [rows], max(k_list))
    return weighted_scores(scores, similarities, indices, k_list)
