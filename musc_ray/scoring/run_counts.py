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
    unused = sum(len(_vouched(context, name) - _of_run(context, name)) for name in catalog.groups)
    again, again_listed = _scored_again(context, scored)
    return Counts(
        images=context.images,
        scored=sum(group.published for group in scored.groups),
        failed=len(errors),
        listed=catalog.listed + len(unlisted) + again - again_listed,
        skipped=len(catalog.skipped),
        known=max(0, catalog.images - context.images - waiting - len(listed_good) - unused - again_listed),
        waiting=waiting,
        known_good=len(counted) + unused,
        groups=len(context.groups),
        failed_groups=len(scored.failed),
        shards=sum(len(group.ring) for group in scored.groups),
    )


def _scored_again(context: RunContext, scored: ScoredGroups) -> tuple[int, int]:
    """Count the images of a night's window that get scores again, and those of them that are listed."""
    earlier = [(group.group, ids) for group in scored.groups if group.publish_earlier and (ids := group.earlier)]
    there = {name: {image.image_id for image in context.catalog.groups.get(name, ())} for name, _ in earlier}
    return sum(len(ids) for _, ids in earlier), sum(len(ids & there[name]) for name, ids in earlier)


def _vouched(context: RunContext, group: str) -> set[str]:
    """Return the ids of a group's listed images that persons vouch for."""
    return {image.image_id for image in context.catalog.groups[group]} & context.catalog.known_good


def _of_run(context: RunContext, group: str) -> set[str]:
    """Return the ids of a group's images in the run; empty where the run does not score the group."""
    if group not in context.groups:
        return set()
    return {image.image_id for images in context.groups[group].listed.values() for image in images}
