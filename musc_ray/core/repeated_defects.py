"""Repeated defects: patches that look normal only because other images have the same defect.

After CoDeGraph (Le-Gia and Ahn, arXiv 2510.10456). A normal patch has near patches in most images, and its sorted
distances d(1) <= d(2) <= ... grow steadily. A repeated defect has them in the few images that share it, where they are
small, and then they jump ("neighbour burnout"). The log growth ln d(i+1) / d(i), summed from image j's rank to a rank
beyond the share of defective images, is

    g(m, j) = ln(d_far(m) / d(m, j)),

large for the images that share the defect. What links patch m to image j is: d_far is among the group's largest (the
patch would be anomalous without its like) and g is large. Images with many links are communities of a graph; the
patches that link to their own community are its defect.

The rule for links, the communities' modularity (Louvain) and the margin around patches are this project's own choice
by measurement (`bench_repeats.py`); they are not the paper's formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import networkx
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from musc_ray.core.nearest import Nearest

FAR_RANK = 0.5
"""d_far is the distance at this share of the references: beyond the share of images that have one defect."""

SUSPECT_SHARE = 0.03
"""Only so many of a layer's patches, those with the largest d_far, can be part of a repeated defect."""

LEAST_GROWTH = 0.4
"""g of a link: d(m, j) is at most 67 % of d_far."""

LEAST_HIDDEN = 1.35
"""d_far is at least so many times the patch's score, which the images that share its defect keep low."""

LEAST_LAYERS = 2
"""A patch is linked to an image when so many layers say so."""

NEIGHBOURS = 128
"""Nearest images that are kept of each patch and layer: K."""

LEAST_LINKS = 0.2
"""A patch belongs to its community's defect when it is linked to this share of the other images of it."""

LEAST_IMAGES = 3
"""Fewer images that are alike are near duplicates, not a machine's fault."""

MARGIN = 1
"""Patches around a defect's that are taken out with it: they hold parts of it, in the larger neighbourhoods too."""

FAR_BINS, FAR_LARGEST = 4096, 2.0

Integers = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


def far_rank(references: int) -> int:
    """The rank of d_far among so many references."""
    return max(1, int(FAR_RANK * references))


def far_histogram(far: Tensor) -> Integers:
    """How many patches have which d_far: (FAR_BINS,), to be added up over shards."""
    bins = (far.flatten() * (FAR_BINS / FAR_LARGEST)).long().clamp(0, FAR_BINS - 1)
    return torch.bincount(bins, minlength=FAR_BINS).numpy()


def far_threshold(histogram: Integers) -> float:
    """The d_far that SUSPECT_SHARE of the patches reach, to the bin."""
    at_least = histogram[::-1].cumsum()[::-1]
    reached = np.flatnonzero(at_least >= SUSPECT_SHARE * at_least[0])
    return float(reached[-1]) * FAR_LARGEST / FAR_BINS


@dataclass(frozen=True)
class Links:
    """Linked (image, patch, other image): ring positions and patch numbers, all (n,) int64, each once."""

    images: Integers
    patches: Integers
    others: Integers

    def edges(self) -> tuple[Integers, Integers, Integers]:
        """Pairs of images (lower, higher) and how many patches of the one link it to the other."""
        low, high = np.minimum(self.images, self.others), np.maximum(self.images, self.others)
        pairs, counts = np.unique(np.stack([low, high]), axis=1, return_counts=True)
        return pairs[0], pairs[1], counts


def links(layers: Sequence[tuple[Nearest, Tensor, Tensor]], thresholds: Sequence[float], first: int) -> Links:
    """The links of a shard's images.

    Args:
        layers: nearest images, d_far (A, L) and patch scores (A, L) of each layer.
        thresholds: d_far that a patch must reach, of each layer.
        first: ring position of the first image.
    """
    found = []
    for (nearest, far, scores), threshold in zip(layers, thresholds, strict=True):
        suspect = (far >= threshold) & (far >= LEAST_HIDDEN * scores)
        growth = torch.log(far[:, :, None] / nearest.distances.clamp(min=1e-6))
        linked = (growth >= LEAST_GROWTH) & suspect[:, :, None]
        image, patch, _ = linked.nonzero(as_tuple=True)
        found.append(torch.stack([image + first, patch, nearest.positions[linked]]).numpy())
    triples, votes = np.unique(np.concatenate(found, axis=1), axis=1, return_counts=True)
    return Links(*triples[:, votes >= min(LEAST_LAYERS, len(layers))])


def communities(edges: Sequence[tuple[Integers, Integers, Integers]], images: int, seed: int) -> npt.NDArray[np.int32]:
    """The community of each image (images,) int32, largest first from 1; 0 where it has none of LEAST_IMAGES images.

    Louvain's method by networkx, seeded, on edges in one order: the same for any parts that they came in.
    """
    low, high, counts = (np.concatenate(column) for column in zip(*edges, strict=True))
    pairs, inverse = np.unique(low * images + high, return_inverse=True)
    weights = np.bincount(inverse, weights=counts, minlength=len(pairs))
    graph = networkx.Graph()
    graph.add_weighted_edges_from(
        zip((pairs // images).tolist(), (pairs % images).tolist(), weights.tolist(), strict=True)
    )
    found = networkx.community.louvain_communities(graph, seed=seed) if len(pairs) else []
    large = sorted((sorted(one) for one in found if len(one) >= LEAST_IMAGES), key=lambda one: (-len(one), one[0]))
    labels = np.zeros(images, np.int32)
    for number, members in enumerate(large, 1):
        labels[members] = number
    return labels


def defect_patches(found: Links, labels: npt.NDArray[np.int32], own: range, grid: tuple[int, int], most: int) -> Flags:
    """Which patches of a shard's images belong to the defect of their community: (A, L).

    Args:
        found: links of the shard's images.
        labels: community of every image of the group.
        own: ring positions of the shard's images.
        grid: (h, w).
        most: K, how many nearest images a patch can link to.
    """
    sizes = np.bincount(labels)
    mine = labels[found.images]
    within = (mine > 0) & (mine == labels[found.others])
    counts = np.zeros((len(own), grid[0] * grid[1]), np.int64)
    np.add.at(counts, (found.images[within] - own.start, found.patches[within]), 1)
    others = np.minimum(sizes[labels[own.start : own.stop]] - 1, most)
    return counts >= np.maximum(1, LEAST_LINKS * others)[:, None]


def with_margin(patches: Flags, grid: tuple[int, int]) -> Flags:
    """The patches (A, L) and those within MARGIN of them."""
    planes = torch.from_numpy(patches).float().view(-1, 1, *grid)
    wide = F.max_pool2d(planes, 2 * MARGIN + 1, stride=1, padding=MARGIN)
    return wide.flatten(1).bool().numpy()
