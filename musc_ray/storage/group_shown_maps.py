"""What the maps of a group with crops show, as a sample of its scores chose it: kept with its features, in run.json."""

from typing import Literal

from musc_ray.storage.manifest_records import Decision
from musc_ray.storage.paths import RunPaths, escape_group


def usual_path(run_paths: RunPaths, group: str) -> str:
    """Return the file of what is usual of each patch of a group's crops; it stays after the run."""
    return f"{run_paths.folder}/usual/group={escape_group(group)}.npy"


class GroupShownMaps(Decision):
    """What was chosen for a group.

    Attributes:
        shown: patch maps and scores are from the whole images, or stitched from their crops.
        whole, crops: how far the highest image scores stand out in each, in robust standard deviations.
    """

    shown: Literal["whole", "crops"]
    whole: float | None = None
    crops: float | None = None

    @property
    def decided(self) -> object:
        """What is shown; crops of few images are not calibrated (`core.crop_calibration`)."""
        return self.shown, self.of_few
