"""From patch maps to scores, the driver: rescoring of each group, ranks, and the tables of scores and similar images.

A group goes through three steps (see `ranking_worker`): similar images of its parts, ranks of all, files of its parts.
Parts of all groups are processed concurrently.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from musc_ray.runtime.executor import Executor, ResultLostError, Worker
from musc_ray.runtime.pool import Pool, References
from musc_ray.scoring.ranking_worker import GroupFigures, parts_of
from musc_ray.scoring.ring import GroupImages

MAX_RESTARTS = 3


@dataclass
class GroupState:
    """A group in progress: a reference to its images, and its results so far."""

    images: GroupImages
    stored: Any
    parts: list[range]
    unwritten: set[int]
    similar: dict[int, Any] = field(default_factory=dict)
    restarts: int = 0
    over: bool = False


@dataclass(frozen=True)
class SimilarTask:
    """Find the similar images of one part of a group."""

    group: GroupState
    part: int


@dataclass(frozen=True)
class RankTask:
    """Rank a group whose similar images are all found."""

    group: GroupState


@dataclass(frozen=True)
class WriteTask:
    """Write one part of a group's scores and similar images."""

    group: GroupState
    part: int
    columns: Any


RankingTask = SimilarTask | RankTask | WriteTask


class RankingDriver:
    """Ranks groups and writes their scores on a pool of workers.

    Attributes:
        figures: threshold and drift of each ranked group.
        failed: the error of each failed group.
    """

    def __init__(self, groups: Sequence[GroupImages], scored_at: datetime) -> None:
        self.scored_at = scored_at
        self.coming = deque(groups)
        self.tasks: deque[RankingTask] = deque()
        self.figures: dict[str, GroupFigures] = {}
        self.failed: dict[str, Exception] = {}

    def run(self, pool: Pool) -> Iterator[str]:
        """Process all groups; yields the name of each that is done or has failed."""
        for task, references, error in pool.run(lambda _: self._next_task(pool.executor), self._call):
            group = task.group
            if group.over:
                continue
            if error is None:
                self._handle(pool.executor, task, references)
                group.over = not group.unwritten
            elif isinstance(error, ResultLostError) and group.restarts < MAX_RESTARTS:
                group.over = True
                self._begin(pool.executor, group.images, group.restarts + 1)
                continue
            else:
                self.failed[group.images.group] = error
                group.over = True
            if group.over:
                yield group.images.group

    def _handle(self, executor: Executor, task: RankingTask, references: References) -> None:
        """Handle a result; the last one of a step starts the next step."""
        group = task.group
        if isinstance(task, SimilarTask):
            group.similar[task.part] = references[1]
            if len(group.similar) == len(group.parts):
                self.tasks.append(RankTask(group))
        elif isinstance(task, RankTask):
            self.figures[group.images.group] = executor.get(references[0])
            self.tasks.extend(WriteTask(group, part, columns) for part, columns in enumerate(references[1:]))
        else:
            group.unwritten.discard(task.part)

    def _begin(self, executor: Executor, images: GroupImages, restarts: int = 0) -> None:
        parts = parts_of(images)
        group = GroupState(images, executor.put(images), parts, set(range(len(parts))), restarts=restarts)
        self.tasks.extend(SimilarTask(group, part) for part in range(len(parts)))

    def _next_task(self, executor: Executor) -> RankingTask | None:
        """Choose a task of a group in progress, or the first of another group."""
        while self.tasks or self.coming:
            if not self.tasks:
                self._begin(executor, self.coming.popleft())
            task = self.tasks.popleft()
            if not task.group.over:
                return task
        return None

    def _call(self, worker: Worker, task: RankingTask) -> References:
        """Call the worker's method for a task."""
        group = task.group
        if isinstance(task, SimilarTask):
            return worker.call("find_similar", group.stored, group.parts[task.part], returns=2)
        if isinstance(task, RankTask):
            similar = [group.similar[part] for part in range(len(group.parts))]
            return worker.call("rank", group.stored, *similar, returns=1 + len(similar))
        part, similar = group.parts[task.part], group.similar[task.part]
        return worker.call("write_scores", group.stored, part, self.scored_at, task.columns, similar)
