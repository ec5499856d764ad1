"""Features that turn out to be broken while they are scored: found by their checksums, and extracted again."""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from musc_ray.features.context import RunContext
from musc_ray.features.extraction import ExtractStats, ShardTask, extract
from musc_ray.runtime.progress import Progress
from musc_ray.storage.filesystem import remove_tree

MAX_REPAIRS = 2
"""Maximum repair rounds; storage that keeps corrupting data counts as failed."""

logger = logging.getLogger(__name__)


def repair_features(
    context: RunContext, groups: Collection[str], errors: Sequence[Mapping[str, str]], progress: Progress
) -> ExtractStats:
    """Read all shards of some groups, and extract again those that are broken, of the run's images.

    An image that cannot be extracted any more leaves its group: bands that it had a part in are removed.

    Args:
        context: what the run works on.
        groups: where a broken shard was met.
        errors: images that are known to be broken.
        progress: shows the stage.

    Returns:
        Figures of what was extracted, with the images that failed.
    """
    known = {(error["group"], error["uri"]) for error in errors}
    tasks = [
        ShardTask(name, shard, [image for image in images if (name, image.uri) not in known])
        for name in groups
        for shard, images in context.groups[name].all.items()
    ]
    tasks = [task for task in tasks if task.images]
    stats = ExtractStats()
    with progress.stage("repair", total=len(tasks), unit="shards") as stage:
        for shard in extract(
            context.settings, context.arithmetic, context.layout, context.meta, tasks, only_broken=True
        ):
            stats.add(shard)
            stage.count(broken=shard.shards)
            stage.advance(1)
    logger.warning("%d broken shards were extracted again.", stats.shards)
    for name in {name for name, _ in stats.failed}:
        remove_tree(context.layout.fs, context.run_paths.repeats(name))
        for layer in context.meta.layers:
            remove_tree(context.layout.fs, context.run_paths.bands(name, layer))
    return stats


def added(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Figures of a stage that was gone through twice."""
    return {name: _sum(name, first.get(name), value) for name, value in second.items()}


def _sum(name: str, first: Any, second: Any) -> Any:
    if first is None:
        return second
    if isinstance(second, dict):  # of groups
        return first | second
    return max(first, second) if name == "largest_summary_error" else first + second
