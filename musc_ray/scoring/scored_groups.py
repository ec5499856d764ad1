"""Score all groups of a run that can be scored; features that turn out to be broken are extracted and scored again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from musc_ray.errors import MuscRayError
from musc_ray.features.context import RunContext
from musc_ray.features.errors_table import check_errors, error_rows, write_errors
from musc_ray.features.one_picture import groups_of_one_picture
from musc_ray.features.repair import MAX_REPAIRS, add_figures, repair_features
from musc_ray.runtime.executor import Executor
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.driver import Stages, score_groups
from musc_ray.scoring.patch_sets import patch_sets
from musc_ray.scoring.ranking_worker import GroupFigures
from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.settings.credentials import redacted
from musc_ray.storage.shards import BrokenShardError


@dataclass(frozen=True)
class ScoredGroups:
    """The outcome of scoring.

    Attributes:
        groups: those that are scored.
        figures: of these groups, by name.
        failed: why the others have no scores, by name.
    """

    groups: list[GroupImages]
    figures: dict[str, GroupFigures]
    failed: dict[str, str]


def scorable_groups(
    context: RunContext, errors: Sequence[Mapping[str, str]]
) -> tuple[list[GroupImages], dict[str, str]]:
    """List the groups with at least 2 readable images, and why the others cannot be scored.

    Args:
        context: the run.
        errors: rows of the errors table.

    Raises:
        MuscRayError: no group can be scored.
    """
    broken = {(error["group"], error["uri"]) for error in errors}
    groups, failed = [], {}
    for name, listed in context.groups.items():
        readable = {
            shard: [image.image_id for image in images if (name, image.uri) not in broken]
            for shard, images in listed.all.items()
        }
        group = _group_images(context, name, readable)
        objection = _objection(group, len((context.earlier or {}).get(name, ())))
        if objection is None:
            groups.append(group)
        else:
            failed[name] = objection
    if not groups:
        raise MuscRayError(next(iter(failed.values())))
    return groups, failed


def _extracted_groups(
    context: RunContext, errors: Sequence[Mapping[str, str]]
) -> tuple[list[GroupImages], dict[str, str]]:
    """List the groups to score now that their features are there, and why the others cannot be scored.

    Raises:
        MuscRayError: no group can be scored.
    """
    groups, failed = scorable_groups(context, errors)
    for name in groups_of_one_picture(context, [group.group for group in groups]):
        failed[name] = (
            f"All images of group '{name}' are the same picture once they are decoded, so that none differs from the "
            f"others: check what the source holds, and whether intensity or alpha hides it (setting intensity)."
        )
    groups = [group for group in groups if group.group not in failed]
    if not groups:
        raise MuscRayError(next(iter(failed.values())))
    return groups, failed


def _objection(group: GroupImages, earlier: int) -> str | None:
    """Say why a group cannot be scored, as one with so many earlier images in a night; None if it can."""
    good = group.known
    if earlier and group.scored == earlier:
        return f"Group '{group.group}' has no new image that can be read: see the errors table."
    if group.images >= 2:
        return None
    if good and not group.images:
        return f"All {good:,} readable images of group '{group.group}' are known good: none is left to score."
    images = f"{group.images} readable image{'' if group.images == 1 else 's'}"
    if good or group.aside:
        beside = [f"{good:,} known good"] if good else []
        beside += [f"{group.scored - group.images:,} defective"] if group.aside else []
        return (
            f"Group '{group.group}' has {images} beside {' and '.join(beside)} ones: at least 2 are needed to score "
            "each other; add images, or look at single ones with `musc-ray check`."
        )
    return (
        f"Group '{group.group}' has {images}: at least 2 are needed to score each other; add images, or use another "
        "group_by."
    )


def _group_images(context: RunContext, group: str, shards: Mapping[int, Sequence[str]]) -> GroupImages:
    """Place a group's readable images, by shard, on the ring; in a night each is scored against the whole window."""
    settings, meta = context.settings, context.meta_of(group)
    good = context.roles.known_good.get(group, frozenset())
    aside = frozenset[str]() if settings.repeated_defects else context.roles.defective.get(group, frozenset())
    references = settings.reference_count if context.earlier is None else None
    mutual = _chosen(shards, lambda image_id: image_id not in good and image_id not in aside)
    if settings.score_known_good:
        aside |= good
    images = GroupImages.of(group, mutual, meta.grid, references, settings.seed)
    images = replace(
        images,
        sets=patch_sets(meta, "same" if settings.crop_meeting == "same" else "all"),
        known_good=_off_ring(shards, good),
        aside=_off_ring(shards, aside),
    )
    if context.earlier is None:
        return images
    return replace(images, earlier=context.earlier[group], publish_earlier=settings.rescore_window)


def _chosen(shards: Mapping[int, Sequence[str]], belongs: Callable[[str], bool]) -> dict[int, list[str]]:
    """Return the images of shards that belong somewhere, of each shard that has any."""
    chosen = {shard: [image_id for image_id in ids if belongs(image_id)] for shard, ids in shards.items()}
    return {shard: ids for shard, ids in chosen.items() if ids}


def _off_ring(shards: Mapping[int, Sequence[str]], ids: frozenset[str]) -> tuple[RingShard, ...]:
    return tuple(RingShard(shard, 0, tuple(of_shard)) for shard, of_shard in _chosen(shards, ids.__contains__).items())


def score_all(
    context: RunContext,
    executor: Executor,
    errors: list[dict[str, str]],
    scored_at: datetime,
    progress: Progress,
    stages: Stages,
) -> ScoredGroups:
    """Score all groups; extract broken features again, and score their groups again.

    Args:
        context: the run.
        executor: runs the tasks.
        errors: rows of the errors table; images that fail during repair are added.
        scored_at: time in every row.
        progress: shows the stages.
        stages: figures of each stage are added here.

    Raises:
        MuscRayError: no group could be scored, or too many images failed.
    """
    groups, failed = _extracted_groups(context, errors)
    figures, failures = score_groups(context, executor, groups, scored_at, progress, stages)
    for _ in range(MAX_REPAIRS):
        broken = {name for name, error in failures.items() if isinstance(error, BrokenShardError)}
        if not broken:
            break
        repaired = repair_features(context, executor, broken, errors, progress)
        stages["extract"]["repaired_shards"] = stages["extract"].get("repaired_shards", 0) + repaired.shards
        if repaired.failed:
            errors += error_rows(repaired.failed)
            write_errors(context, errors)
            check_errors(context, errors)
            groups, failed = _extracted_groups(context, errors)
        for name in broken:
            del failures[name]
        again = [group for group in groups if group.group in broken]
        if again:
            repeated: Stages = {}
            more, failed_again = score_groups(context, executor, again, scored_at, progress, repeated)
            stages |= {name: add_figures(stages[name], figures_of) for name, figures_of in repeated.items()}
            figures, failures = figures | more, failures | failed_again
    failed |= {name: redacted(f"Group '{name}' failed: {error}") for name, error in failures.items()}
    scored = [group for group in groups if group.group not in failures]
    if not scored:
        raise MuscRayError(next(iter(failed.values()))) from next(iter(failures.values()))
    return ScoredGroups(scored, figures, failed)
