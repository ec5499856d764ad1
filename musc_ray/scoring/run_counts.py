"""Count what a run listed, and what became of it."""

from collections.abc import Mapping, Sequence

from musc_ray.features.context import RunContext
from musc_ray.scoring.scored_groups import ScoredGroups
from musc_ray.storage.manifest_records import Counts


def run_counts(context: RunContext, scored: ScoredGroups, errors: Sequence[Mapping[str, str]]) -> Counts:
    """Count what was listed and what became of it, groups and shards.

    Args:
        context: the run.
        scored: its groups.
        errors: rows of the errors table.
    """
    catalog, waiting = context.catalog, sum(context.waiting.values())
    good = {(image.group, image.uri) for image in context.known_good_images}
    listed_good = good & {(name, image.uri) for name, images in catalog.groups.items() for image in images}
    failed_good = good & {(error["group"], error["uri"]) for error in errors}
    counted, unlisted = listed_good - failed_good, failed_good - listed_good
    if context.settings.score_known_good:  # they are scored, but in groups that failed
        counted, unlisted = {image for image in counted if image[0] in scored.failed}, good - listed_good
    return Counts(
        images=context.images,
        scored=sum(group.published for group in scored.groups),
        failed=len(errors),
        listed=catalog.listed + len(unlisted),
        skipped=len(catalog.skipped),
        known=max(0, catalog.images - context.images - waiting - len(listed_good)),
        waiting=waiting,
        known_good=len(counted),
        groups=len(context.groups),
        failed_groups=len(scored.failed),
        shards=sum(len(group.ring) for group in scored.groups),
    )
