"""Stage 5, patch maps -> scores: RsCIN over each group, ranks, and the tables of scores and neighbours.

A group goes through three steps (see `rank`): neighbours of its parts, ranks of all, writing of its parts. Parts of all
groups are worked on at once.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import ray
from ray.exceptions import ObjectLostError

from musc_ray.runtime.pool import Pool, References
from musc_ray.scoring.ranker import GroupFigures, parts_of
from musc_ray.scoring.ring import GroupImages

MAX_RESTARTS = 3


@dataclass
class Publishing:
    """A group on its way: its images in the object store, and what is there of it."""

    images: GroupImages
    stored: Any
    parts: list[range]
    unwritten: set[int]
    neighbours: dict[int, Any] = field(default_factory=dict)
    restarts: int = 0
    over: bool = False


@dataclass(frozen=True)
class NeighboursTask:
    """Find the neighbours of one part of a group."""

    group: Publishing
    part: int


@dataclass(frozen=True)
class RankTask:
    """Rank a group whose neighbours are all there."""

    group: Publishing


@dataclass(frozen=True)
class WriteTask:
    """Write one part of a group's scores and neighbours."""

    group: Publishing
    part: int
    columns: Any


PublishTask = NeighboursTask | RankTask | WriteTask


class Publish:
    """Publishes groups on a pool of scorers.

    Attributes:
        figures: threshold and drift of each group that is ranked.
        failed: the groups that cannot be published, and why.
    """

    def __init__(self, groups: Sequence[GroupImages], scored_at: datetime) -> None:
        self.scored_at = scored_at
        self.coming = deque(groups)
        self.tasks: deque[PublishTask] = deque()
        self.figures: dict[str, GroupFigures] = {}
        self.failed: dict[str, Exception] = {}

    def run(self, pool: Pool) -> Iterator[str]:
        """Publish all groups; yields the name of each that is done or has failed."""
        for task, references, error in pool.run(lambda _: self._next_task(), self._call):
            group = task.group
            if group.over:
                continue
            if error is None:
                self._take(task, references)
                group.over = not group.unwritten
            elif isinstance(error, ObjectLostError) and group.restarts < MAX_RESTARTS:
                group.over = True
                self._begin(group.images, group.restarts + 1)
                continue
            else:
                self.failed[group.images.group] = error
                group.over = True
            if group.over:
                yield group.images.group

    def _take(self, task: PublishTask, references: References) -> None:
        """Book a result; the last one of a step begins the next."""
        group = task.group
        if isinstance(task, NeighboursTask):
            group.neighbours[task.part] = references[1]
            if len(group.neighbours) == len(group.parts):
                self.tasks.append(RankTask(group))
        elif isinstance(task, RankTask):
            figures: Any = ray.get(references[0])
            self.figures[group.images.group] = figures
            self.tasks.extend(WriteTask(group, part, columns) for part, columns in enumerate(references[1:]))
        else:
            group.unwritten.discard(task.part)

    def _begin(self, images: GroupImages, restarts: int = 0) -> None:
        parts = parts_of(images)
        group = Publishing(images, ray.put(images), parts, set(range(len(parts))), restarts=restarts)
        self.tasks.extend(NeighboursTask(group, part) for part in range(len(parts)))

    def _next_task(self) -> PublishTask | None:
        """A task of a group on its way, or the first of another group."""
        while self.tasks or self.coming:
            if not self.tasks:
                self._begin(self.coming.popleft())
            task = self.tasks.popleft()
            if not task.group.over:
                return task
        return None

    def _call(self, actor: Any, task: PublishTask) -> References:
        """Call an actor's method for a task."""
        group = task.group
        if isinstance(task, NeighboursTask):
            return list(actor.neighbours.options(num_returns=2).remote(group.stored, group.parts[task.part]))
        if isinstance(task, RankTask):
            neighbours = [group.neighbours[part] for part in range(len(group.parts))]
            return list(actor.rank.options(num_returns=1 + len(neighbours)).remote(group.stored, *neighbours))
        part, neighbours = group.parts[task.part], group.neighbours[task.part]
        return [actor.publish.remote(group.stored, part, self.scored_at, task.columns, neighbours)]
