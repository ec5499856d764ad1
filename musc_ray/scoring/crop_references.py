"""Settle for each group whose images are cut which crops meet: as the settings say, or by a sample (auto)."""

from collections.abc import Sequence

from musc_ray.core.crop_reference_limits import MIN_IMAGES
from musc_ray.features.context import RunContext
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.by_sample import Question, Settled, settle, settled
from musc_ray.scoring.ring import GroupImages
from musc_ray.settings.model import Settings
from musc_ray.storage.group_crop_references import GroupCropReferences, Meeting

OF_SAMPLE = ("degrees", "aggregation", "interval", "seed")
"""Settings that what a sample says depends on, beside those of the features."""

TOO_FEW = f"there are fewer than {MIN_IMAGES} images"
NEAR = "matching near compares the same place"


def settle_crop_references(
    pool: Pool, context: RunContext, groups: Sequence[GroupImages], progress: Progress
) -> Settled[GroupCropReferences]:
    """Settle which crops meet in each group that has any, in a stage of its own where samples are looked at."""
    settings, cut = context.settings, [group for group in groups if group.places > 1]
    if not cut:
        return Settled({}, {}, 0.0)
    if not _is_open(settings):
        meeting: Meeting = "all" if settings.crop_meeting == "all" else "same"
        given = GroupCropReferences(meeting=meeting, reason=NEAR if settings.crop_references == "auto" else "as given")
        return Settled({group.group: given for group in cut}, {}, 0.0)
    depends_on = {name: getattr(settings, name) for name in OF_SAMPLE}
    return settle(pool, context, cut, progress, CROP_REFERENCES, lambda _: depends_on)


def chosen_crop_references(context: RunContext) -> dict[str, GroupCropReferences]:
    """Read what the run has settled by samples so far, by group."""
    return settled(context, CROP_REFERENCES) if _is_open(context.settings) else {}


def _is_open(settings: Settings) -> bool:
    """Return whether samples decide: patches that are matched near their own place are compared with it alone."""
    return settings.crops != "none" and settings.crop_meeting == "auto"


def _without_sample(group: GroupImages) -> GroupCropReferences | None:
    return GroupCropReferences(meeting="all", reason=TOO_FEW) if group.images < MIN_IMAGES else None


CROP_REFERENCES = Question(
    "crop_references", "which crops are compared", GroupCropReferences, "choose_crop_references", _without_sample
)
"""Which crops of other images crops are compared with."""
