"""Which crops of other images a crop is compared with: those at its own place, or all, as a sample of a group says.

In images of an aligned product the good patches of a crop find their nearest in the crop at the same place of another
image. Compared with all crops they cost P times as much and gain nothing; a defect that looks like another part of the
product is even missed. Of textures and loose parts the nearest patch may be anywhere. The figure that tells both apart
is `found` of `matching`, with the crop at the same place instead of a radius; how often the most anomalous patch agrees
does not (figures in scoring/README.md).
"""

from dataclasses import dataclass

from torch import Tensor

from musc_ray.core.crop_reference_limits import MIN_FOUND
from musc_ray.core.matching import found_and_agreeing


@dataclass(frozen=True)
class CropFigures:
    """What a sample says: see `matching`."""

    found: float
    agrees: float

    @property
    def same_suffices(self) -> bool:
        """Tell whether crops may be compared with those at their own place alone."""
        return self.found >= MIN_FOUND

    @property
    def said(self) -> str:
        """Say it in a phrase."""
        return f"{self.found:.1%} of good patches find their nearest in the crop at their own place"


def crop_figures(everywhere: Tensor, same: Tensor, interval: tuple[float, float]) -> CropFigures:
    """Compare distances to the nearest patches in all crops and in those at the same place.

    Args:
        everywhere: (D, S, L, S) float32 of some patches of S images in each other one, inf for the image itself.
        same: likewise.
        interval: share of the sorted distances that a patch score averages.
    """
    return CropFigures(*found_and_agreeing(everywhere, same, interval))
