"""Settle for each group where patches look for their nearest, the driver: as the settings say, or by a sample (auto).

What a sample says of a group is stored beside its features, so that nights and later runs on more images do the same,
and in the run's folder, so that a resumed run continues as it began whatever else happens to the features.
"""

import hashlib
import json
from collections import deque
from collections.abc import Sequence

from musc_ray.core.matching_limits import MIN_IMAGES
from musc_ray.errors import MuscRayError
from musc_ray.features.context import RunContext
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.ring import GroupImages
from musc_ray.settings.model import Settings
from musc_ray.storage.conditional import create
from musc_ray.storage.filesystem import read_json, write_json
from musc_ray.storage.group_matching import GroupMatching
from musc_ray.storage.retry import with_retries

OF_SAMPLE = ("degrees", "aggregation", "interval", "radius", "seed")
"""Settings that what a sample says depends on, beside those of the features."""

TOO_FEW = f"it has fewer than {MIN_IMAGES} images"


def settle_matching(
    pool: Pool, context: RunContext, groups: Sequence[GroupImages], progress: Progress
) -> tuple[dict[str, GroupMatching], dict[str, Exception], float]:
    """Settle the matching of each group, in a stage of its own where samples are looked at.

    Returns:
        It by group; the error of each group whose sample cannot be looked at; the seconds of the stage.
    """
    settings, run_paths = context.settings, context.run_paths
    if settings.matching != "auto":
        given = GroupMatching(radius=settings.radius, reason="as given")
        return {group.group: given for group in groups}, {}, 0.0
    chosen, failed = chosen_matching(context), dict[str, Exception]()
    open_groups = [group for group in groups if group.group not in chosen]
    with progress.stage("matching", total=len(groups), unit="groups") as stage:
        stage.already_done(len(groups) - len(open_groups))
        sampled: deque[GroupImages] = deque()
        for group in open_groups:
            stored = _stored(context, group.group)
            if stored is None and group.images >= MIN_IMAGES:
                sampled.append(group)
                continue
            chosen[group.group] = stored or GroupMatching(radius=None, reason=TOO_FEW)
            stage.advance(1)
        calls = pool.run(
            lambda _: sampled.popleft() if sampled else None,
            lambda worker, group: worker.call("choose_matching", group),
        )
        for group, references, error in calls:
            if error is None:
                chosen[group.group] = _store(context, group.group, pool.executor.get(references[0]))
            else:
                failed[group.group] = error
            stage.advance(1)
    if open_groups:
        write_json(run_paths.fs, run_paths.matching, {name: found.as_json() for name, found in chosen.items()})
    return chosen, failed, stage.seconds


def chosen_matching(context: RunContext) -> dict[str, GroupMatching]:
    """Read what the run has settled so far, by group; empty unless the setting is auto."""
    if context.settings.matching != "auto":
        return {}
    path = context.run_paths.matching
    content = read_json(context.run_paths.fs, path) or {}
    return {name: _parsed(value, path) for name, value in content.items()}


def _path(context: RunContext, group: str) -> str:
    return context.out_paths.matching(context.meta.features_id, group, _digest(context.settings))


def _digest(settings: Settings) -> str:
    values = {name: getattr(settings, name) for name in OF_SAMPLE}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]


def _stored(context: RunContext, group: str) -> GroupMatching | None:
    """Return what an earlier run stored beside the group's features; with `overwrite` remove it."""
    fs, path = context.out_paths.fs, _path(context, group)
    stored = read_json(fs, path)
    if stored is None:
        return None
    if context.settings.overwrite:
        with_retries(lambda: fs.rm_file(path), f"remove {path}")
        return None
    return _parsed(stored, path)


def _store(context: RunContext, group: str, found: GroupMatching) -> GroupMatching:
    """Store what a sample said, unless another run was faster; returns what holds."""
    fs, path = context.out_paths.fs, _path(context, group)
    if create(fs, path, json.dumps(found.as_json(), indent=2).encode()):
        return found
    return _parsed(read_json(fs, path) or {}, path)


def _parsed(content: object, path: str) -> GroupMatching:
    try:
        return GroupMatching.model_validate(content)
    except ValueError as error:
        raise MuscRayError(f"{path} does not say how patches are matched: delete it and run again.") from error
