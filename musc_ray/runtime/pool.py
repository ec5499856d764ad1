"""A pool of workers of one role: few tasks in flight, dead workers replaced and their tasks retried on others."""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from musc_ray.core.memory import is_out_of_memory
from musc_ray.errors import MuscRayError
from musc_ray.runtime.executor import Executor, Reference, ResultsFullError, Worker, WorkerLostError
from musc_ray.runtime.worker import Role
from musc_ray.storage.retry import StorageError, as_storage_error, is_storage_fault

TASKS_PER_WORKER = 2
"""One running, one waiting: a worker never idles for the driver, and little is in flight when something dies."""

MAX_ATTEMPTS = 4
"""A task fails once this many workers died of it or ran out of memory on it."""

POLL_SECONDS = 5.0
"""Time between two checks for new nodes."""

MAX_WAIT_SECONDS = 600.0
"""How long a pool without any worker waits for one."""

Task = Any
References = list[Reference]


@dataclass(eq=False)
class Member:
    """A worker of the pool, and the number of tasks that it was given."""

    worker: Worker
    tasks: int = 0


@dataclass
class Attempt:
    """A task, and how often it failed."""

    task: Task
    failures: int = 0


class Pool:
    """Workers that play a role, as many as there is room for; a context manager that gives them back.

    Attributes:
        resources: number of workers, and what each may use.
        lost: workers that died.
        repeated: tasks that were started again, since their worker died or ran out of memory.
    """

    def __init__(self, executor: Executor, role: Role, tasks: int, *arguments: Any) -> None:
        """Assign the role to the workers.

        Args:
            executor: has the workers.
            role: made with `arguments` and WorkerResources.
            tasks: expected number of tasks; no more workers are used.
            arguments: of the role.
        """
        self.executor, self.role, self.tasks = executor, role, max(1, tasks)
        self.resources = executor.plan(self.tasks)
        self.lost = self.repeated = 0
        self._arguments = arguments
        self._members: list[Member] = []
        self._starting: dict[Reference, Member] = {}
        self._failed_starts = 0
        self._polled = self._last_seen = time.monotonic()
        self._calls = max(TASKS_PER_WORKER, role.calls_of(self.resources))
        self._beginning = ExitStack()

    def __enter__(self) -> Self:
        self._beginning.enter_context(self.executor.progress.phase(self.role.begins))
        self._grow(self.resources.workers)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._beginning.__exit__(kind, error, trace)  # a phase that did not come to its end says so
        for member in self._members:
            if member.tasks == 0:
                self.executor.keep_worker(member.worker)
        stopped = kind is not None and not issubclass(kind, Exception)
        for member in (*self._members, *self._starting.values()):
            if member.tasks or member in self._starting.values():
                self.executor.end_worker(member.worker, wait=not stopped)

    def __len__(self) -> int:
        """Return the number of workers that have started."""
        return len(self._members)

    def run(
        self, next_task: Callable[[Member], Task | None], call: Callable[[Worker, Task], References]
    ) -> Iterator[tuple[Task, References, Exception | None]]:
        """Dispatch tasks to workers until `next_task` has no more.

        Args:
            next_task: returns the next task for a worker, or None while it has none; asked again after each result.
            call: calls a method of the role for a task; the first reference resolves when the call ends.

        Yields:
            Task, its references, and the exception that its method raised, or None, as tasks end.

        Raises:
            MuscRayError: no worker can be started.
            StorageError: a storage is unreachable or full, or refuses access: no task or group caused it.
        """
        running: dict[Reference, tuple[Member, Attempt, References]] = {}
        again: deque[Attempt] = deque()
        while True:
            self._dispatch(next_task, call, again, running)
            if not running and self._members and not again:
                return
            ready = self.executor.wait([*running, *self._starting], POLL_SECONDS)
            self._poll()
            for reference in ready:
                if reference in self._starting:
                    self._started(reference)
                    continue
                member, attempt, references = running.pop(reference)
                member.tasks -= 1
                error = self.executor.error_of(reference)
                if isinstance(error, WorkerLostError):
                    self._replace(member)
                if isinstance(error, WorkerLostError) or is_out_of_memory(error) or _is_full_or_away(error):
                    attempt.failures += 1
                    if attempt.failures < MAX_ATTEMPTS:
                        self.repeated += 1
                        again.append(attempt)
                        continue
                if error is not None and (_is_full_or_away(error) or isinstance(error, StorageError)):
                    raise as_storage_error(error) from error
                yield attempt.task, references, error

    def map(self, tasks: Iterator[Task], call: Callable[[Worker, Task], References]) -> Iterator[tuple[Task, Any]]:
        """Yield each task and the first value of its call as tasks end.

        Raises:
            Exception: the first that a task raised; or what `run` raises.
        """
        for task, references, error in self.run(lambda _: next(tasks, None), call):
            if error is not None:
                raise error
            yield task, self.executor.get(references[0])

    def _dispatch(
        self,
        next_task: Callable[[Member], Task | None],
        call: Callable[[Worker, Task], References],
        again: deque[Attempt],
        running: dict[Reference, tuple[Member, Attempt, References]],
    ) -> None:
        """Fill the queues of the workers, the least busy first; tasks to be retried precede new ones."""
        while self._members:
            member = min(self._members, key=lambda member: member.tasks)
            if member.tasks >= self._calls:
                return
            if again:
                attempt = again.popleft()
            elif (task := next_task(member)) is not None:
                attempt = Attempt(task)
            else:
                return
            references = call(member.worker, attempt.task)
            running[references[0]] = (member, attempt, references)
            member.tasks += 1

    def _grow(self, wanted: int) -> None:
        while len(self._members) + len(self._starting) < wanted:
            worker = self.executor.take_worker(self.resources)
            self._starting[worker.assign(self.role, self._arguments)] = Member(worker)

    def _started(self, reference: Reference) -> None:
        """Add a worker that plays its role to the pool; workers wait in a queue while the cluster has no room.

        Raises:
            Exception: what the role raised when it was made.
            MuscRayError: workers die one after the other before they play it.
        """
        member = self._starting.pop(reference)
        error = self.executor.error_of(reference)
        if error is None:
            self._failed_starts = 0
            self._members.append(member)
            self._beginning.close()
            return
        self.executor.end_worker(member.worker, wait=False)
        if not isinstance(error, WorkerLostError) and not is_out_of_memory(error):
            raise error
        self._failed_starts += 1
        if self._failed_starts >= MAX_ATTEMPTS:
            raise MuscRayError(_no_worker(self.role, error)) from error
        self._grow(self.resources.workers)

    def _replace(self, member: Member) -> None:
        """Remove a dead worker from the pool, and start another."""
        if member in self._members:
            self.lost += 1
            self._members.remove(member)
            self.executor.end_worker(member.worker, wait=False)
            self._grow(self.resources.workers)

    def _poll(self) -> None:
        """Start workers on new nodes; give up when there has been no worker for long."""
        now = time.monotonic()
        if self._members:
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
        """Return how many workers there is room for now; none of a cluster's GPUs may be left."""
        try:
            return self.executor.plan(self.tasks).workers
        except MuscRayError:
            return 0


def _no_worker(role: Role, error: Exception) -> str:
    """Say why no worker can play a role."""
    if is_out_of_memory(error):
        return (
            f"Memory is too short for {role.begins}, tried {MAX_ATTEMPTS} times: raise max_worker_gb, or free memory."
        )
    return f"No worker can be started, {MAX_ATTEMPTS} failed one after the other: {error}"


def _is_full_or_away(error: Exception | None) -> bool:
    """Tell whether a disk or store failed that may serve another worker, or this one a moment later."""
    if error is None or isinstance(error, StorageError):  # already retried
        return False
    return isinstance(error, ResultsFullError) or is_storage_fault(error)
