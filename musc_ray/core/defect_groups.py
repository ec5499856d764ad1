"""Repeated defects of a whole group, from counts and links of its shards: see `repeated_defects`; needs no torch."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

SUSPECT_SHARE = 0.03
"""Share of a layer's patches, those with the largest d_far, that can be part of a repeated defect."""

MIN_IMAGES = 3
"""Minimum number of images of a community: fewer are near duplicates, not a repeated defect."""

FAR_BINS, MAX_FAR = 4096, 2.0

Integers = npt.NDArray[np.int64]


def far_threshold(histogram: Integers) -> float:
    """Compute the d_far that SUSPECT_SHARE of the patches reach, to the precision of a bin."""
    at_least = histogram[::-1].cumsum()[::-1]
    reached = np.flatnonzero(at_least >= SUSPECT_SHARE * at_least[0])
    return float(reached[-1]) * MAX_FAR / FAR_BINS


def communities(edges: Sequence[tuple[Integers, Integers, Integers]], images: int, seed: int) -> npt.NDArray[np.int32]:
    """Find the community of each image: (images,) int32 from 1, largest first; 0 if it is in none of MIN_IMAGES images.

    Louvain's method by networkx, seeded, on sorted edges: the result does not depend on how they were split.
    """
    import networkx  # here: drivers use the rest of this module

    low, high, counts = (np.concatenate(column) for column in zip(*edges, strict=True))
    pairs, inverse = np.unique(low * images + high, return_inverse=True)
    weights = np.bincount(inverse, weights=counts, minlength=len(pairs))
    graph = networkx.Graph()
    graph.add_weighted_edges_from(
        zip((pairs // images).tolist(), (pairs % images).tolist(), weights.tolist(), strict=True)
    )
    found = networkx.community.louvain_communities(graph, seed=seed) if len(pairs) else []
    large = sorted((sorted(one) for one in found if len(one) >= MIN_IMAGES), key=lambda one: (-len(one), one[0]))
    labels = np.zeros(images, np.int32)
    for number, members in enumerate(large, 1):
        labels[members] = number
    return labels
