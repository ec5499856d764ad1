"""Settle for each group where patches look for their nearest: as the settings say, or by a sample (auto)."""

from collections.abc import Sequence

from musc_ray.core.matching_limits import MIN_IMAGES
from musc_ray.features.context import RunContext
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.by_sample import Question, Settled, settle, settled
from musc_ray.scoring.ring import GroupImages
from musc_ray.settings.model import Settings
from musc_ray.storage.group_matching import GroupMatching

OF_SAMPLE = ("degrees", "aggregation", "interval", "radius", "seed")
"""Settings that what a sample says depends on, beside those of the features."""

TOO_FEW = f"there are fewer than {MIN_IMAGES} images"
ALL_CROPS = "its crops are compared with those at all places"


def settle_matching(
    pool: Pool, context: RunContext, groups: Sequence[GroupImages], progress: Progress
) -> Settled[GroupMatching]:
    """Settle the matching of each group, in a stage of its own where samples are looked at."""
    settings = context.settings
    if settings.matching != "auto":
        given = GroupMatching(radius=settings.radius, reason="as given")
        return Settled({group.group: given for group in groups}, {}, 0.0)
    return settle(pool, context, groups, progress, MATCHING, lambda _: _depends_on(settings))


def chosen_matching(context: RunContext) -> dict[str, GroupMatching]:
    """Read what the run has settled so far, by group; empty unless the setting is auto."""
    return settled(context, MATCHING) if context.settings.matching == "auto" else {}


def _depends_on(settings: Settings) -> dict[str, object]:
    names = OF_SAMPLE if settings.crops == "none" else (*OF_SAMPLE, "crop_references")
    return {name: getattr(settings, name) for name in names}


def _without_sample(group: GroupImages) -> GroupMatching | None:
    if any(len(patch_set.places) > 1 for patch_set in group.sets):
        return GroupMatching(radius=None, reason=ALL_CROPS)
    return GroupMatching(radius=None, reason=TOO_FEW) if group.images < MIN_IMAGES else None


MATCHING = Question("matching", "how patches are matched", GroupMatching, "choose_matching", _without_sample)
"""Where patches look for their nearest."""
