"""Which patches of images show the part, and which the background: `foreground: auto`.

After AnomalyDINO (Damm et al., WACV 2025, arXiv 2405.14529): the first principal component of patch tokens separates
part and background where there is one; what it separates is taken for the part if it lies in the middle of images, and
widened. AnomalyDINO finds the component of each image and needs a fixed threshold, and a person who switches it off for
textures. Here a group has one component and threshold, found on a sample of its images, and figures of the sample say
whether they separate a part from a background at all; else all patches are kept.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from musc_ray.core.kept_patches import Flags
from musc_ray.core.lnamd import layer_norm

HISTOGRAM_BINS = 512
MIN_SEPARATION = 0.88
"""Least share of the variance of projections that the threshold explains: 0.92 and 0.94 on baked goods before a plain
ground, 0.66 to 0.85 on surfaces that fill the image (magnetic tiles, commutators, glass, solar cells)."""

MAX_BORDER = 0.15
"""Most of the patches at the border of images that may be foreground: 0.03 on baked goods, 0.23 to 0.53 on surfaces."""

MIN_CENTRE = 0.5
"""Least of the patches in the middle of images that must be foreground: 0.86 on baked goods."""

MAX_UNCLEAR = 0.08
"""Most of the patches whose projection may lie near the threshold: 0.04 on baked goods, 0.05 to 0.19 on surfaces."""

MAX_FOREGROUND = 0.7
"""Most of the patches that may be foreground: with the margin there would be little left to save."""

UNCLEAR = 0.15
"""Projections within this share of the distance between both means count as near the threshold."""

GAP = 1
"""Gaps in the part of up to twice as many patches are closed."""

MARGIN = 1 / 16
"""Share of the shorter side of the grid around the part that is kept with it, at least a patch, so that a defect at its
border is not lost: of marks across the border all pixels are kept, with one patch in grids of 28 only 98 %."""

USUAL = 0.5
"""Places that are foreground in this share of the sample are kept in every image: what is missing there shows."""

MIN_SHARE = 0.5
"""An image whose foreground is a smaller share of the sample's median keeps all patches: its part was not found."""


@dataclass(frozen=True)
class ForegroundFigures:
    """What a sample says of a threshold on the first principal component.

    Attributes:
        separation: share of the variance of projections that lies between both sides (Otsu's criterion).
        border, centre: shares of the patches there that are foreground.
        unclear: share of the patches near the threshold.
        foreground: share of all patches.
    """

    separation: float
    border: float
    centre: float
    unclear: float
    foreground: float

    @property
    def objection(self) -> str | None:
        """Say why these are no part and background, or None."""
        checks = (
            (self.separation < MIN_SEPARATION, "patches do not fall into two kinds"),
            (self.unclear > MAX_UNCLEAR, "many patches are of neither kind"),
            (self.border > MAX_BORDER, "the part reaches the border of the images"),
            (self.centre < MIN_CENTRE, "the middle of the images is not of one kind"),
            (self.foreground > MAX_FOREGROUND, "there is little background"),
        )
        return next((reason for failed, reason in checks if failed), None)


@dataclass(frozen=True)
class Foreground:
    """How the patches of a group's part are told from its background.

    Attributes:
        mean, direction: (C,) float32 of layer-normalised tokens; the part has projections above the threshold.
        threshold: of projections.
        usual: (h * w,) bool, places that are foreground in most images of the sample.
        share: median share of an image's patches that is foreground in the sample.
    """

    mean: Tensor
    direction: Tensor
    threshold: float
    usual: Flags
    share: float

    def kept(self, tokens: Tensor, grid: tuple[int, int], normalised: bool = False) -> tuple[Flags, Flags]:
        """Tell which patches of images to keep: the part with its holes, the usual places, and a margin.

        Args:
            tokens: (A, h*w, C) raw tokens of the layer of the sample.
            grid: (h, w).
            normalised: whether tokens are compressed ones; see `operands.prepare`.

        Returns:
            (A, h*w) bool, and (A,) bool: images in which the part was not found, which keep all patches.
        """
        found = self._projections(tokens, normalised) > self.threshold
        lost = found.float().mean(dim=1).numpy() < MIN_SHARE * self.share
        maps = _filled(_closed(found.view(-1, *grid)))
        margin = max(1, round(MARGIN * min(grid)))
        maps = _widened(maps | torch.from_numpy(self.usual).view(grid), margin)
        flags: Flags = maps.flatten(1).numpy()
        flags[lost] = True
        return flags, lost

    def _projections(self, tokens: Tensor, normalised: bool) -> Tensor:
        plain = tokens.float() if normalised else layer_norm(tokens)
        return ((plain - self.mean.to(plain.device)) @ self.direction.to(plain.device)).cpu()


