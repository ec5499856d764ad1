"""A pool of Ray actors: few tasks in flight, dead workers replaced and their tasks retried on others."""

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
from musc_ray.runtime.cluster import ClusterOptions, plan_workers
from musc_ray.storage.retry import StorageError, as_storage_error, is_storage_fault

TASKS_PER_WORKER = 2
"""One running, one waiting: a worker never idles for the driver, and little is in flight when something dies."""

MAX_ATTEMPTS = 4
"""A task fails once this many workers died of it or ran out of memory on it."""

POLL_SECONDS = 5.0
"""Time between two checks for new nodes."""

MAX_WAIT_SECONDS = 600.0
"""How long a pool without any worker waits for one."""

LOST = (RayActorError, WorkerCrashedError, OutOfMemoryError)
"""Errors of a call whose worker, or the worker's node, is gone."""

FULL = (ObjectStoreFullError, OutOfDiskError)
"""Errors of a call whose results fit neither in memory nor on the disk that Ray spills to."""

Task = Any
References = list[Any]


@dataclass(eq=False)
class Worker:
    """An actor, and the number of tasks that it was given."""

    actor: Any
    tasks: int = 0


@dataclass
class Attempt:
    """A task, and how often it failed."""

    task: Task
    failures: int = 0


class Pool:
    """Actors of one class, as many as the cluster has room for; a context manager that ends them.

    Attributes:
        resources: number of workers, and what each may use.
        lost: workers that died.
        repeated: tasks that were started again, since their worker died or ran out of memory.
    """

    def __init__(
        self, actor: type, options: ClusterOptions, tasks: int, *arguments: Any, concurrent_calls: int = 1
    ) -> None:
        """Start the workers.

        Args:
            actor: class of the workers, made with `arguments` and WorkerResources.
            options: number, threads and device of the workers.
            tasks: expected number of tasks; no more workers are started.
            arguments: of `actor`.
            concurrent_calls: calls that a worker runs at the same time, on its own threads.
        """
        self.options, self.tasks = options, max(1, tasks)
        self.resources = plan_workers(options, self.tasks)
        self.lost = self.repeated = 0
        remote: Any = ray.remote(actor)
        memory = {} if self.resources.memory is None else {"memory": self.resources.memory}
        self._remote = remote.options(
            num_cpus=self.resources.cpus, num_gpus=self.resources.gpus, max_concurrency=concurrent_calls, **memory
        )
        self._arguments = (*arguments, self.resources)
        self._workers: list[Worker] = []
        self._starting: dict[Any, Worker] = {}
        self._failed_starts = 0
        self._polled = self._last_seen = time.monotonic()
        self._grow(self.resources.workers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in (*self._workers, *self._starting.values()):
            ray.kill(worker.actor)

    def __len__(self) -> int:
        """Return the number of workers that have started."""
        return len(self._workers)

    def run(
        self, next_task: Callable[[Worker], Task | None], call: Callable[[Any, Task], References]
    ) -> Iterator[tuple[Task, References, Exception | None]]:
        """Dispatch tasks to workers until `next_task` has no more.

        Args:
            next_task: returns the next task for a worker, or None while it has none; asked again after each result.
            call: calls a method of the actor for a task; the first reference resolves when the call ends.

        Yields:
            Task, its references, and the exception that its method raised, or None, as tasks end.

        Raises:
            MuscRayError: no worker can be started.
            StorageError: a storage is unreachable or full, or refuses access: no task or group caused it.
        """
        running: dict[Any, tuple[Worker, Attempt, References]] = {}
        again: deque[Attempt] = deque()
        while True:
            self._dispatch(next_task, call, again, running)
            if not running and self._workers and not again:
                return
            ready, _ = ray.wait([*running, *self._starting], num_returns=1, timeout=POLL_SECONDS)
            self._poll()
            for reference in ready:
                if reference in self._starting:
                    self._started(reference)
                    continue
                worker, attempt, references = running.pop(reference)
                worker.tasks -= 1
                error = _error_of(reference)
                if isinstance(error, LOST):
                    self._replace(worker)
                if isinstance(error, LOST) or is_out_of_memory(error) or _is_full_or_away(error):
                    attempt.failures += 1
                    if attempt.failures < MAX_ATTEMPTS:
                        self.repeated += 1
                        again.append(attempt)
                        continue
                if error is not None and (_is_full_or_away(error) or isinstance(error, StorageError)):
                    raise as_storage_error(error) from error
                yield attempt.task, references, error

    def map(self, tasks: Iterator[Task], call: Callable[[Any, Task], Any]) -> Iterator[tuple[Task, Any]]:
        """Yield each task and its result as tasks end.

        Raises:
            Exception: the first that a task raised; or what `run` raises.
        """
        for task, references, error in self.run(lambda _: next(tasks, None), lambda actor, task: [call(actor, task)]):
            if error is not None:
                raise error
            yield task, ray.get(references[0])

    def _dispatch(
        self,
        next_task: Callable[[Worker], Task | None],
        call: Callable[[Any, Task], References],
        again: deque[Attempt],
        running: dict[Any, tuple[Worker, Attempt, References]],
    ) -> None:
        """Fill the queues of the workers, the least busy first; tasks to be retried precede new ones."""
        while self._workers:
            worker = min(self._workers, key=lambda worker: worker.tasks)
            if worker.tasks >= TASKS_PER_WORKER:
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
        """Add a worker that has started to the pool; workers wait in a queue while the cluster has no room."""
        worker = self._starting.pop(reference)
        error = _error_of(reference)
        if error is None:
            self._failed_starts = 0
            self._workers.append(worker)
            return
        self._failed_starts += 1
        if self._failed_starts >= MAX_ATTEMPTS:
            message = f"No worker can be started, {MAX_ATTEMPTS} failed one after the other: {error}"
            raise MuscRayError(message) from error
        self._grow(self.resources.workers)

    def _replace(self, worker: Worker) -> None:
        """Remove a dead worker from the pool, and start another."""
        if worker in self._workers:
            self.lost += 1
            self._workers.remove(worker)
            ray.kill(worker.actor)
            self._grow(self.resources.workers)

    def _poll(self) -> None:
        """Start workers on new nodes; give up when there has been no worker for long."""
        now = time.monotonic()
        if self._workers:
            self._last_seen = now
        elif now - self._last_seen > MAX_WAIT_SECONDS:
            raise MuscRayError(
                f"The cluster had no room for a worker of {self.resources.cpus} CPUs and {self.resources.gpus:g} GPUs "
                f"for {MAX_WAIT_SECONDS / 60:.0f} minutes: add nodes, or lower workers or threads; then run again."
            )
        if now - self._polled > POLL_SECONDS:
            self._polled = now
            self._grow(self._room())

    def _room(self) -> int:
        """Return how many workers the cluster has room for now; none of its GPUs may be left."""
        try:
            return plan_workers(self.options, self.tasks).workers
        except MuscRayError:
            return 0


def _is_full_or_away(error: Exception | None) -> bool:
    """Tell whether a disk or store failed that may serve another worker, or this one a moment later."""
    if error is None or isinstance(error, StorageError):  # already retried
        return False
    return isinstance(error, FULL) or is_storage_fault(error)


def _error_of(reference: Any) -> Exception | None:
    """Return the exception that ended a call, None if it succeeded."""
    try:
        ray.get(reference)
    except RayTaskError as error:
        return error.cause if isinstance(error.cause, Exception) else error
    except RayError as error:
        return error
    return None
