"""Ray: join a cluster, or start one for the length of a command; what each worker of a stage gets of it."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import ray

from musc_ray.errors import MuscRayError
from musc_ray.runtime.hardware import ClusterHardware, Hardware, LocalHardware, usable_cpus
from musc_ray.settings.model import Settings
from musc_ray.storage.requests import MAX_REQUESTS, limit_requests

logger = logging.getLogger(__name__)

LOCAL_OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of an embedded Ray: tile minima pass through it and spill to disk beyond."""


@dataclass(frozen=True)
class ClusterOptions:
    """What the settings say of the cluster and its workers; see `Settings`."""

    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    device: str = "auto"
    max_requests: int = MAX_REQUESTS
    max_worker_gb: int | None = None

    @classmethod
    def of(cls, settings: Settings, device: str | None = None) -> Self:
        """Take these options out of the settings of a run; `device` replaces theirs, as resolved."""
        return cls(
            address=settings.address or os.environ.get("RAY_ADDRESS"),  # how a submitted job finds its cluster
            workers=settings.workers,
            threads=settings.threads,
            device=device or settings.device,
            max_requests=settings.max_requests,
            max_worker_gb=settings.max_worker_gb,
        )

    @property
    def may_grow(self) -> bool:
        """Whether an autoscaler may add nodes for the workers that are asked for."""
        return self.address is not None and self.workers is not None


@dataclass(frozen=True)
class WorkerResources:
    """Number of workers of a stage, and what each may use.

    Attributes:
        requests: concurrent reads of the storage.
        memory: bytes; None where Ray alone watches it.
    """

    workers: int
    cpus: float
    gpus: float
    threads: int
    device: str
    requests: int = MAX_REQUESTS
    memory: int | None = None


@contextmanager
def ray_cluster(options: ClusterOptions) -> Iterator[None]:
    """Join the cluster at the address (or the one a submitted job runs in), or start a Ray and stop it at the end.

    Raises:
        MuscRayError: no cluster at the address.
    """
    limit_requests(options.max_requests)
    if ray.is_initialized():  # the caller's own cluster: used, and left running
        yield
        return
    if options.address is None and os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        logger.warning("RAY_AUTH_MODE turns token authentication off: who reaches this machine can run code as you.")
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # a failed task's other results are not asked for
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **_init_options(options))
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MuscRayError(f"Cannot reach a Ray cluster at {options.address or 'this machine'}: {error}") from error
    except SystemExit as stopped:  # what Ray's own handler of SIGTERM raises
        raise KeyboardInterrupt from stopped
    if callable(on_sigterm):
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def joined_cluster(options: ClusterOptions) -> Iterator[None]:
    """Join the cluster at the address for a whole command, where there is one; a Ray of its own is started when needed.

    A submitted job must not leave its cluster before its end: Ray then deletes the job's files, its working directory
    among them, and it cannot join again.

    Raises:
        MuscRayError: no cluster at the address.
    """
    if options.address is None:
        yield
        return
    with ray_cluster(options):
        yield


def _init_options(options: ClusterOptions) -> dict[str, Any]:
    """Return the arguments of `ray.init` that join a cluster or start one on this machine."""
    if options.address is not None:
        return {"address": options.address}
    return {
        "address": "local",
        "num_cpus": options.workers * (options.threads or 1) if options.workers else usable_cpus(),
        "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }


@contextmanager
def open_hardware(options: ClusterOptions) -> Iterator[Hardware]:
    """Find out what hardware the workers will have: that of the cluster where there is one, else this machine's."""
    if options.address is None and not ray.is_initialized():
        yield LocalHardware()
        return
    with ray_cluster(options):
        yield ClusterHardware()


def _resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def plan_workers(options: ClusterOptions, tasks: int) -> WorkerResources:
    """Divide the cluster among the workers of a stage: one per GPU where there are any, else one per `threads` CPUs.

    `workers` of a cluster that is joined may exceed its room: they are asked for, so that an autoscaler adds their
    nodes, and those that do not come are not waited for as long as there is one.

    Args:
        options: of the cluster.
        tasks: of the stage; no more workers are planned.

    Raises:
        MuscRayError: the device is cuda, and there is no GPU, nor will an autoscaler add one.
    """
    resources = _resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if options.device == "cuda" and gpus == 0 and not options.may_grow:
        raise MuscRayError(
            "device is 'cuda' but the cluster has no GPU: use --device cpu, add GPU nodes, or, if an autoscaler adds "
            "them, say how many by --set workers=N."
        )
    if options.device == "cuda" or (gpus and options.device != "cpu"):
        share = max(1, cpus // gpus) if gpus else options.threads or 1
        threads = options.threads or share
        room, cpus_each, gpus_each, device = gpus, min(threads, share), 1.0, "cuda"
    else:
        threads = options.threads or 1
        room, cpus_each, gpus_each, device = max(1, cpus // threads), threads, 0.0, "cpu"
    memory = options.max_worker_gb * 10**9 if options.max_worker_gb else None
    if memory is not None:
        room = min(room, int(resources.get("memory", room * memory) // memory))
    wanted = options.workers or room
    workers = max(1, min(wanted if options.may_grow else min(wanted, room), tasks))
    return WorkerResources(workers, cpus_each, gpus_each, threads, device, options.max_requests, memory)


def use_threads(threads: int) -> None:
    """Limit this process's arithmetic to its share of the cores, so that workers do not compete for the same ones."""
    import torch  # here, since a driver that only dispatches work does not need its 300 MB

    torch.set_num_threads(threads)


def take_share(resources: WorkerResources) -> None:
    """Limit this process, a worker, to its share of the cores, of requests to the storage, and of memory."""
    use_threads(resources.threads)
    limit_requests(resources.requests)
    if resources.memory is not None and resources.device == "cpu":  # CUDA reserves far more addresses than it uses
        limit_memory(resources.memory)


def limit_memory(size: int) -> None:
    """Limit this process's data segment (RLIMIT_DATA) to `size` bytes, on Linux; memory not used yet counts.

    What is refused is an ordinary shortage: batches are halved, fewer shards cached.
    """
    if sys.platform == "linux":
        import resource  # not on every platform

        resource.setrlimit(resource.RLIMIT_DATA, (size, resource.getrlimit(resource.RLIMIT_DATA)[1]))
