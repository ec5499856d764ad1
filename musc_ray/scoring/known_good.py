"""What is compared one way, the driver: with known good images before the mutual stage, images aside after it.

Files of a stopped run are found by the workers: a task whose file is written is done at once.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

from musc_ray.features.context import RunContext
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.patch_sets import PatchSet
from musc_ray.scoring.ring import GroupImages
from musc_ray.storage.known_good_arrays import write_known_count

Task = tuple[GroupImages, int, PatchSet, int]
"""Group, layer, set of patches, and number of the shard whose images are scored."""


@dataclass(frozen=True)
class OneWay:
    """The error of each group that failed, the shards compared (each once a layer and set), and the seconds it took."""

    failed: dict[str, Exception] = field(default_factory=dict)
    shards: int = 0
    seconds: float = 0.0


def compare_with_known_good(
    pool: Pool, context: RunContext, groups: Sequence[GroupImages], progress: Progress
) -> OneWay:
    """Write the distances of all scored images to the nearest known good image, of groups that have any."""
    for group in groups:
        if group.known_good:
            write_known_count(context.run_paths, group.group, group.known)
    tasks = [
        (group, layer, patch_set, number)
        for group in groups
        if group.known_good
        for layer, patch_set, number in product(context.meta.layers, group.sets, group.all_scored().shards)
    ]
    return _each(pool, "known_good", "write_nearest_good", tasks, progress)


def score_aside(pool: Pool, context: RunContext, groups: Sequence[GroupImages], progress: Progress) -> OneWay:
    """Write the bands of images that are nobody's reference; distances to known good images are written."""
    tasks = [
        (group, layer, patch_set, shard.number)
        for group in groups
        for layer, patch_set, shard in product(context.meta.layers, group.sets, group.aside)
    ]
    return _each(pool, "aside", "write_aside", tasks, progress)


def _each(pool: Pool, stage_name: str, method: str, tasks: Sequence[Task], progress: Progress) -> OneWay:
    if not tasks:
        return OneWay()
    left, failed = deque(tasks), dict[str, Exception]()
    with progress.stage(stage_name, total=len(tasks), unit="tasks") as stage:
        calls = pool.run(lambda _: left.popleft() if left else None, lambda worker, task: worker.call(method, *task))
        for (group, *_), _, error in calls:
            stage.advance(1)
            if error is not None:
                failed.setdefault(group.group, error)
    return OneWay(failed, len(tasks), stage.seconds)
