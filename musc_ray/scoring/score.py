"""Stages 3 to 5 on one pool of scorers: mutual, reduce, publish."""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from ray.exceptions import RayError

from musc_ray.core import products_per_tile
from musc_ray.features.context import RunContext
from musc_ray.runtime.cluster import plan_actors
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.defects.driver import find_repeats
from musc_ray.scoring.mutual import Mutual, block_side
from musc_ray.scoring.ranker import GroupFigures
from musc_ray.scoring.ranking import Publish
from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.scoring.scorer import Scorer

logger = logging.getLogger(__name__)

CALLS_AT_ONCE = 2
"""Blocks that a scorer works on: one in the kernel, the shards of another on their way."""


def score_groups(
    context: RunContext,
    groups: Sequence[GroupImages],
    scored_at: datetime,
    progress: Progress,
    stages: dict[str, dict[str, Any]],
) -> tuple[dict[str, GroupFigures], dict[str, Exception]]:
    """Score groups whose features are there; what an earlier run has done is taken up.

    Args:
        context: settings, layout and identity of the run.
        groups: what to score.
        scored_at: stands in every row.
        progress: shows the stages.
        stages: figures of each stage are added here.

    Returns:
        Figures of the groups that are scored; the groups that failed, and why.
    """
    settings, run_paths, meta = context.settings, context.run_paths, context.meta
    patches, layers = meta.grid[0] * meta.grid[1], len(meta.layers)
    shards = [len(group.ring) for group in groups]
    workers = plan_actors(settings, layers * sum(shards)).actors
    side = block_side(settings, shards, layers, patches, workers)
    mutual = Mutual(run_paths, groups, meta.layers, side)
    arguments = (settings, context.layout.uri(context.layout.root), context.run_id, meta)
    with Pool(Scorer, settings, workers, *arguments, calls_at_once=CALLS_AT_ONCE) as pool:
        products = products_per_tile(pool.plan.device == "cuda", settings.vectors)
        with progress.stage("mutual", total=mutual.total, unit="tiles") as stage:
            for tiles, found in mutual.run(pool):
                stage.advance(tiles)
                stage.already_done(found)
                operations = 2.0 * mutual.stats.pairs * patches**2 * meta.channels * products
                stage.note(f"{operations / stage.seconds / 1e12:.2g} TFLOP/s")
        stages["mutual"] = {
            "seconds": stage.seconds,
            **asdict(mutual.stats),
            "operations": operations,
        }
        failed = dict(mutual.failed)
        left = [group for group in groups if group.group not in failed]
        if settings.repeated_defects:
            failed |= _repeats(pool, context, left, progress, stages)
            left = [group for group in left if group.group not in failed]
        with progress.stage("reduce", total=sum(group.images for group in left), unit="images") as stage:
            for (group, shard), error in _reduce(pool, left):
                stage.advance(len(shard.ids))
                if error is not None:
                    failed.setdefault(group, error)
        stages["reduce"] = {"seconds": stage.seconds}
        left = [group for group in left if group.group not in failed]
        publish = Publish(left, scored_at)
        with progress.stage("publish", total=len(left), unit="groups") as stage:
            for _ in publish.run(pool):
                stage.advance(1)
        stages["publish"] = {"seconds": stage.seconds}
        stages["mutual"] |= {"lost_workers": pool.lost, "repeated_tasks": pool.repeated}
    failed |= publish.failed
    for name, error in failed.items():
        logger.error("Group '%s' failed: %s", name, error)
        logger.debug("Where it failed:", exc_info=error)
    return {name: found for name, found in publish.figures.items() if name not in failed}, failed


def _repeats(
    pool: Pool,
    context: RunContext,
    groups: Sequence[GroupImages],
    progress: Progress,
    stages: dict[str, dict[str, Any]],
) -> dict[str, Exception]:
    """Find and cure the repeated defects of all groups; returns the groups that failed, and why."""
    run_paths, layers, seed = context.run_paths, context.meta.layers, context.settings.seed
    defects: dict[str, list[dict[str, int]]] = {}
    failed: dict[str, Exception] = {}
    with progress.stage("repeats", total=len(groups), unit="groups") as stage:
        for group in groups:
            try:
                defects[group.group] = find_repeats(pool, run_paths, group, layers, seed)
            except RayError as error:
                failed[group.group] = error
            stage.advance(1)
    stages["repeats"] = {"seconds": stage.seconds, "defects": defects}
    return failed


def _reduce(pool: Pool, groups: Sequence[GroupImages]) -> Iterator[tuple[tuple[str, RingShard], Exception | None]]:
    """Combine all shards of all groups; yields group and shard, and what went wrong if anything did."""
    shards = ((group.group, shard) for group in groups for shard in group.ring)
    for task, _, error in pool.run(lambda _: next(shards, None), lambda actor, task: [actor.combine.remote(*task)]):
        yield task, error
