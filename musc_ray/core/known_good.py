"""How known good images enter the scores: images that a person vouches for, compared with all others of their group.

Measured in tests/benchmarks/bench_known_good.py, per layer and degree. Of image i with n known good images in its
group, M_m is the interval average of patch m over the mutual images (MuSc, eq. 5) and G_m its distance to the nearest
known good image (AnomalyDINO, PatchCore):

    t = min(1, (n - 1) / (FULL_TRUST - 1))
    q_i = median over m of G_m / M_m;   w_i = t if q_i <= MAX_RATIO, else 0
    score_m = (1 - w_i) * min(M_m, G_m) + w_i * G_m

Without known good images that is MuSc. One, or a few, remove the kinds of false alarm that they show: no patch is more
anomalous than it is far from them, and one alone never raises a score. Many are all that counts, so that a defect that
many images share is found, too: but only in images that they explain as well as other images of the group do. Images of
a variant that no known good one shows keep their mutual scores, which nearest known good images alone would take for
defects.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FULL_TRUST = 16
"""Known good images from which on they alone count for the images that they explain."""

MAX_RATIO = 1.15
"""Known good images explain an image whose patches are at most this many times as far from them as from mutual ones."""

LEAST_AVERAGE = 1e-6
"""Averages below count as this: of an image that others are copies of."""


@dataclass(frozen=True)
class NearestGood:
    """How far the patches of some images are from the nearest known good image of their group.

    Attributes:
        distances: (D, A, L) float32 per degree; +inf without known good images.
        images: n, the known good images of the group.
    """

    distances: Tensor
    images: int

    def rows(self, images: slice | Tensor) -> "NearestGood":
        """Return those of some of the images."""
        return NearestGood(self.distances[:, images], self.images)


def bounded(averages: Tensor, nearest: Tensor, known: int) -> Tensor:
    """Combine mutual scores with the distances to the nearest known good image.

    Args:
        averages: (..., L) interval averages M of the patches of an image, L of all its patches of a set; +inf without
            mutual images, where the nearest known good one is all there is.
        nearest: (..., L) float32, distances G.
        known: n, the known good images of the group.

    Returns:
        (..., L), of the dtype of the averages.
    """
    ratio = (nearest / averages.clamp(min=LEAST_AVERAGE)).median(dim=-1, keepdim=True).values
    trust = min(1.0, max(0, known - 1) / (FULL_TRUST - 1))
    least = torch.minimum(averages, nearest)
    return torch.where(ratio <= MAX_RATIO, (1 - trust) * least + trust * nearest, least)
