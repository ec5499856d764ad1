"""Repair features whose checksums do not match while they are scored: extract them again."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from musc_ray.features.context import RunContext
from musc_ray.features.extraction import ExtractStats, extract
from musc_ray.runtime.executor import Executor
from musc_ray.runtime.progress import Progress
from musc_ray.storage.filesystem import read_json, remove_tree, write_json
from musc_ray.storage.known_good_arrays import one_way_folders

MAX_REPAIRS = 2
"""Maximum repair rounds; storage that keeps corrupting data counts as failed."""

logger = logging.getLogger(__name__)


def repair_features(
    context: RunContext,
    executor: Executor,
    groups: Collection[str],
    errors: Sequence[Mapping[str, str]],
    progress: Progress,
) -> ExtractStats:
    """Read all shards of some groups and extract broken ones again.

    An image that can no longer be extracted leaves its group: the bands of the group are removed.

    Args:
        context: the run.
        executor: runs the tasks.
        groups: groups with a broken shard.
        errors: rows of the errors table, whose images are skipped.
        progress: shows the stage.

    Returns:
        Figures of the extraction, with the images that failed.
    """
    known = {(error["group"], error["uri"]) for error in errors}
    tasks = [
        context.shard_task(name, shard, [image for image in images if (name, image.uri) not in known])
        for name in groups
        for shard, images in context.groups[name].all.items()
    ]
    tasks = [task for task in tasks if task.images]
    stats = ExtractStats()
    with progress.stage("repair", total=len(tasks), unit="shards") as stage:
        for shard in extract(context, executor, tasks, only_broken=True):
            stats.add(shard)
            stage.count(broken=shard.shards)
            stage.advance(1)
    logger.warning("%d broken shards were extracted again.", stats.shards)
    _forget_bands(context, {name for name, _ in stats.failed})
    return stats


def check_bases(context: RunContext) -> None:
    """Remove the bands that an interrupted run has computed with another basis of their group.

    A basis that was deleted, or that `overwrite` found anew, need not have the same directions to the last bit. Called
    when all bases are known, before any band is computed.
    """
    if context.settings.compress == "none":
        return
    fs, path = context.out_paths.fs, context.run_paths.bases_json
    before = read_json(fs, path) or {}
    bases = {name: context.meta_of(name).basis_sha256 for name in context.groups}
    _forget_bands(context, {name for name, sha256 in bases.items() if before.get(name, sha256) != sha256})
    write_json(fs, path, bases)


def _forget_bands(context: RunContext, groups: Collection[str]) -> None:
    """Remove what is known of the distances of some groups."""
    for name in groups:
        remove_tree(context.out_paths.fs, context.run_paths.repeats(name))
        for folder in one_way_folders(context.run_paths, name):
            remove_tree(context.out_paths.fs, folder)
        for layer in context.meta.layers:
            remove_tree(context.out_paths.fs, context.run_paths.bands(name, layer))


def add_figures(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Add the figures of a stage that ran twice."""
    return {name: _sum(name, first.get(name), value) for name, value in second.items()}


def _sum(name: str, first: Any, second: Any) -> Any:
    if first is None:
        return second
    if isinstance(second, dict):  # by group
        return first | second
    return max(first, second) if name == "largest_summary_error" else first + second
