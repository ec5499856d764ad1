"""Where in other images patches look for their nearest: anywhere, or near their own place, as a sample of a group says.

In images of an aligned product good patches find their nearest where they are themselves, so that a search near the
same place gives the same distances for a small part of the products. What moves then are patches that had found a match
elsewhere. Two figures of a sample say, for each radius, whether that matters:

    found   share of good patches, in the images whose distances their scores average, that find their nearest within
            the radius (good: a patch score below the median)
    agrees  share of images whose most anomalous patch is the same from anywhere and from near
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from musc_ray.core import candidates
from musc_ray.core.interval_average import interval_bounds
from musc_ray.core.matching_limits import MAX_CANDIDATES, MIN_AGREEMENT, MIN_FOUND, RADII

SAME_DISTANCE = 1e-3
"""Distances anywhere and near that differ by less are of the same patch: both are computed in float32."""


@dataclass(frozen=True)
class RadiusFigures:
    """What a sample says of a radius; see the module."""

    radius: int
    found: float
    agrees: float

    @property
    def suffices(self) -> bool:
        """Tell whether patches may be matched within this radius alone."""
        return self.found >= MIN_FOUND and self.agrees >= MIN_AGREEMENT


@dataclass(frozen=True)
class MatchingChoice:
    """What `auto` chose for a group: a radius, or None for anywhere; the figures of the radii it tried, and why."""

    radius: int | None
    reason: str
    figures: tuple[RadiusFigures, ...] = ()


def radii_to_try(grid: tuple[int, int], given: int | None) -> list[int]:
    """List the radii that `auto` considers, ascending: the given one, or those that save most of the products.

    Args:
        grid: (h, w).
        given: the setting `radius`.
    """
    if given is not None:
        return [given]
    return [radius for radius in RADII if candidates(grid, radius) <= MAX_CANDIDATES * grid[0] * grid[1]]


def choose_matching(
    distances: Callable[[int | None], Tensor], interval: tuple[float, float], radii: Sequence[int]
) -> MatchingChoice:
    """Choose the smallest radius that suffices, or anywhere if the largest does not.

    Args:
        distances: returns the distances (D, S, L, S) of the sample's patches to their nearest within a radius, or
            anywhere, in each image, float32, inf for the image itself.
        interval: share of the sorted distances that a patch score averages.
        radii: to try, ascending.
    """
    if not radii:
        return MatchingChoice(None, "no radius saves much on so few patches")
    anywhere = distances(None)
    figures: list[RadiusFigures] = []
    for radius in (radii[-1], *radii[:-1]):  # the largest first: nearly always it alone decides for anywhere
        figures.append(radius_figures(anywhere, distances(radius), interval, radius))
        if not figures[0].suffices:
            return MatchingChoice(None, _said(figures[0]), tuple(figures))
        if figures[-1].suffices and len(figures) > 1:
            break
    chosen = figures[-1] if figures[-1].suffices else figures[0]
    return MatchingChoice(chosen.radius, _said(chosen), tuple(sorted(figures, key=lambda found: found.radius)))


def radius_figures(anywhere: Tensor, near: Tensor, interval: tuple[float, float], radius: int) -> RadiusFigures:
    """Compare distances (D, S, L, S) within a radius with those from anywhere."""
    return RadiusFigures(radius, *found_and_agreeing(anywhere, near, interval))


def found_and_agreeing(anywhere: Tensor, near: Tensor, interval: tuple[float, float]) -> tuple[float, float]:
    """Compute both figures of the module for distances (D, S, L, S) anywhere and in a part of the places."""
    scores, order = _scores(anywhere, interval)
    near_scores, _ = _scores(near, interval)
    same = (near - anywhere).abs() < SAME_DISTANCE
    found = same.gather(3, order).float().mean(dim=(0, 3))
    good = scores <= scores.median()
    agrees = (scores.argmax(dim=1) == near_scores.argmax(dim=1)).float().mean()
    return float(found[good].mean()), float(agrees)


def _scores(distances: Tensor, interval: tuple[float, float]) -> tuple[Tensor, Tensor]:
    """Compute patch scores (S, L), mean over degrees, and the images (D, S, L, k) that they average over."""
    start, stop = interval_bounds(distances.shape[3] - 1, interval)
    values, order = distances.sort(dim=3)
    return values[..., start:stop].mean(dim=(0, 3)), order[..., start:stop]


def _said(figures: RadiusFigures) -> str:
    return (
        f"{figures.found:.1%} of good patches find their nearest within {figures.radius} "
        f"patch{'' if figures.radius == 1 else 'es'}, and the most anomalous patch stays the same in "
        f"{figures.agrees:.1%} of images"
    )