def find_foreground(
    samples: Sequence[Tensor], grid: tuple[int, int], normalised: bool = False
) -> tuple[Foreground, ForegroundFigures]:
    """Find the component and threshold that separate part and background in a sample, and how well they do.

    Args:
        samples: (A, h*w, C) raw tokens of images, in parts.
        grid: (h, w).
        normalised: whether tokens are compressed ones.
    """
    plain = torch.cat([tokens.float() if normalised else layer_norm(tokens) for tokens in samples]).cpu()
    vectors = plain.flatten(0, 1)
    mean = vectors.mean(dim=0)
    covariance = torch.cov(vectors.T).double()
    direction = torch.linalg.eigh(covariance).eigenvectors[:, -1].float()
    maps = ((plain - mean) @ direction).view(-1, *grid)
    edge = np.ones(grid, np.bool_)
    edge[1:-1, 1:-1] = False
    rows, columns = (slice(side // 4, side - side // 4) for side in grid)
    if maps[:, rows, columns].median() < maps[:, torch.from_numpy(edge)].median():
        maps, direction = -maps, -direction
    threshold, separation = _otsu(maps)
    found = maps > threshold
    low, high = float(maps[~found].mean()), float(maps[found].mean())
    unclear = ((maps - (low + high) / 2).abs() < UNCLEAR * (high - low)).float().mean()
    figures = ForegroundFigures(
        separation=separation,
        border=float(found[:, torch.from_numpy(edge)].float().mean()),
        centre=float(found[:, rows, columns].float().mean()),
        unclear=float(unclear),
        foreground=float(found.float().mean()),
    )
    usual: Flags = (found.float().mean(dim=0) >= USUAL).flatten().numpy()
    share = float(found.float().mean(dim=(1, 2)).median())
    return Foreground(mean, direction, threshold, usual, share), figures


def _otsu(values: Tensor) -> tuple[float, float]:
    """Find the threshold with the most variance between its sides, and its share of all variance (Otsu, 1979)."""
    counts, edges = np.histogram(values.numpy(), HISTOGRAM_BINS)
    centres = (edges[:-1] + edges[1:]) / 2
    below, sums = counts.cumsum(), (counts * centres).cumsum()
    above = below[-1] - below
    means = sums / np.maximum(below, 1), (sums[-1] - sums) / np.maximum(above, 1)
    between = below * above * (means[0] - means[1]) ** 2 / float(below[-1]) ** 2
    variance = (counts * (centres - sums[-1] / below[-1]) ** 2).sum() / below[-1]
    best = int(between.argmax())
    return float(edges[best + 1]), float(between[best] / max(variance, 1e-30))


def _widened(maps: Tensor, patches: int) -> Tensor:
    """Add the patches within a distance to maps (A, h, w) bool."""
    side = 2 * patches + 1
    return F.max_pool2d(maps[:, None].float(), side, stride=1, padding=patches)[:, 0] > 0


def _closed(maps: Tensor) -> Tensor:
    """Close gaps of up to two patches in maps (A, h, w) bool."""
    return ~_widened(~_widened(maps, GAP), GAP)


def _filled(maps: Tensor) -> Tensor:
    """Fill the holes of maps (A, h, w) bool: what no way through background leads to from the border."""
    outside = torch.zeros_like(maps)
    outside[:, [0, -1]] = ~maps[:, [0, -1]]
    outside[:, :, [0, -1]] |= ~maps[:, :, [0, -1]]
    while True:
        grown = _widened(outside, 1) & ~maps
        if torch.equal(grown, outside):
            return ~outside
        outside = grown
