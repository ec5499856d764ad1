"""Which crops of a group are compared, as `crop_references: auto` chose it: kept with its features and in run.json."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

Meeting = Literal["same", "all"]
"""Crops of other images that a crop meets: those at its own place, or all."""


class GroupCropReferences(BaseModel):
    """What `crop_references: auto` chose for a group.

    Attributes:
        meeting: which crops meet.
        reason: why.
        images: images of the sample, 0 where none was looked at.
        found: share of good patches that find their nearest at their own place, in crops of the sample.
        agrees: share of the sample's images whose most anomalous patch is the same with both.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    meeting: Meeting
    reason: str
    images: int = 0
    found: float | None = None
    agrees: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return self.model_dump(mode="json")
