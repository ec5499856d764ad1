"""Score the groups of a run on one pool of workers: bands, repeated defects, patch maps, ranks; driver of `scorer`."""

import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from typing import Any

from musc_ray.core import candidates, operand_bytes, products_per_tile
from musc_ray.features.context import RunContext
from musc_ray.runtime.executor import Executor, ResultLostError, WorkerLostError
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.stage import Stage
from musc_ray.runtime.worker import Role
from musc_ray.scoring.crop_references import settle_crop_references
from musc_ray.scoring.defects.driver import find_defects
from musc_ray.scoring.kept import settle_kept
from musc_ray.scoring.known_good import OneWay, compare_with_known_good, score_aside
from musc_ray.scoring.matching import settle_matching
from musc_ray.scoring.patch_sets import PatchSet, patch_sets
from musc_ray.scoring.ranking_driver import RankingDriver
from musc_ray.scoring.ranking_worker import GroupFigures
from musc_ray.scoring.ring import GroupImages
from musc_ray.scoring.shown_maps import chosen_shown_maps, settle_shown_maps
from musc_ray.scoring.tile_driver import MAX_SIDE, TileDriver, block_side
from musc_ray.storage.group_crop_references import Meeting
from musc_ray.storage.group_foreground import GroupKept

logger = logging.getLogger(__name__)

SCORER = Role("musc_ray.scoring.scorer", "Scorer", calls=2, begins="preparing the kernels")
"""Has two blocks: one in the kernel, the shards of another loading."""

TOGETHER_SHARE = 4
"""Shards of crops that are prepared together may take 1 / TOGETHER_SHARE of `cache_mb`."""

Stages = dict[str, dict[str, Any]]


def score_groups(
    context: RunContext,
    executor: Executor,
    groups: Sequence[GroupImages],
    scored_at: datetime,
    progress: Progress,
    stages: Stages,
) -> tuple[dict[str, GroupFigures], dict[str, Exception]]:
    """Score groups whose features are extracted; resume what an earlier run has done.

    Args:
        context: settings, paths and identity of the run.
        executor: runs the tasks.
        groups: what to score.
        scored_at: time in every row.
        progress: shows the stages.
        stages: figures of each stage are added here.

    Returns:
        Figures of the scored groups; the error of each failed group.
    """
    settings, meta = context.settings, context.meta
    workers = executor.plan(len(meta.layers) * sum(len(group.ring) for group in groups)).workers
    arguments = (settings, context.arithmetic, context.out_paths.uri(context.out_paths.root), context.run_id, meta)
    with Pool(executor, SCORER, workers, *arguments) as pool:
        scoring = _Stages(pool, context, progress, stages)
        groups = scoring.settle_crop_references(groups)
        groups = scoring.settle_matching(groups)
        groups = scoring.settle_kept(groups)
        scoring.compare(compare_with_known_good, "known_good", groups)
        scoring.multiply_tiles(scoring.remaining(groups), workers)
        scoring.compare(score_aside, "aside", scoring.remaining(groups))
        if settings.repeated_defects:
            scoring.remove_defects(scoring.remaining(groups))
        groups = [group.all_scored() for group in groups]
        scoring.write_patch_maps(scoring.remaining(groups))
        figures = scoring.rank(scoring.remaining(groups), scored_at)
        stages["mutual"] |= {"lost_workers": pool.lost, "repeated_tasks": pool.repeated}
    for name, error in scoring.failed.items():
        logger.error("Group '%s' failed: %s", name, error)
        logger.debug("Where it failed:", exc_info=error)
    return {name: found for name, found in figures.items() if name not in scoring.failed}, scoring.failed


