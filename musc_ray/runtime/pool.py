"""Work on a pool of Ray actors: little in flight, the dead replaced and their tasks given to others."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import (
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from musc_ray.core.memory import is_out_of_memory
from musc_ray.errors import MuscRayError
from musc_ray.runtime.cluster import plan_actors
from musc_ray.settings.model import Settings
from musc_ray.storage.retry import StorageError, as_storage_error, is_storage_fault

TASKS_PER_ACTOR = 2
"""One running, one waiting: an actor never idles for the driver, and little is in flight when something dies."""

TRIES = 4
"""A task that so many actors died of, or ran out of memory on, fails."""

LOOK_SECONDS = 5.0
"""How often the pool looks whether nodes have come."""

PATIENCE_SECONDS = 600.0
"""How long a pool without any actor waits for one."""

LOST = (RayActorError, WorkerCrashedError, OutOfMemoryError)
"""What a call ends with when its actor, or the actor's node, is gone."""

FULL = (ObjectStoreFullError, OutOfDiskError)
"""What a call ends with when its results find no room in memory, nor on the disk that Ray spills to."""

Task = Any
References = list[Any]


@dataclass(eq=False)
class Worker:
    """An actor and how much it has to do."""

    actor: Any
    tasks: int = 0


@dataclass
class Attempt:
    """A task and how often it went wrong."""

    task: Task
    failures: int = 0


class Pool:
    """Actors of one class, as many as the cluster has room for; a context manager that ends them.

    Attributes:
        lost: actors that died.
        repeated: tasks that were begun anew, since their actor died or ran out of memory.
    """

    def __init__(self, actor: type, settings: Settings, tasks: int, *arguments: Any, calls_at_once: int = 1) -> None:
        """Start the actors.

        Args:
            actor: made with `arguments` and the ActorPlan.
            settings: workers, threads and device of an actor.
            tasks: about how many there will be: no more actors are started.
            calls_at_once: calls that an actor runs at the same time, on threads of its own.
        """
        self.settings, self.tasks = settings, max(1, tasks)
        self.plan = plan_actors(settings, self.tasks)
        self.lost = self.repeated = 0
        remote: Any = ray.remote(actor)
        memory = {} if self.plan.memory is None else {"memory": self.plan.memory}
        self._remote = remote.options(
            num_cpus=self.plan.cpus, num_gpus=self.plan.gpus, max_concurrency=calls_at_once, **memory
        )
        self._arguments = (*arguments, self.plan)
        self._workers: list[Worker] = []
        self._starting: dict[Any, Worker] = {}
        self._failed_starts = 0
        self._looked = self._last_seen = time.monotonic()
        self._grow(self.plan.actors)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in (*self._workers, *self._starting.values()):
            ray.kill(worker.actor)

    def __len__(self) -> int:
        """Actors that are there."""
        return len(self._workers)

    def run(
        self, next_task: Callable[[Worker], Task | None], call: Callable[[Any, Task], References]
    ) -> Iterator[tuple[Task, References, Exception | None]]:
        """Give tasks to actors until there are none.

        Args:
            next_task: the next task for this worker, or None when there is none now; asked again after each result.
            call: calls a task's method of an actor; the first reference tells when it is done.

        Yields:
            Task, its references, and the exception that its method raised, or None, as tasks are done.

        Raises:
            MuscRayError: no actor can be started.
            StorageError: a storage is away or full, or refuses: nothing that a task or its group could be blamed for.
        """
        running: dict[Any, tuple[Worker, Attempt, References]] = {}
        again: deque[Attempt] = deque()
        while True:
            self._hand_out(next_task, call, again, running)
            if not running and self._workers and not again:
                return
            ready, _ = ray.wait([*running, *self._starting], num_returns=1, timeout=LOOK_SECONDS)
            self._look()
            for reference in ready:
                if reference in self._starting:
                    self._started(reference)
                    continue
                worker, attempt, references = running.pop(reference)
                worker.tasks -= 1
                error = _error_of(reference)
                if isinstance(error, LOST):
                    self._bury(worker)
                if isinstance(error, LOST) or is_out_of_memory(error) or _is_full_or_away(error):
                    attempt.failures += 1
                    if attempt.failures < TRIES:
                        self.repeated += 1
                        again.append(attempt)
                        continue
                if error is not None and (_is_full_or_away(error) or isinstance(error, StorageError)):
                    raise as_storage_error(error) from error
                yield attempt.task, references, error

    def map(self, tasks: Iterator[Task], call: Callable[[Any, Task], Any]) -> Iterator[tuple[Task, Any]]:
        """Task and result for each task, as they are done; raises the first exception of one."""
        for task, references, error in self.run(lambda _: next(tasks, None), lambda actor, task: [call(actor, task)]):
            if error is not None:
                raise error
            yield task, ray.get(references[0])

    def _hand_out(
        self,
        next_task: Callable[[Worker], Task | None],
        call: Callable[[Any, Task], References],
        again: deque[Attempt],
        running: dict[Any, tuple[Worker, Attempt, References]],
    ) -> None:
        """Fill the actors' room, the least busy first; tasks that went wrong before new ones."""
        while self._workers:
            worker = min(self._workers, key=lambda worker: worker.tasks)
            if worker.tasks >= TASKS_PER_ACTOR:
                return
            if again:
                attempt = again.popleft()
            elif (task := next_task(worker)) is not None:
                attempt = Attempt(task)
            else:
                return
            references = call(worker.actor, attempt.task)
            running[references[0]] = (worker, attempt, references)
            worker.tasks += 1

    def _grow(self, wanted: int) -> None:
        while len(self._workers) + len(self._starting) < wanted:
            actor = self._remote.remote(*self._arguments)
            self._starting[actor.__ray_ready__.remote()] = Worker(actor)

    def _started(self, reference: Any) -> None:
        """Take an actor into the pool once it is there; they stand in a queue while the cluster has no room."""
        worker = self._starting.pop(reference)
        error = _error_of(reference)
        if error is None:
            self._failed_starts = 0
            self._workers.append(worker)
            return
        self._failed_starts += 1
        if self._failed_starts >= TRIES:
            raise MuscRayError(f"No worker can be started, {TRIES} failed one after the other: {error}") from error
        self._grow(self.plan.actors)

    def _bury(self, worker: Worker) -> None:
        """Take a dead actor out of the pool and have another started."""
        if worker in self._workers:
            self.lost += 1
            self._workers.remove(worker)
            ray.kill(worker.actor)
            self._grow(self.plan.actors)

    def _look(self) -> None:
        """Start actors on nodes that have come; give up when there has been no actor for long."""
        now = time.monotonic()
        if self._workers:
            self._last_seen = now
        elif now - self._last_seen > PATIENCE_SECONDS:
            raise MuscRayError(
                f"The cluster had no room for a worker of {self.plan.cpus} CPUs and {self.plan.gpus:g} GPUs for "
                f"{PATIENCE_SECONDS / 60:.0f} minutes: add nodes, or lower workers or threads; then run again."
            )
        if now - self._looked > LOOK_SECONDS:
            self._looked = now
            self._grow(plan_actors(self.settings, self.tasks).actors)


def _is_full_or_away(error: Exception | None) -> bool:
    """Whether a disk or store failed that another actor, or this one a moment later, may find well."""
    if error is None or isinstance(error, StorageError):  # patience has been had
        return False
    return isinstance(error, FULL) or is_storage_fault(error)


def _error_of(reference: Any) -> Exception | None:
    """What a call ended with."""
    try:
        ray.get(reference)
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except RayError as error:
        return error
    return None
