"""The executor of a Ray cluster: its workers are actors that serve all stages of a run, on one machine or many."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import (
    ObjectLostError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    WorkerCrashedError,
)

from musc_ray.errors import MuscRayError
from musc_ray.runtime.cluster import ray_cluster
from musc_ray.runtime.executor import Reference, ResultLostError, ResultsFullError, Worker, WorkerLostError
from musc_ray.runtime.hardware import ClusterHardware, Hardware, LocalHardware
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.stage import Stage
from musc_ray.runtime.telemetry import RunMetrics
from musc_ray.runtime.worker import Role, RoleHost, WorkerResources, import_modules
from musc_ray.settings.types import ExecutorName

MIN_CONCURRENCY = 2
"""Calls that a worker runs at the same time, or as many as it has threads: no role needs more."""

MAX_EARLY_WORKERS = 1024
"""Workers that are started before it is known how many tasks there are."""

LOST = (RayActorError, WorkerCrashedError, OutOfMemoryError)
FULL = (ObjectStoreFullError, OutOfDiskError)


class RayExecutor:
    """Runs tasks on Ray; see `Executor`. The cluster is joined, or a Ray of its own started, when first needed."""

    name: ExecutorName = "ray"

    def __init__(self, options: ExecutorOptions, progress: Progress) -> None:
        self.options, self.progress = options, progress
        self.device = options.device
        self.modules: Sequence[str] = ()
        self._cluster = ExitStack()
        self._is_joined = False
        self._free: list[RayWorker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self.progress.phase("stopping the workers"):
            while self._free:
                self._free.pop().end()
            self._cluster.close()

    def hardware(self) -> Hardware:
        """Return what tells the hardware of the cluster that is joined, or of this machine."""
        if self.options.address is None and not ray.is_initialized():
            return LocalHardware()
        self._join()
        return ClusterHardware()

    def start(self, device: str, modules: Sequence[str] = ()) -> None:
        """Start the workers of a cluster, or one of this machine: a small job needs no more."""
        self.device, self.modules = device, modules
        self._join()
        resources = self.plan(tasks=1 if self.options.address is None else MAX_EARLY_WORKERS)
        while len(self._free) < resources.workers:
            self._free.append(self._new_worker(resources))

    def run_function(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run a function in a process of the cluster; see `Executor`."""
        self._join()
        task: Any = ray.remote(_call)
        return self.get(task.options(num_cpus=0).remote(function, *arguments))

    def plan(self, tasks: int) -> WorkerResources:
        """Plan the workers of a stage; see `plan_workers`."""
        self._join()
        return plan_workers(self.options, self.device, tasks)

    def take_worker(self, resources: WorkerResources) -> Worker:
        """Return a free worker, or start one."""
        return self._free.pop(0) if self._free else self._new_worker(resources)

    def keep_worker(self, worker: Worker) -> None:
        """Keep a worker for the stages to come."""
        if isinstance(worker, RayWorker):
            self._free.append(worker)

    def end_worker(self, worker: Worker, wait: bool) -> None:
        """Kill a worker; what it has written is whole, as files are written under other names."""
        if isinstance(worker, RayWorker):
            worker.end()

    def wait(self, references: Sequence[Reference], seconds: float) -> Sequence[Reference]:
        """Wait for the first of some calls; see `Executor`."""
        ready: list[Reference] = ray.wait(list(references), num_returns=1, timeout=seconds)[0]
        return ready

    def error_of(self, reference: Reference) -> Exception | None:
        """Return the exception that ended a call, None if it succeeded; see `Executor`."""
        try:
            ray.get(reference)
        except RayError as error:
            return _translated(error)
        return None

    def get(self, reference: Reference) -> Any:
        """Return a value.

        Raises:
            ResultLostError: it was lost with its node.
        """
        try:
            return ray.get(reference)
        except RayError as error:
            raise _translated(error) from error

    def put(self, value: object) -> Reference:
        """Return a reference to a value in the object store."""
        return ray.put(value)

    def watch(self, run_id: str) -> Callable[[Stage], None]:
        """Return what exports the figures of the stages on Ray's Prometheus endpoint."""
        self._join()
        return RunMetrics(run_id)

    def _join(self) -> None:
        if not self._is_joined:
            what = "starting Ray" if self.options.address is None else "joining the Ray cluster"
            with self.progress.phase(what):
                self._cluster.enter_context(ray_cluster(self.options))
            self._is_joined = True

    def _new_worker(self, resources: WorkerResources) -> "RayWorker":
        return RayWorker(resources, self.modules)


