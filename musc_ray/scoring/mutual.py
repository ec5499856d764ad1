"""Stage 3, features -> bands: every tile (pair of shards) is multiplied once and serves both of its shards.

A band is one shard's rows: its patch scores for one layer. It is reduced and written as soon as its last tile is there,
and a band that is written is never computed again: bands are the unit of resume. Tiles are multiplied in blocks. What
an actor needs no other's distances for it reduces itself; the rest goes from actor to actor through Ray's object store.
The driver holds ids and references only. Groups and layers follow each other without a gap.
"""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import ObjectLostError

from musc_ray.core.patch_scores import MAX_EXACT_REFERENCES, SUMMARY_CHUNK
from musc_ray.errors import MuscRayError
from musc_ray.runtime.pool import Pool, References, Task, Worker
from musc_ray.scoring.ring import BlockTask, GroupImages, RingBlock, ring_blocks
from musc_ray.settings.model import Settings
from musc_ray.storage.arrays import finished_bands
from musc_ray.storage.paths import RunPaths

LARGEST_SIDE = 8
"""Shards along a side of a block: each that is read serves so many tiles."""

BLOCKS_PER_WORKER = 16
"""Blocks are made smaller until there are so many for each actor, so that none idles long at the end."""

MINIMA_SHARE = 4
"""A block's distances may take 1 / MINIMA_SHARE of `cache_mb`."""

MAX_REPAIRS = 3


BandKey = tuple[str, int, int]


@dataclass
class Band:
    """A band in the making: references to its parts so far, and how many are still to come.

    Attributes:
        columns: images that the parts hold distances to, summaries not counted.
        attempt: how often it was begun anew.
    """

    group: GroupImages
    layer: int
    shard: int
    awaited: int
    parts: list[Any] = field(default_factory=list)
    columns: int = 0
    attempt: int = 0

    @property
    def key(self) -> BandKey:
        """Group, layer and shard."""
        return self.group.group, self.layer, self.shard


@dataclass(frozen=True)
class BandTask:
    """Reduce a band that is complete."""

    band: Band


@dataclass(frozen=True)
class CondenseTask:
    """Merge parts of a band into a summary."""

    band: Band
    parts: Sequence[Any]


@dataclass
class MutualStats:
    """What the stage did; seconds are summed over actors."""

    tiles: int = 0
    already_done: int = 0
    pairs: int = 0
    seconds_in_kernel: float = 0.0
    shards_read: int = 0
    repaired_bands: int = 0
    shrunk_blocks: int = 0
    largest_summary_error: float = 0.0


def block_side(settings: Settings, shards: Sequence[int], layers: int, patches: int, workers: int) -> int:
    """Shards along a side of a block: as many as memory allows while every worker still gets some blocks.

    Args:
        settings: shard_size, degrees, aggregation and cache_mb.
        shards: how many each group has.
        layers: how many.
        patches: L.
        workers: actors.
    """
    tile_bytes = 2 * settings.shard_size**2 * patches * settings.vectors * settings.distance_bytes
    fitting = int((settings.cache_mb * 2**20 / MINIMA_SHARE / tile_bytes) ** 0.5)
    side = max(1, min(LARGEST_SIDE, fitting))
    while side > 1 and layers * sum(_block_count(count, side) for count in shards) < BLOCKS_PER_WORKER * workers:
        side -= 1
    return side


