"""Repeated defects: patches that look normal only because other images have the same defect.

After CoDeGraph (Le-Gia and Ahn, arXiv 2510.10456). A normal patch has near patches in most images, and its sorted
distances d(1) <= d(2) <= ... grow steadily. A repeated defect has them in the few images that share it, where they are
small, and then they jump ("neighbour burnout"). The log growth ln d(i+1) / d(i), summed from image j's rank to a rank
larger than the share of defective images, is

    g(m, j) = ln(d_far(m) / d(m, j)),

large for the images that share the defect. Patch m is linked to image j if d_far is among the group's largest (the
patch would be anomalous without the images that share its defect) and g is large. Images with many links are
communities of a graph; the patches that link to their own community are its defect.

The rule for links, the communities' modularity (Louvain) and the margin around patches are this project's own, chosen
by measurement (`tests/benchmarks/bench_repeats.py`); they are not the paper's formulas.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from musc_ray.core.defect_groups import FAR_BINS, MAX_FAR, Integers
from musc_ray.core.nearest_images import NearestImages

FAR_RANK = 0.5
"""d_far is the distance at this share of the references: larger than the share of images with one defect."""

MIN_GROWTH = 0.4
"""Minimum g of a link: d(m, j) is at most 67 % of d_far."""

MIN_FAR_RATIO = 1.35
"""Minimum d_far in units of the patch's score, which the images that share its defect keep low."""

MIN_LAYERS = 2
"""Minimum number of layers that link a patch to an image."""

KEPT_IMAGES = 128
"""Nearest images kept for each patch and layer: K."""

MIN_LINKS = 0.2
"""A patch belongs to its community's defect if it is linked to at least this share of the community's other images."""

MARGIN = 1
"""Patches around a defect that are excluded with it: their neighbourhoods hold parts of it."""

Flags = npt.NDArray[np.bool_]


def far_rank(references: int) -> int:
    """Compute the rank of d_far among a number of references."""
    return max(1, int(FAR_RANK * references))


def far_histogram(far: Tensor) -> Integers:
    """Count patches by d_far: (FAR_BINS,) int64; histograms of shards add up; NaN (not kept) does not count."""
    bins = (far[~far.isnan()] * (FAR_BINS / MAX_FAR)).long().clamp(0, FAR_BINS - 1)
    return torch.bincount(bins, minlength=FAR_BINS).numpy()


@dataclass(frozen=True)
class Links:
    """Distinct links (image, patch, other image): ring positions and patch numbers, (n,) int64 each."""

    images: Integers
    patches: Integers
    others: Integers

    def edges(self) -> tuple[Integers, Integers, Integers]:
        """Count the links between each pair of images: lower, higher position, number of links."""
        low, high = np.minimum(self.images, self.others), np.maximum(self.images, self.others)
        pairs, counts = np.unique(np.stack([low, high]), axis=1, return_counts=True)
        return pairs[0], pairs[1], counts


def links(layers: Sequence[tuple[NearestImages, Tensor, Tensor]], thresholds: Sequence[float], first: int) -> Links:
    """Find the links of a shard's images.

    Args:
        layers: nearest images, d_far (A, L) and patch scores (A, L) of each layer.
        thresholds: minimum d_far of each layer.
        first: ring position of the first image.
    """
    found = []
    for (nearest, far, scores), threshold in zip(layers, thresholds, strict=True):
        suspect = (far >= threshold) & (far >= MIN_FAR_RATIO * scores)
        growth = torch.log(far[:, :, None] / nearest.distances.clamp(min=1e-6))
        linked = (growth >= MIN_GROWTH) & suspect[:, :, None]
        image, patch, _ = linked.nonzero(as_tuple=True)
        found.append(torch.stack([image + first, patch, nearest.positions[linked]]).numpy())
    triples, votes = np.unique(np.concatenate(found, axis=1), axis=1, return_counts=True)
    return Links(*triples[:, votes >= min(MIN_LAYERS, len(layers))])


def defect_patches(found: Links, labels: npt.NDArray[np.int32], own: range, grid: tuple[int, int], kept: int) -> Flags:
    """Tell which patches of a shard's images belong to the defect of their community: (A, L) bool.

    Args:
        found: links of the shard's images.
        labels: community of every image of the group.
        own: ring positions of the shard's images.
        grid: (h, w).
        kept: K, the number of nearest images that a patch can link to.
    """
    sizes = np.bincount(labels)
    mine = labels[found.images]
    within = (mine > 0) & (mine == labels[found.others])
    counts = np.zeros((len(own), grid[0] * grid[1]), np.int64)
    np.add.at(counts, (found.images[within] - own.start, found.patches[within]), 1)
    others = np.minimum(sizes[labels[own.start : own.stop]] - 1, kept)
    return counts >= np.maximum(1, MIN_LINKS * others)[:, None]


def with_margin(patches: Flags, grid: tuple[int, int]) -> Flags:
    """Add the patches within MARGIN to patches (A, L)."""
    planes = torch.from_numpy(patches).float().view(-1, 1, *grid)
    wide = F.max_pool2d(planes, 2 * MARGIN + 1, stride=1, padding=MARGIN)
    return wide.flatten(1).bool().numpy()
