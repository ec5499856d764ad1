"""From features to bands, the driver: every tile (pair of shards) is multiplied once and serves both of its shards.

A band is one shard's patch scores of one layer and set of patches (`patch_sets`). It is reduced and written as soon as
its last tile is multiplied, and a written band is never computed again: bands are the unit of resume. Tiles are
multiplied in blocks. A worker reduces the bands that need no other worker's distances; the rest goes from worker to
worker through the executor. The driver holds ids and references only. Groups, layers and sets follow each other without
a pause.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

from musc_ray.core.pending_distances import MAX_EXACT_REFERENCES, SUMMARY_CHUNK
from musc_ray.core.references import ReferenceWindow
from musc_ray.errors import MuscRayError
from musc_ray.runtime.executor import Executor, ResultLostError, Worker
from musc_ray.runtime.pool import Member, Pool, References, Task
from musc_ray.scoring.patch_sets import PatchSet
from musc_ray.scoring.ring import BandKey, BlockTask, GroupImages, RingBlock, ring_blocks
from musc_ray.settings.model import Settings
from musc_ray.storage.arrays import finished_bands
from musc_ray.storage.paths import RunPaths

MAX_SIDE = 8
"""Shards along a side of a block: the number of tiles per shard read."""

MIN_BLOCKS_PER_WORKER = 16
"""Minimum blocks per worker: smaller blocks keep workers from idling at the end."""

DISTANCES_SHARE = 4
"""A block's distances may take 1 / DISTANCES_SHARE of `cache_mb`."""

MAX_REPAIRS = 3


Sides = Mapping[tuple[str, int], int]
"""Shards along a side of the blocks of each group and set of patches."""

OfGroup = tuple[str, int, PatchSet, ReferenceWindow, int | None, int]
"""The first fields of a `BlockTask`, which tasks of a group, layer and set have in common."""


@dataclass
class Band:
    """An unfinished band: references to its parts so far, and the number of parts still expected.

    Attributes:
        columns: images that the parts hold distances to, without summaries.
        attempt: number of restarts.
    """

    group: GroupImages
    layer: int
    shard: int
    patch_set: PatchSet
    awaited: int
    parts: list[Any] = field(default_factory=list)
    columns: int = 0
    attempt: int = 0

    @property
    def key(self) -> BandKey:
        """Group, layer, shard and set."""
        return self.group.group, self.layer, self.shard, self.patch_set.number


@dataclass(frozen=True)
class BandTask:
    """Reduce a complete band."""

    band: Band


@dataclass(frozen=True)
class SummariseTask:
    """Merge parts of a band into a summary."""

    band: Band
    parts: Sequence[Any]


@dataclass
class MutualStats:
    """Figures of the stage; seconds are summed over workers."""

    tiles: int = 0
    already_done: int = 0
    pairs: int = 0
    seconds_in_kernel: float = 0.0
    shards_read: int = 0
    repaired_bands: int = 0
    shrunk_blocks: int = 0
    largest_summary_error: float = 0.0


def block_side(
    settings: Settings, shards: Sequence[int], runs: int, distances: int, workers: int, most: int = MAX_SIDE
) -> int:
    """Choose the shards along a side of a block: as many as memory allows while every worker gets enough blocks.

    Args:
        settings: degrees, aggregation, precision and cache_mb.
        shards: number of shards of each group.
        runs: how often each group's tiles are multiplied: once a layer and set of patches.
        distances: of a tile, A * L * B of its shards; of the largest.
        workers: number of workers.
        most: the side is at most this.
    """
    tile_bytes = 2 * distances * settings.vectors * settings.distance_bytes
    fitting = int((settings.cache_mb * 2**20 / DISTANCES_SHARE / tile_bytes) ** 0.5)
    side = max(1, min(most, fitting))
    while side > 1 and runs * sum(_block_count(count, side) for count in shards) < MIN_BLOCKS_PER_WORKER * workers:
        side -= 1
    return side


