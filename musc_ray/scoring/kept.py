"""Settle which patches of each group are scored and compared with, the driver: masks, and the foreground.

What a sample says of a group's foreground is stored beside its features (`by_sample`). The flags of each image are
written in the run's folder of work before the first product.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from musc_ray.core.foreground_limits import MIN_IMAGES
from musc_ray.errors import MuscRayError
from musc_ray.features.context import RunContext
from musc_ray.features.ignored import GroupMasks
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.by_sample import Question, settle, settled
from musc_ray.scoring.kept_flags import KeptTask, MaskedPatches, ShardKept, kept_by
from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.storage.filesystem import read_json, write_json
from musc_ray.storage.group_foreground import GroupForeground, GroupKept
from musc_ray.storage.kept_table import used_path, write_kept
from musc_ray.storage.shards import FeaturesMeta

OF_SAMPLE = ("seed",)
"""Settings that what a sample says depends on, beside those of the features."""

TOO_FEW = f"there are fewer than {MIN_IMAGES} images"

NAME = "kept"
"""Of the stage, and of the file in the run's folder."""


@dataclass(frozen=True)
class SettledKept:
    """Which patches are kept, by group; the error of each group of which nothing is left; the seconds it took."""

    groups: dict[str, GroupKept] = field(default_factory=dict)
    failed: dict[str, Exception] = field(default_factory=dict)
    seconds: float = 0.0


def settle_kept(pool: Pool, context: RunContext, groups: Sequence[GroupImages], progress: Progress) -> SettledKept:
    """Settle which patches are kept, in stages of their own where masks or the foreground are asked for."""
    settings = context.settings
    if settings.ignore is None and settings.foreground == "none":
        return SettledKept()
    failed: dict[str, Exception] = {}
    answers: Mapping[str, GroupForeground] = {}
    if settings.foreground == "auto":
        of_sample = {name: getattr(settings, name) for name in OF_SAMPLE}
        found = settle(pool, context, groups, progress, FOREGROUND, lambda _: of_sample)
        answers, failed = found.answers, dict(found.failed)
    open_groups = {group.group: group for group in groups if group.group not in failed}
    written: dict[str, list[ShardKept]] = {name: [] for name in open_groups}
    tasks = _tasks(context, list(open_groups.values()), answers)
    with progress.stage(NAME, total=sum(len(_shards(group)) for group in open_groups.values()), unit="shards") as stage:
        calls = pool.run(lambda _: next(tasks, None), lambda worker, task: worker.call("write_kept", task))
        for task, references, error in calls:
            stage.advance(1)
            if error is not None:
                failed.setdefault(task.group, error)
            else:
                written[task.group].append(pool.executor.get(references[0]))
    kept = {}
    for name, shards in written.items():
        if name not in failed:
            kept[name] = _summary(context, name, shards, answers.get(name))
    write_json(
        context.run_paths.fs, context.run_paths.settled(NAME), {name: each.as_json() for name, each in kept.items()}
    )
    return SettledKept(kept, failed, stage.seconds)


def chosen_kept(context: RunContext) -> dict[str, GroupKept]:
    """Read which patches the run keeps, by group; empty where nothing is asked for.

    Raises:
        MuscRayError: the file is broken.
    """
    path = context.run_paths.settled(NAME)
    content = read_json(context.run_paths.fs, path) or {}
    try:
        return {name: GroupKept.model_validate(value) for name, value in content.items()}
    except ValueError as error:
        raise MuscRayError(f"{path} does not say which patches are kept: delete it and run again.") from error


def chosen_foreground(context: RunContext) -> dict[str, GroupForeground]:
    """Read how the run tells the parts of groups from their background, by group; empty unless the setting is auto."""
    return settled(context, FOREGROUND) if context.settings.foreground == "auto" else {}


def _without_sample(group: GroupImages) -> GroupForeground | None:
    return GroupForeground(reason=TOO_FEW) if group.images < MIN_IMAGES else None


FOREGROUND = Question(
    "foreground", "which patches are foreground", GroupForeground, "choose_foreground", _without_sample
)
"""How a group's part is told from its background."""


def _tasks(
    context: RunContext, groups: Sequence[GroupImages], answers: Mapping[str, GroupForeground]
) -> Iterator[KeptTask]:
    for group in groups:
        masks, answer = context.masks.get(group.group), answers.get(group.group)
        found = None if answer is None else answer.found
        if masks is None and found is None:
            continue
        patches = {} if masks is None else masked_patches(masks, context.meta_of(group.group))
        yield from (KeptTask(group.group, shard, patches, found) for shard in _shards(group))


def _shards(group: GroupImages) -> list[RingShard]:
    """Return all images of a group that are scored or compared with, by shard."""
    ids: dict[int, list[str]] = {}
    for shard in (*group.ring, *group.aside, *group.known_good):
        ids.setdefault(shard.number, []).extend(shard.ids)
    return [RingShard(number, 0, tuple(of_shard)) for number, of_shard in ids.items()]


def masked_patches(masks: GroupMasks, meta: FeaturesMeta) -> dict[tuple[int, int] | None, MaskedPatches]:
    """Return what each mask of a group leaves of an image's patches."""
    by_size = masks.by_size if masks.every is None else {None: masks.every}
    return {size: MaskedPatches(mask.shape, kept_by(mask, meta)) for size, mask in by_size.items()}


def _summary(context: RunContext, group: str, shards: Sequence[ShardKept], answer: GroupForeground | None) -> GroupKept:
    """Write the places that any image of a group uses, and describe what is kept."""
    masked = group in context.masks
    if shards:
        whole, crops = (np.asarray(np.any([shard.used[side] for shard in shards], axis=0)) for side in (0, 1))
        write_kept(context.run_paths.fs, used_path(context.run_paths, group), {"": (whole, crops)})
    patches = sum(shard.patches for shard in shards)
    return GroupKept(
        share=round(sum(shard.kept for shard in shards) / patches, 4) if patches else 1.0,
        masked=masked,
        foreground=None if answer is None else answer.found is not None,
        reason=None if answer is None else answer.reason,
        unmasked=sum(shard.unmasked for shard in shards),
        stretched=sum(shard.stretched for shard in shards),
        lost=sum(shard.lost for shard in shards),
    )
