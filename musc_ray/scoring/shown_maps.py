"""Settle for each group whose images are cut whether its maps show whole images or crops, by a sample of its scores."""

from collections.abc import Sequence

from musc_ray.core.crop_calibration import MIN_IMAGES
from musc_ray.features.context import RunContext
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.by_sample import Question, Settled, settle, settled
from musc_ray.scoring.ring import GroupImages
from musc_ray.storage.group_shown_maps import GroupShownMaps

OF_SAMPLE = (
    "degrees",
    "aggregation",
    "interval",
    "matching",
    "radius",
    "crop_references",
    "foreground",
    "references",
    "seed",
)
"""Settings that what a sample says depends on, beside those of the features and the group's mask of what is ignored."""


def settle_shown_maps(
    pool: Pool, context: RunContext, groups: Sequence[GroupImages], progress: Progress
) -> Settled[GroupShownMaps]:
    """Settle what the maps of groups whose images are cut show; their set maps are written."""
    of_sample = {name: getattr(context.settings, name) for name in OF_SAMPLE}

    def depends_on(group: str) -> dict[str, object]:
        masks = context.masks.get(group)
        return of_sample | {"ignore": None if masks is None else masks.digest}

    return settle(pool, context, groups, progress, SHOWN_MAPS, depends_on)


def chosen_shown_maps(context: RunContext) -> dict[str, GroupShownMaps]:
    """Read what the run has settled so far, by group."""
    return settled(context, SHOWN_MAPS) if context.settings.crops != "none" else {}


def _without_sample(group: GroupImages) -> GroupShownMaps | None:
    if group.images >= MIN_IMAGES:
        return None
    return GroupShownMaps(shown="crops", reason=f"there are fewer than {MIN_IMAGES} images")


SHOWN_MAPS = Question("shown_maps", "what its maps show", GroupShownMaps, "choose_shown_maps", _without_sample)
"""What the patch maps of a group are from."""
