"""What the maps of a group with crops show, as a sample of its scores chose it: kept with its features, in run.json."""

from typing import Literal

from musc_ray.storage.manifest_records import Record


class GroupShownMaps(Record):
    """What was chosen for a group.

    Attributes:
        shown: patch maps and scores are from the whole images, or stitched from their crops.
        reason: why.
        images: images of the sample, 0 where none was looked at.
        whole, crops: how far the highest image scores stand out in each, in robust standard deviations.
    """

    shown: Literal["whole", "crops"]
    reason: str
    images: int = 0
    whole: float | None = None
    crops: float | None = None
