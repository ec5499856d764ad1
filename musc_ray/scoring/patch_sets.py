"""Which patches of images are compared with each other: those of whole images, and those of their crops."""

from dataclasses import dataclass

from musc_ray.storage.group_crop_references import Meeting
from musc_ray.storage.shards import FeaturesMeta


@dataclass(frozen=True)
class PatchSet:
    """Places of images whose patches are compared with each other.

    Attributes:
        number: 0 is the set of the whole images.
        places: see `core/crops.py`; a patch looks for its nearest in all of them, in other images.
        grid: (h, w) patches of one place.
    """

    number: int
    places: tuple[int, ...]
    grid: tuple[int, int]

    @property
    def patches(self) -> int:
        """Count the patches of an image in all places."""
        return len(self.places) * self.grid[0] * self.grid[1]


def patch_sets(meta: FeaturesMeta, meeting: Meeting) -> tuple[PatchSet, ...]:
    """Return the sets of a group: the whole images, and a set a crop (same) or one of all crops (all).

    Args:
        meta: of the group's shards.
        meeting: which crops meet; without crops it does not matter.
    """
    whole = PatchSet(0, (0,), meta.grid_of((0,)))
    if meta.crops is None:
        return (whole,)
    crops = range(1, meta.places)
    if meeting == "all":
        return whole, PatchSet(1, tuple(crops), meta.grid)
    return whole, *(PatchSet(place, (place,), meta.grid) for place in crops)


def spread(count: int, most: int) -> list[int]:
    """Return up to `most` of the numbers below `count`, evenly spread."""
    return [int((at + 0.5) * count / most) for at in range(most)] if count > most else list(range(count))