def _block_count(shards: int, side: int) -> int:
    chunks = -(-shards // side)
    return chunks * (chunks + 1) // 2


class TileDriver:
    """Dispatches the blocks of all groups and layers, collects the parts of bands, has complete bands reduced.

    Attributes:
        stats: figures of the stage.
        pairs: image pairs scored so far by group and set, each counted once for each layer.
    """

    def __init__(self, run_paths: RunPaths, groups: Sequence[GroupImages], layers: Sequence[int], sides: Sides) -> None:
        self.run_paths, self.layers, self.sides = run_paths, layers, sides
        self.groups = {group.group: group for group in groups}
        self.blocks = {scored: ring_blocks(self.groups[scored[0]], side) for scored, side in sides.items()}
        self.bands: dict[BandKey, Band] = {}
        self.urgent: deque[Task] = deque()
        self.upcoming: deque[BlockTask] = deque()
        self.coming = self._block_tasks()
        self.held: dict[Member, deque[BandKey]] = {}
        self.failed: dict[str, Exception] = {}
        self.stats = MutualStats()
        self.pairs: Counter[tuple[str, int]] = Counter()

    @property
    def total(self) -> int:
        """Count the tiles of all groups, layers and sets."""
        return len(self.layers) * sum(block.tiles for blocks in self.blocks.values() for block in blocks)

    def run(self, pool: Pool) -> Iterator[tuple[int, int]]:
        """Compute all missing bands; yields the numbers of tiles done, and found done, since the last time."""
        done = found = 0
        for task, references, error in pool.run(lambda member: self._next_task(member, len(pool)), self._call):
            self._handle(pool.executor, task, references, error)
            yield self.stats.tiles - done, self.stats.already_done - found
            done, found = self.stats.tiles, self.stats.already_done
        yield self.stats.tiles - done, self.stats.already_done - found

    def _block_tasks(self) -> Iterator[BlockTask]:
        """Yield the blocks that unfinished bands need, group by group, layer by layer and set by set."""
        for group in self.groups.values():
            for layer, patch_set in product(self.layers, group.sets):
                done = finished_bands(self.run_paths, group.group, layer, patch_set.number)
                blocks = self.blocks[group.group, patch_set.number]
                needed = [block for block in blocks if not block.shards <= done]
                self.stats.already_done += sum(block.tiles for block in blocks) - sum(b.tiles for b in needed)
                awaited = Counter(shard for block in needed for shard in block.shards - done)
                for block in needed:
                    of_group = self._of_group(group, layer, patch_set)
                    yield self._begin_block(group, of_group, block, done, awaited)

    def _begin_block(
        self, group: GroupImages, of_group: OfGroup, block: RingBlock, done: set[int], awaited: Mapping[int, int]
    ) -> BlockTask:
        """Create the task of a block and the bands that it begins."""
        rows = group.ring[block.rows.start : block.rows.stop]
        columns = rows if block.columns == block.rows else group.ring[block.columns.start : block.columns.stop]
        unfinished = block.shards - done
        whole = frozenset(shard for shard in unfinished if awaited[shard] == 1)
        task = BlockTask(*of_group, rows, columns, unfinished, whole, block.tiles, merged=group.places > 1)
        for shard in task.returned:
            band = Band(group, task.layer, shard, task.patch_set, awaited[shard])
            self.bands.setdefault(band.key, band)
        return task

    def _of_group(self, group: GroupImages, layer: int, patch_set: PatchSet) -> OfGroup:
        """Return the first fields of a task; workers keep all shards if every pair is scored, else two block sides."""
        keep = len(group.ring) if group.window.is_all else 2 * self.sides[group.group, patch_set.number]
        return group.group, layer, patch_set, group.window, group.radius_of(patch_set), keep

    def _next_task(self, member: Member, workers: int) -> Task | None:
        """Choose a task: complete bands first, else of the next blocks the one with most shards that the worker has."""
        while self.urgent:
            task = self.urgent.popleft()
            if _group_of(task) not in self.failed:
                return task
        while len(self.upcoming) < 2 * workers and (block := next(self.coming, None)) is not None:
            if block.group not in self.failed:
                self.upcoming.append(block)
        if not self.upcoming:
            return None
        held = self.held.setdefault(member, deque(maxlen=4 * max(self.sides.values())))
        best = max(self.upcoming, key=lambda task: len(_shards_of(task) & set(held)))
        self.upcoming.remove(best)
        held.extend(_shards_of(best) - set(held))
        return best

    def _call(self, worker: Worker, task: Task) -> References:
        """Call the worker's method for a task."""
        if isinstance(task, BandTask):
            band = task.band
            of = band.group.group, band.layer, band.group.shards[band.shard], band.patch_set
            return worker.call("reduce_band", of, band.group.window, *band.parts)
        if isinstance(task, SummariseTask):
            return worker.call("summarise", *task.parts, returns=2)
        return worker.call("multiply_block", task, returns=1 + len(task.returned))

    def _handle(self, executor: Executor, task: Task, references: References, error: Exception | None) -> None:
        """Handle the result of a task."""
        group = _group_of(task)
        if group in self.failed:
            return
        if not isinstance(task, BlockTask) and isinstance(error, ResultLostError):
            self._restart(task.band)
        elif error is not None:
            self._fail(group, error)
        elif isinstance(task, BandTask):
            self._note_error(executor.get(references[0]))
            del self.bands[task.band.key]
        elif isinstance(task, SummariseTask):
            self._add_part(task.band, references[1], columns=0)
        else:
            self._handle_block(task, executor.get(references[0]), references[1:])

    def _handle_block(self, task: BlockTask, block: Any, parts: References) -> None:
        """Add up a block's figures and add its parts to their bands."""
        self.stats.tiles += task.counted
        self.stats.pairs += block.pairs
        self.pairs[task.group, task.patch_set.number] += block.pairs
        self.stats.seconds_in_kernel += block.seconds_in_kernel
        self.stats.shards_read += block.shards_read
        self.stats.shrunk_blocks += block.shrunk
        self._note_error(block.error)
        for shard, part in zip(task.returned, parts, strict=True):
            band = self.bands.get((task.group, task.layer, shard, task.patch_set.number))
            if band is not None and band.attempt == task.attempt:
                self._add_part(band, part, task.columns_of(shard))

    def _add_part(self, band: Band, part: Any, columns: int) -> None:
        """Add a part to a band; dispatch it after the last one; merge parts into a summary where one is kept."""
        band.parts.append(part)
        band.columns += columns
        band.awaited -= 1
        if band.awaited == 0:
            self.urgent.append(BandTask(band))
        elif band.group.window.references > MAX_EXACT_REFERENCES and band.columns >= SUMMARY_CHUNK:
            self.urgent.append(SummariseTask(band, tuple(band.parts)))
            band.parts.clear()
            band.columns = 0
            band.awaited += 1

    def _restart(self, band: Band) -> None:
        """Restart a band whose parts were lost with a node: multiply its row of tiles for it alone."""
        group = band.group
        if self.bands.get(band.key) is not band:
            return  # already restarted
        if band.attempt >= MAX_REPAIRS:
            lost = f"The distances of shard {band.shard}, layer {band.layer}, were lost with their nodes"
            self._fail(group.group, MuscRayError(f"{lost} {MAX_REPAIRS} times: run again on nodes that stay."))
            return
        self.stats.repaired_bands += 1
        own = group.shards[band.shard]
        others = [shard for shard in group.ring if group.window.touches(own.positions, shard.positions)]
        side = self.sides[group.group, band.patch_set.number]
        pieces = [others[start : start + side] for start in range(0, len(others), side)]
        anew = Band(group, band.layer, band.shard, band.patch_set, len(pieces), attempt=band.attempt + 1)
        self.bands[anew.key] = anew
        only, of_group = frozenset([band.shard]), self._of_group(group, band.layer, band.patch_set)
        rest = only, frozenset[int](), 0, anew.attempt, group.places > 1
        self.urgent.extend(BlockTask(*of_group, [own], piece, *rest) for piece in pieces)

    def _fail(self, group: str, error: Exception) -> None:
        """Drop a failed group; the others continue."""
        self.failed[group] = error
        self.upcoming = deque(task for task in self.upcoming if task.group != group)
        self.bands = {key: band for key, band in self.bands.items() if key[0] != group}

    def _note_error(self, error: float) -> None:
        self.stats.largest_summary_error = max(self.stats.largest_summary_error, error)


def _group_of(task: Task) -> str:
    group: str = task.group if isinstance(task, BlockTask) else task.band.group.group
    return group


def _shards_of(task: BlockTask) -> set[BandKey]:
    number = task.patch_set.number
    return {(task.group, task.layer, shard.number, number) for shard in (*task.rows, *task.columns)}
