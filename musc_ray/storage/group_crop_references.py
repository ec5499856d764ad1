"""Which crops of a group are compared, as `crop_references: auto` chose it: kept with its features and in run.json."""

from typing import Literal

from musc_ray.storage.manifest_records import Decision

Meeting = Literal["same", "all"]
"""Crops of other images that a crop meets: those at its own place, or all."""


class GroupCropReferences(Decision):
    """What `crop_references: auto` chose for a group.

    Attributes:
        meeting: which crops meet.
        found: share of good patches that find their nearest at their own place, in crops of the sample.
        agrees: share of the sample's images whose most anomalous patch is the same with both.
    """

    meeting: Meeting
    found: float | None = None
    agrees: float | None = None

    @property
    def decided(self) -> object:
        """Which crops meet."""
        return self.meeting
