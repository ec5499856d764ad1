"""The executor of one process: its one worker is this process, its calls run on threads, its results stay here.

There is one copy of the model, and each library is imported once. MUSC_RAY_DEBUG=1 makes every call where it is
dispatched, one after the other on the main thread, so that a debugger's breakpoints hold there.
"""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from types import TracebackType
from typing import Any, Self

from musc_ray.errors import MuscRayError
from musc_ray.runtime.executor import Reference, Worker
from musc_ray.runtime.hardware import LocalHardware, count_gpus, usable_cpus
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.results import ResultStore
from musc_ray.runtime.stage import Stage
from musc_ray.runtime.worker import Role, RoleHost, WorkerResources, data_bytes
from musc_ray.settings.types import ExecutorName

RESULTS_BYTES = 512 * 2**20
"""Bytes of results that wait in memory; more wait on disk."""


class ProcessExecutor:
    """Runs all tasks in this process; see `Executor`."""

    name: ExecutorName = "process"

    def __init__(self, options: ExecutorOptions, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.device = options.device
        self.results = ResultStore(RESULTS_BYTES)
        self._worker: ProcessWorker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._worker is not None:
            self._worker.end(wait=kind is None or issubclass(kind, Exception))
            self._worker = None

    def hardware(self) -> LocalHardware:
        """Return what tells this machine's hardware."""
        return LocalHardware()

    def start(self, device: str, modules: Sequence[str] = ()) -> None:
        """Compute on a device from now on; this process imports what it needs when it needs it."""
        self.device = device

    def run_function(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function here, where the workers run."""
        return function(*arguments)

    def plan(self, tasks: int) -> WorkerResources:
        """Plan one worker with all of this machine, one of its GPUs included.

        Raises:
            MuscRayError: the device is cuda, and there is no GPU.
        """
        has_gpu = self.device != "cpu" and count_gpus() > 0
        if self.device == "cuda" and not has_gpu:
            raise MuscRayError("device is 'cuda' but this machine has no GPU: use --device cpu.")
        threads = self.options.threads or usable_cpus()
        device = "cuda" if has_gpu else "cpu"
        requests, memory = self.options.max_requests, self.options.worker_memory
        return WorkerResources(1, threads, float(has_gpu), threads, device, requests, memory)

    def take_worker(self, resources: WorkerResources) -> Worker:
        """Return the worker."""
        if self._worker is None:
            self._worker = ProcessWorker(resources, self.results)
        return self._worker

    def keep_worker(self, worker: Worker) -> None:
        """Let the worker give up its role, whose memory the next one may need."""
        if self._worker is not None:
            self._worker.release()

    def end_worker(self, worker: Worker, wait: bool) -> None:
        """End the worker's calls; `wait` for those that run."""
        if self._worker is not None:
            self._worker.end(wait)
            self._worker = None

    def wait(self, references: Sequence[Reference], seconds: float) -> Sequence[Reference]:
        """Wait for the first of some calls; see `Executor`."""
        return list(wait(references, seconds, FIRST_COMPLETED).done)

    def error_of(self, reference: Reference) -> Exception | None:
        """Return the exception that a call raised, None if it succeeded."""
        error = reference.exception()
        return error if error is None or isinstance(error, Exception) else MuscRayError(f"A task ended: {error!r}")

    def get(self, reference: Reference) -> Any:
        """Return a value."""
        return reference.result()

    def put(self, value: object) -> Reference:
        """Return a reference to a value."""
        return _resolved(value)

    def watch(self, run_id: str) -> Callable[[Stage], None]:
        """Return what exports nothing: Ray's metrics are Ray's."""
        return lambda stage: None


class ProcessWorker:
    """This process as a worker; see `Worker`. Its limits hold until its end."""

    def __init__(self, resources: WorkerResources, results: ResultStore) -> None:
        self.resources, self.results = resources, results
        self._host = RoleHost(resources, shared=data_bytes())  # what is here already is no worker's
        self._threads: CallThreads | None = None

    def assign(self, role: Role, arguments: Sequence[Any]) -> Reference:
        """Begin to play a role; the reference resolves when it is made."""
        if self._threads is not None:
            self._threads.end(wait=True)
        self._threads = CallThreads(0 if os.environ.get("MUSC_RAY_DEBUG") else role.calls_of(self.resources))
        reference: Reference = Future()
        self._threads.submit(lambda: _resolve([reference], lambda: self._host.assign(role, arguments)))
        return reference

    def call(self, method: str, *arguments: Any, returns: int = 1) -> list[Reference]:
        """Call a method of the role's object on a thread."""
        references: list[Reference] = [Future() for _ in range(returns)]

        def work() -> Any:
            given = [item.result() if isinstance(item, Future) else item for item in arguments]
            return self.results.keep(self._host.call(method, *given))

        if self._threads is None:
            raise MuscRayError("A worker without a role was called.")
        self._threads.submit(lambda: _resolve(references, work))
        return references

    def release(self) -> None:
        """Give up the role."""
        self._host.release()

    def end(self, wait: bool) -> None:
        """Drop calls that wait, `wait` for those that run, and lift the limits of this process."""
        if self._threads is not None:
            self._threads.end(wait)
        if wait:
            self._host.release()
        self._host.lift_limits()


class CallThreads:
    """Threads that make calls in the order in which they come; without any, a call is made at once.

    They are daemons: a command that is stopped does not wait for them.
    """

    def __init__(self, count: int) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._work, name=f"worker-{i}", daemon=True) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def submit(self, call: Callable[[], None]) -> None:
        """Make a call when a thread is free."""
        if self._threads:
            self._calls.put(call)
        else:
            call()

    def end(self, wait: bool) -> None:
        """Drop the calls that wait; `wait` for those that run."""
        self._over.set()
        for _ in self._threads:
            self._calls.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None and not self._over.is_set():
            call()


def _resolve(references: Sequence[Reference], work: Callable[[], Any]) -> None:
    """Do some work, and resolve the references with the values that it returns, or with its exception."""
    try:
        value = work()
    except BaseException as error:
        for reference in references:
            reference.set_exception(error)
        if not isinstance(error, Exception):  # on the main thread, Ctrl-C
            raise
        return
    values = [value] if len(references) == 1 else list(value)
    for reference, item in reversed(list(zip(references, values, strict=True))):  # the first one says: all are there
        reference.set_result(item)


def _resolved(value: object) -> Reference:
    reference: Future[object] = Future()
    reference.set_result(value)
    return reference