def _block_count(shards: int, side: int) -> int:
    chunks = -(-shards // side)
    return chunks * (chunks + 1) // 2


class Mutual:
    """The bands of all groups and layers: hands out blocks, takes their parts in, and has complete bands reduced."""

    def __init__(self, run_paths: RunPaths, groups: Sequence[GroupImages], layers: Sequence[int], side: int) -> None:
        self.run_paths, self.layers, self.side = run_paths, layers, side
        self.groups = {group.group: group for group in groups}
        self.blocks = {group.group: ring_blocks(group, side) for group in groups}
        self.bands: dict[BandKey, Band] = {}
        self.urgent: deque[Task] = deque()
        self.upcoming: deque[BlockTask] = deque()
        self.coming = self._block_tasks()
        self.held: dict[Worker, deque[BandKey]] = {}
        self.failed: dict[str, Exception] = {}
        self.stats = MutualStats()

    @property
    def total(self) -> int:
        """Tiles of all groups and layers."""
        return len(self.layers) * sum(block.tiles for blocks in self.blocks.values() for block in blocks)

    def run(self, pool: Pool) -> Iterator[tuple[int, int]]:
        """Compute all bands that are missing; yields numbers of tiles done, and found done, since the last time."""
        done = found = 0
        for task, references, error in pool.run(lambda worker: self._next_task(worker, len(pool)), self._call):
            self._take(task, references, error)
            yield self.stats.tiles - done, self.stats.already_done - found
            done, found = self.stats.tiles, self.stats.already_done
        yield self.stats.tiles - done, self.stats.already_done - found

    def _block_tasks(self) -> Iterator[BlockTask]:
        """The blocks that unfinished bands need, group by group and layer by layer."""
        for group in self.groups.values():
            for layer in self.layers:
                done = finished_bands(self.run_paths, group.group, layer)
                blocks = self.blocks[group.group]
                needed = [block for block in blocks if not block.shards <= done]
                self.stats.already_done += sum(block.tiles for block in blocks) - sum(b.tiles for b in needed)
                awaited = Counter(shard for block in needed for shard in block.shards - done)
                for block in needed:
                    yield self._open(group, layer, block, done, awaited)

    def _open(
        self, group: GroupImages, layer: int, block: RingBlock, done: set[int], awaited: Mapping[int, int]
    ) -> BlockTask:
        """The task of a block; its bands are in the making from now on."""
        rows = group.ring[block.rows.start : block.rows.stop]
        columns = rows if block.columns == block.rows else group.ring[block.columns.start : block.columns.stop]
        unfinished = block.shards - done
        whole = frozenset(shard for shard in unfinished if awaited[shard] == 1)
        keep = self._worth_keeping(group)
        task = BlockTask(group.group, layer, group.window, rows, columns, unfinished, whole, block.tiles, keep)
        for shard in task.returned:
            self.bands.setdefault((group.group, layer, shard), Band(group, layer, shard, awaited[shard]))
        return task

    def _worth_keeping(self, group: GroupImages) -> int:
        """All shards where each meets each, as far as they fit; on a ring those of a block: few come back."""
        return len(group.ring) if group.window.is_all else 2 * self.side

    def _next_task(self, worker: Worker, workers: int) -> Task | None:
        """What is complete is reduced first; else, of the next few blocks, the one whose shards the worker holds."""
        while self.urgent:
            task = self.urgent.popleft()
            if _group_of(task) not in self.failed:
                return task
        while len(self.upcoming) < 2 * workers and (block := next(self.coming, None)) is not None:
            if block.group not in self.failed:
                self.upcoming.append(block)
        if not self.upcoming:
            return None
        held = self.held.setdefault(worker, deque(maxlen=4 * self.side))
        best = max(self.upcoming, key=lambda task: len(_shards_of(task) & set(held)))
        self.upcoming.remove(best)
        held.extend(_shards_of(best) - set(held))
        return best

    def _call(self, actor: Any, task: Task) -> References:
        """Call an actor's method for a task."""
        if isinstance(task, BandTask):
            band = task.band
            return [actor.band.remote(*band.key, band.group.window, *band.parts)]
        if isinstance(task, CondenseTask):
            summary = actor.condense.options(num_returns=2).remote(*task.parts)
            return list(summary)
        references = actor.block.options(num_returns=1 + len(task.returned)).remote(task)
        return references if isinstance(references, list) else [references]

    def _take(self, task: Task, references: References, error: Exception | None) -> None:
        """Book the result of a task."""
        group = _group_of(task)
        if group in self.failed:
            return
        if error is not None and not isinstance(task, BlockTask) and _is_lost(error):
            self._repair(task.band)
        elif error is not None:
            self._fail(group, error)
        elif isinstance(task, BandTask):
            self._note_error(_result(references))
            del self.bands[task.band.key]
        elif isinstance(task, CondenseTask):
            self._add_part(task.band, references[1], columns=0)
        else:
            self._take_block(task, references)

    def _take_block(self, task: BlockTask, references: References) -> None:
        """Book a block's figures and hand its parts to their bands."""
        block = _result(references)
        self.stats.tiles += task.counted
        self.stats.pairs += block.pairs
        self.stats.seconds_in_kernel += block.seconds_in_kernel
        self.stats.shards_read += block.shards_read
        self.stats.shrunk_blocks += block.shrunk
        self._note_error(block.error)
        for shard, part in zip(task.returned, references[1:], strict=True):
            band = self.bands.get((task.group, task.layer, shard))
            if band is not None and band.attempt == task.attempt:
                self._add_part(band, part, task.columns_of(shard))

    def _add_part(self, band: Band, part: Any, columns: int) -> None:
        """Add a part to a band; the last one sends it off, and where a summary is kept some are condensed into one."""
        band.parts.append(part)
        band.columns += columns
        band.awaited -= 1
        if band.awaited == 0:
            self.urgent.append(BandTask(band))
        elif band.group.window.references > MAX_EXACT_REFERENCES and band.columns >= SUMMARY_CHUNK:
            self.urgent.append(CondenseTask(band, tuple(band.parts)))
            band.parts.clear()
            band.columns = 0
            band.awaited += 1

    def _repair(self, band: Band) -> None:
        """Compute a band anew whose parts were lost with a node: its row of tiles, for itself alone."""
        group = band.group
        if self.bands.get(band.key) is not band:
            return  # already begun anew
        if band.attempt >= MAX_REPAIRS:
            lost = f"The distances of shard {band.shard}, layer {band.layer}, were lost with their nodes"
            self._fail(group.group, MuscRayError(f"{lost} {MAX_REPAIRS} times: run again on nodes that stay."))
            return
        self.stats.repaired_bands += 1
        own = group.shards[band.shard]
        others = [shard for shard in group.ring if group.window.touches(own.positions, shard.positions)]
        pieces = [others[start : start + self.side] for start in range(0, len(others), self.side)]
        anew = Band(group, band.layer, band.shard, len(pieces), attempt=band.attempt + 1)
        self.bands[anew.key] = anew
        only, keep = frozenset([band.shard]), self._worth_keeping(group)
        self.urgent.extend(
            BlockTask(group.group, band.layer, group.window, [own], piece, only, frozenset(), 0, keep, anew.attempt)
            for piece in pieces
        )

    def _fail(self, group: str, error: Exception) -> None:
        """Give a group up; the others go on."""
        self.failed[group] = error
        self.upcoming = deque(task for task in self.upcoming if task.group != group)
        self.bands = {key: band for key, band in self.bands.items() if key[0] != group}

    def _note_error(self, error: float) -> None:
        self.stats.largest_summary_error = max(self.stats.largest_summary_error, error)


def _result(references: References) -> Any:
    """What a call that is done returned first."""
    return ray.get(references[0])


def _group_of(task: Task) -> str:
    group: str = task.group if isinstance(task, BlockTask) else task.band.group.group
    return group


def _shards_of(task: BlockTask) -> set[BandKey]:
    return {(task.group, task.layer, shard.number) for shard in (*task.rows, *task.columns)}


def _is_lost(error: Exception) -> bool:
    """Whether an argument was lost with the node that held it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ObjectLostError):
            return True
        seen = seen.__cause__
    return False
