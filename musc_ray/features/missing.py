"""Extract the features that a run still misses: the extraction stage of a run."""

from collections.abc import Mapping
from typing import Any

from musc_ray.features.context import RunContext
from musc_ray.features.errors_table import error_rows
from musc_ray.features.extraction import ExtractStats, extract
from musc_ray.runtime.executor import Executor
from musc_ray.runtime.progress import Progress

OF_GROUPS = ("failed", "fitted", "outside", "remarks", "sizes")
"""Figures that are kept by group or image, not in the stage's."""


def extract_missing(
    context: RunContext, executor: Executor, progress: Progress, stages: dict[str, dict[str, Any]]
) -> list[dict[str, str]]:
    """Extract the missing features of a run's images.

    Args:
        context: the run.
        executor: runs the tasks.
        progress: shows the stage.
        stages: figures of the stage are added here.

    Returns:
        Rows of the errors table, for images that failed now or in an earlier run.
    """
    tasks = [
        context.shard_task(name, shard, images)
        for name, group in context.groups.items()
        for shard, images in group.missing.items()
    ]
    fits = [
        context.fit_task(name) for name, group in context.groups.items() if group.missing and context.is_pending(name)
    ]
    stats = ExtractStats(failed=[(name, image) for name, group in context.groups.items() for image in group.failed])
    for name, group in context.groups.items():
        stats.remarks.update({(name, remark): images for remark, images in group.remarks.items()})
    missing = sum(len(task.images) for task in tasks)
    needed = context.images + len(context.known_good_images)
    with progress.stage("extract", total=needed, unit="images") as stage:
        stage.already_done(max(0, needed - missing))
        if fits:
            stage.note(f"finding the basis of {len(fits):,} group{'' if len(fits) == 1 else 's'}")
        for shard in extract(context, executor, tasks, fits):
            stats.add(shard)
            context.compression.update({name: found for name, found in shard.fitted.items() if found is not None})
            stage.count(bytes_written=shard.bytes_written, errors=len(shard.failed))
            stage.advance(shard.images)
    for (name, *size), count in stats.sizes.items():
        context.groups[name].sizes[size[0], size[1]] += count
    for name, outside in stats.outside.items():
        context.groups[name].outside += outside
    figures = {name: value for name, value in vars(stats).items() if name not in OF_GROUPS}
    if stats.remarks:
        figures["remarks"] = _by_group(stats.remarks)
    without_basis = sorted(name for name, found in stats.fitted.items() if found is None)
    if without_basis:
        figures["without_basis"] = without_basis
    stages["extract"] = {"seconds": stage.seconds, **figures, "already_done": needed - missing}
    return error_rows(stats.failed)


def _by_group(remarks: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Return the numbers of images by group and remark."""
    found: dict[str, dict[str, int]] = {}
    for (group, remark), images in sorted(remarks.items()):
        found.setdefault(group, {})[remark] = images
    return found
