"""The seam between the stages of a run and what runs their tasks: this process, or Ray.

A stage asks for a `Pool` of workers that play a role and gives them tasks (see `pool`). An executor starts workers,
calls them, and holds their results: `process_executor`, `ray_executor`.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Protocol, Self

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.runtime.hardware import Hardware, count_gpus, usable_cpus
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.stage import Stage
from musc_ray.runtime.worker import Role, WorkerResources
from musc_ray.settings.types import ExecutorName

MAX_PROCESS_CPUS = 8
"""CPUs that one process uses as well as workers do, or better; measured up to 2 (tests/benchmarks/bench_start.py)."""

Reference = Any
"""A value that a call returns, or will return; given to another call as an argument, that gets the value."""


class WorkerLostError(MuscRayError):
    """The worker of a call, or the worker's node, is gone."""


class ResultLostError(MuscRayError):
    """A value that a reference stands for was lost with the node that held it."""


class ResultsFullError(MuscRayError):
    """The results of a call fit neither in memory nor on the disk that they are moved to."""


class Worker(Protocol):
    """What plays a role and is called."""

    def assign(self, role: Role, arguments: Sequence[Any]) -> Reference:
        """Begin to play a role; the reference resolves when the first call can be made."""
        ...

    def call(self, method: str, *arguments: Any, returns: int = 1) -> list[Reference]:
        """Call a method of the role's object.

        Args:
            method: its name.
            arguments: values or references.
            returns: number of values that it returns, as a tuple or list if there are several.

        Returns:
            A reference for each value; the first resolves when the call ends.
        """
        ...


class Executor(Protocol):
    """What runs the tasks of a run's stages; a context manager that ends its workers.

    Attributes:
        name: process or ray.
        progress: shows what is being started.
    """

    name: ExecutorName
    progress: Progress

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def hardware(self) -> Hardware:
        """Return what tells the hardware of the workers.

        Raises:
            MuscRayError: the cluster cannot be joined.
        """
        ...

    def start(self, device: str, modules: Sequence[str] = ()) -> None:
        """Begin to start workers before it is known what they do.

        Args:
            device: cpu or cuda, from now on.
            modules: what the workers are going to import.

        Raises:
            MuscRayError: the cluster cannot be joined.
        """
        ...

    def run_function(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function where workers run, so that what it imports is not imported here; return its value.

        Raises:
            Exception: what it raises.
        """
        ...

    def plan(self, tasks: int) -> WorkerResources:
        """Plan the workers of a stage: no more than it has tasks.

        Raises:
            MuscRayError: the device is cuda, and there is no GPU.
        """
        ...

    def take_worker(self, resources: WorkerResources) -> Worker:
        """Return a worker that is free, or start one."""
        ...

    def keep_worker(self, worker: Worker) -> None:
        """Take back a worker that is free, for the stages to come."""
        ...

    def end_worker(self, worker: Worker, wait: bool) -> None:
        """End a worker that has died, or whose calls are not wanted any more; `wait` for the ones that run."""
        ...

    def wait(self, references: Sequence[Reference], seconds: float) -> Sequence[Reference]:
        """Wait for the first of some references to resolve; return those that have, none after `seconds`."""
        ...

    def error_of(self, reference: Reference) -> Exception | None:
        """Return the exception that ended a call, None if it succeeded.

        Losses are WorkerLostError and ResultLostError, a shortage is ResultsFullError, the rest is as it was raised.
        """
        ...

    def get(self, reference: Reference) -> Any:
        """Return a value."""
        ...

    def put(self, value: object) -> Reference:
        """Return a reference to a value, which many calls will get."""
        ...

    def watch(self, run_id: str) -> Callable[[Stage], None]:
        """Return what exports the figures of a run's stages as they change."""
        ...


def open_executor(options: ExecutorOptions, progress: Progress) -> Executor:
    """Return the executor of a command, to be used as a context manager.

    Args:
        options: of the settings.
        progress: shows what is being started.

    Raises:
        SettingsError: options that exclude each other.
    """
    if choose(options) == "process":
        from musc_ray.runtime.process_executor import ProcessExecutor

        return ProcessExecutor(options, progress)
    from musc_ray.runtime.ray_executor import RayExecutor  # imports Ray, which takes seconds

    return RayExecutor(options, progress)


@contextmanager
def joined_cluster(options: ExecutorOptions) -> Iterator[None]:
    """Stay in the cluster at the address, where there is one, for a whole command that opens several executors.

    A submitted job must not leave its cluster before its end: Ray then deletes the job's files, its working directory
    among them, and it cannot join again.

    Raises:
        MuscRayError: no cluster at the address.
    """
    if options.address is None:
        yield
        return
    from musc_ray.runtime.cluster import ray_cluster  # imports Ray

    with ray_cluster(options):
        yield


def choose(options: ExecutorOptions) -> ExecutorName:
    """Choose the executor: Ray where a cluster is named or running, or several workers are asked for or better.

    One process uses one GPU, and up to MAX_PROCESS_CPUS CPUs.

    Raises:
        SettingsError: options that exclude each other.
    """
    if options.executor == "process":
        if options.address is not None:
            raise SettingsError(
                "Setting 'executor' is process, but an address names a Ray cluster: use executor ray, or no address."
            )
        if (options.workers or 1) > 1:
            raise SettingsError("Setting 'executor' is process, which is one worker: use executor ray, or no workers.")
        return "process"
    if options.executor == "ray" or options.address is not None or (options.workers or 1) > 1:
        return "ray"
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        return "ray"
    gpus = 0 if options.device == "cpu" else count_gpus()
    return "ray" if gpus > 1 or (gpus == 0 and usable_cpus() > MAX_PROCESS_CPUS) else "process"