@dataclass
class _Stages:
    """The stages on a pool of workers.

    Attributes:
        figures: of each stage, added when it is done.
        failed: the error of each failed group.
        kept: which patches are multiplied, where not all are.
    """

    pool: Pool
    context: RunContext
    progress: Progress
    figures: Stages
    failed: dict[str, Exception] = field(default_factory=dict)
    kept: Mapping[str, GroupKept] = field(default_factory=dict)

    def remaining(self, groups: Sequence[GroupImages]) -> list[GroupImages]:
        """List the groups that have not failed."""
        return [group for group in groups if group.group not in self.failed]

    def settle_crop_references(self, groups: Sequence[GroupImages]) -> list[GroupImages]:
        """Settle which crops meet in each group that has any; returns the groups that have not failed."""
        settled = settle_crop_references(self.pool, self.context, groups, self.progress)
        self.failed |= settled.failed
        if settled.seconds:
            self.figures["crop_references"] = {"seconds": settled.seconds}
        return [
            self._cut(group, settled.answers[group.group].meeting) if group.group in settled.answers else group
            for group in self.remaining(groups)
        ]

    def _cut(self, group: GroupImages, meeting: Meeting) -> GroupImages:
        meta = self.context.meta_of(group.group)
        return replace(group, sets=patch_sets(meta, meeting), layout=meta.crops)

    def settle_matching(self, groups: Sequence[GroupImages]) -> list[GroupImages]:
        """Settle where the patches of each group look for their nearest; returns the groups that have not failed."""
        settled = settle_matching(self.pool, self.context, groups, self.progress)
        self.failed |= settled.failed
        if self.context.settings.matching == "auto":
            self.figures["matching"] = {"seconds": settled.seconds}
        return [replace(group, radius=settled.answers[group.group].radius) for group in self.remaining(groups)]

    def settle_kept(self, groups: Sequence[GroupImages]) -> list[GroupImages]:
        """Settle which patches are scored and compared with; returns the groups that have not failed."""
        settled = settle_kept(self.pool, self.context, groups, self.progress)
        self.failed |= settled.failed
        self.kept = settled.groups
        if settled.groups:
            self.figures["kept"] = {"seconds": settled.seconds}
        return self.remaining(groups)

    def compare(self, step: Callable[..., OneWay], name: str, groups: Sequence[GroupImages]) -> None:
        """Do one of the steps that compare one way, for the groups that need it."""
        done = step(self.pool, self.context, groups, self.progress)
        self.failed |= done.failed
        if done.shards:
            self.figures[name] = {"seconds": done.seconds, "shards": done.shards}

    def multiply_tiles(self, groups: Sequence[GroupImages], workers: int) -> None:
        """Multiply all tiles on some workers and write the bands."""
        driver = TileDriver(self.context.run_paths, groups, self.context.meta.layers, self._sides(groups, workers))
        per_pair = {
            (group.group, patch_set.number): self._operations_per_pair(group, patch_set)
            for group in groups
            for patch_set in group.sets
        }
        with self.progress.stage("mutual", total=driver.total, unit="tiles") as stage:
            for tiles, found in driver.run(self.pool):
                stage.advance(tiles)
                stage.already_done(found)
                operations = sum(pairs * per_pair[scored] for scored, pairs in driver.pairs.items())
                stage.note(f"{operations / stage.seconds / 1e12:.2g} TFLOP/s")
        self.figures["mutual"] = {"seconds": stage.seconds, **asdict(driver.stats), "operations": operations}
        self.failed |= driver.failed

    def _sides(self, groups: Sequence[GroupImages], workers: int) -> dict[tuple[str, int], int]:
        """Choose the shards along a side of the blocks of each group and set; those of crops are small, and more."""
        settings, layers = self.context.settings, len(self.context.meta.layers)
        whole = [group for group in groups if group.places == 1]
        sides: dict[tuple[str, int], int] = {}
        if whole:
            distances = settings.shard_size**2 * max(group.sets[0].patches for group in whole)
            side = block_side(settings, [len(group.ring) for group in whole], layers, distances, workers)
            sides = {(group.group, 0): side for group in whole}
        for group in groups:
            for patch_set in group.sets if group.places > 1 else ():
                images, runs = max(len(shard.ids) for shard in group.ring), layers * len(group.sets)
                most, distances = MAX_SIDE * group.places // len(patch_set.places), images**2 * patch_set.patches
                most = min(most, self._most_together(group, patch_set, images))
                side = block_side(settings, [len(group.ring)], runs, distances, workers, most)
                sides[group.group, patch_set.number] = side
        return sides

    def _most_together(self, group: GroupImages, patch_set: PatchSet, images: int) -> int:
        """Return the number of shards, at least one, that may be prepared together."""
        settings, arithmetic, meta = self.context.settings, self.context.arithmetic, self.context.meta_of(group.group)
        precision = arithmetic.precision_for(group.images, meta.basis_sha256 is not None)
        near = group.radius_of(patch_set) is not None
        of_channel = operand_bytes(arithmetic.device == "cuda", precision, settings.vectors, near)
        shard = images * patch_set.patches * meta.channels * of_channel
        return max(1, settings.cache_mb * 2**20 // TOGETHER_SHARE // shard)

    def _operations_per_pair(self, group: GroupImages, patch_set: PatchSet) -> float:
        """Count the operations of one layer and set of a pair of images."""
        arithmetic, meta = self.context.arithmetic, self.context.meta_of(group.group)
        precision = arithmetic.precision_for(group.images, meta.basis_sha256 is not None)
        radius, vectors = group.radius_of(patch_set), self.context.settings.vectors
        products = products_per_tile(arithmetic.device == "cuda", precision, vectors, radius)
        compared = len(patch_set.places) * candidates(patch_set.grid, radius)
        share = self.kept[group.group].share if group.group in self.kept else 1.0
        return 2.0 * patch_set.patches * compared * meta.channels * products * share**2

    def remove_defects(self, groups: Sequence[GroupImages]) -> None:
        """Find the repeated defects of all groups and score the affected images again."""
        run_paths, layers, seed = self.context.run_paths, self.context.meta.layers, self.context.settings.seed
        defects: dict[str, list[dict[str, int]]] = {}
        with self.progress.stage("repeats", total=len(groups), unit="groups") as stage:
            for group in groups:
                try:
                    defects[group.group] = find_defects(self.pool, run_paths, group, layers, seed)
                except (WorkerLostError, ResultLostError) as error:
                    self.failed[group.group] = error
                stage.advance(1)
        self.figures["repeats"] = {"seconds": stage.seconds, "defects": defects}

    def write_patch_maps(self, groups: Sequence[GroupImages]) -> None:
        """Average the bands of all shards over layers, stitch those of crops; write patch maps and raw scores."""
        cut = [group for group in groups if group.layout is not None]
        seconds = self._prepare_stitching(cut) if cut else 0.0
        shown = chosen_shown_maps(self.context)
        shards = (
            (group, shard, shown[group.group].shown if group.group in shown else "whole")
            for group in self.remaining(groups)
            for shard in group.ring
        )
        with self.progress.stage("reduce", total=sum(group.images for group in groups), unit="images") as stage:
            calls = self.pool.run(
                lambda _: next(shards, None), lambda worker, task: worker.call("write_patch_maps", *task)
            )
            for (group, shard, _), _, error in calls:
                stage.advance(len(shard.ids))
                if error is not None:
                    self.failed.setdefault(group.group, error)
        self.figures["reduce"] = {"seconds": stage.seconds + seconds}

    def _prepare_stitching(self, groups: Sequence[GroupImages]) -> float:
        """Average the maps of all places over layers, find what is usual and what maps show; returns the seconds."""
        shards = deque((group, shard) for group in groups for shard in group.ring)
        with self.progress.stage("crops", total=len(shards) + len(groups), unit="tasks") as stage:
            self._each(shards, "write_set_maps", stage)
            self._each(deque((group,) for group in self.remaining(groups)), "write_usual", stage)
        settled = settle_shown_maps(self.pool, self.context, self.remaining(groups), self.progress)
        self.failed |= settled.failed
        return stage.seconds + settled.seconds

    def _each(self, tasks: deque[Any], method: str, stage: Stage) -> None:
        """Call a method of the workers for each task, a tuple that begins with its group."""
        calls = self.pool.run(
            lambda _: tasks.popleft() if tasks else None, lambda worker, task: worker.call(method, *task)
        )
        for (group, *_), _, error in calls:
            stage.advance(1)
            if error is not None:
                self.failed.setdefault(group.group, error)

    def rank(self, groups: Sequence[GroupImages], scored_at: datetime) -> dict[str, GroupFigures]:
        """Rank all groups and write their scores; returns the figures of those that are done."""
        driver = RankingDriver(groups, scored_at)
        with self.progress.stage("rank", total=len(groups), unit="groups") as stage:
            for _ in driver.run(self.pool):
                stage.advance(1)
        self.figures["rank"] = {"seconds": stage.seconds}
        self.failed |= driver.failed
        return driver.figures
