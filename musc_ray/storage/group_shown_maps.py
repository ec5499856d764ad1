"""What the maps of a group with crops show, as a sample of its scores chose it: kept with its features, in run.json."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class GroupShownMaps(BaseModel):
    """What was chosen for a group.

    Attributes:
        shown: patch maps and scores are from the whole images, or stitched from their crops.
        reason: why.
        images: images of the sample, 0 where none was looked at.
        whole, crops: how far the highest image scores stand out in each, in robust standard deviations.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    shown: Literal["whole", "crops"]
    reason: str
    images: int = 0
    whole: float | None = None
    crops: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return self.model_dump(mode="json")