class RayWorker:
    """An actor as a worker; see `Worker`."""

    def __init__(self, resources: WorkerResources, modules: Sequence[str]) -> None:
        remote: Any = ray.remote(WorkerProcess)
        memory = {} if resources.memory is None else {"memory": resources.memory}
        self._actor = remote.options(
            num_cpus=resources.cpus,
            num_gpus=resources.gpus,
            max_concurrency=max(MIN_CONCURRENCY, resources.threads),
            **memory,
        ).remote(resources, tuple(modules))

    def assign(self, role: Role, arguments: Sequence[Any]) -> Reference:
        """Begin to play a role."""
        return self._actor.assign.remote(role, tuple(arguments))

    def call(self, method: str, *arguments: Any, returns: int = 1) -> list[Reference]:
        """Call a method of the role's object; references among the arguments are replaced by their values."""
        references = self._actor.call.options(num_returns=returns).remote(method, *arguments)
        return references if isinstance(references, list) else [references]

    def end(self) -> None:
        """Kill the actor."""
        ray.kill(self._actor)


class WorkerProcess(RoleHost):
    """The actor: a process that serves all stages of a run, and imports what they need once."""

    def __init__(self, resources: WorkerResources, modules: Sequence[str]) -> None:
        super().__init__(resources)
        import_modules(modules)


def plan_workers(options: ExecutorOptions, device: str, tasks: int) -> WorkerResources:
    """Divide the cluster among the workers of a stage: one per GPU where there are any, else one per `threads` CPUs.

    `workers` of a cluster that is joined may exceed its room: they are asked for, so that an autoscaler adds their
    nodes, and those that do not come are not waited for as long as there is one.

    Args:
        options: of the executor.
        device: auto, cpu or cuda.
        tasks: of the stage; no more workers are planned.

    Raises:
        MuscRayError: the device is cuda, and there is no GPU, nor will an autoscaler add one.
    """
    resources = _resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if device == "cuda" and gpus == 0 and not options.may_grow:
        raise MuscRayError(
            "device is 'cuda' but the cluster has no GPU: use --device cpu, add GPU nodes, or, if an autoscaler adds "
            "them, say how many by --set workers=N."
        )
    if device == "cuda" or (gpus and device != "cpu"):
        share = max(1, cpus // gpus) if gpus else options.threads or 1
        threads = options.threads or share
        room, cpus_each, gpus_each, device = gpus, min(threads, share), 1.0, "cuda"
    else:
        threads = options.threads or 1
        room, cpus_each, gpus_each, device = max(1, cpus // threads), threads, 0.0, "cpu"
    memory = options.worker_memory
    if memory is not None:
        room = min(room, int(resources.get("memory", room * memory) // memory))
    wanted = options.workers or room
    workers = max(1, min(wanted if options.may_grow else min(wanted, room), tasks))
    return WorkerResources(workers, cpus_each, gpus_each, threads, device, options.max_requests, memory)


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def _translated(error: RayError) -> Exception:
    """Return what ended a call: the exception that a role raised, or one of the executor's own."""
    if _is_lost_result(error):
        return ResultLostError(f"A result was lost with its node: {error}")
    if isinstance(error, RayTaskError):
        return error.cause if isinstance(error.cause, Exception) else error
    if isinstance(error, LOST):
        return WorkerLostError(f"A worker died: {error}")
    return ResultsFullError(f"Results do not fit: {error}") if isinstance(error, FULL) else error


def _is_lost_result(error: BaseException) -> bool:
    """Tell whether a value, or an argument of a call, was lost with the node that held it."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, ObjectLostError) or isinstance(getattr(seen, "cause", None), ObjectLostError):
            return True
        seen = seen.__cause__
    return False
