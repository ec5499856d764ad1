"""Ray: joining a cluster or starting one for the length of a command, and work on a pool of actors."""

import logging
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray

from musc_ray.errors import MuscRayError
from musc_ray.settings.model import Settings
from musc_ray.storage.requests import MAX_REQUESTS, limit_requests

logger = logging.getLogger(__name__)

LOCAL_OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of an embedded Ray: tile minima pass through it and spill to disk beyond."""


@dataclass(frozen=True)
class ActorPlan:
    """How many actors a stage gets and what each may use.

    Attributes:
        requests: reads of the storage under way at once.
        memory: bytes; None where Ray alone watches it.
    """

    actors: int
    cpus: float
    gpus: float
    threads: int
    device: str
    requests: int = MAX_REQUESTS
    memory: int | None = None


@contextmanager
def ray_cluster(settings: Settings) -> Iterator[None]:
    """Join the cluster at `address` (or the one a submitted job runs in), or start an own Ray and stop it at the end.

    Raises:
        MuscRayError: no cluster at the address.
    """
    limit_requests(settings.max_requests)
    if ray.is_initialized():  # the caller's own cluster: used, and left running
        yield
        return
    address = _address(settings)
    if address is None and os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        logger.warning("RAY_AUTH_MODE turns token authentication off: who reaches this machine can run code as you.")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cpus = settings.workers * (settings.threads or 1) if settings.workers else usable_cpus()
        options |= {
            "address": "local",
            "num_cpus": cpus,
            "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    else:
        options["address"] = address
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # a failed task's other results are not asked for
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MuscRayError(f"Cannot reach a Ray cluster at {address or 'this machine'}: {error}") from error
    except SystemExit as stopped:  # what Ray's own handler of SIGTERM raises
        raise KeyboardInterrupt from stopped
    if callable(on_sigterm):
        signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _address(settings: Settings) -> str | None:
    """The cluster to join; a submitted job finds its own in the environment."""
    return settings.address or os.environ.get("RAY_ADDRESS")


def usable_cpus() -> int:
    """Count the CPUs that this process may use, which can be fewer than the host has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def plan_actors(settings: Settings, tasks: int) -> ActorPlan:
    """Actors for a stage of so many tasks: one a GPU where the cluster has some, else one a `threads` CPUs.

    `workers` of a cluster that is joined may be more than it has room for: they are asked for, so that an autoscaler
    adds their nodes, and those that do not come are not waited for as long as there is one.
    """
    resources = _resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    may_grow = _address(settings) is not None and settings.workers is not None
    if settings.device == "cuda" and gpus == 0 and not may_grow:
        raise MuscRayError(
            "device is 'cuda' but the cluster has no GPU: use --device cpu, add GPU nodes, or, if an autoscaler adds "
            "them, say how many by --set workers=N."
        )
    if settings.device == "cuda" or (gpus and settings.device != "cpu"):
        share = max(1, cpus // gpus) if gpus else settings.threads or 1
        threads = settings.threads or share
        most, plan_cpus, plan_gpus, device = gpus, min(threads, share), 1.0, "cuda"
    else:
        threads = settings.threads or 1
        most, plan_cpus, plan_gpus, device = max(1, cpus // threads), threads, 0.0, "cpu"
    memory = settings.max_worker_gb * 10**9 if settings.max_worker_gb else None
    if memory is not None:
        most = min(most, int(resources.get("memory", most * memory) // memory))
    wanted = settings.workers or most
    actors = max(1, min(wanted if may_grow else min(wanted, most), tasks))
    return ActorPlan(actors, plan_cpus, plan_gpus, threads, device, settings.max_requests, memory)


def use_threads(threads: int) -> None:
    """Limit this process's arithmetic to its share of the cores; two actors otherwise fight for the same ones."""
    import torch  # here, since a driver that only hands out work has no use for its 300 MB

    torch.set_num_threads(threads)


def take_share(plan: ActorPlan) -> None:
    """Keep this process, an actor's, to its share of the cores, of requests to the storage, and of memory."""
    use_threads(plan.threads)
    limit_requests(plan.requests)
    if plan.memory is not None and plan.device == "cpu":  # CUDA takes addresses for far more memory than it uses
        limit_memory(plan.memory)


def limit_memory(size: int) -> None:
    """Have the system refuse this process more memory of its own than `size` bytes; nothing where it cannot.

    What is refused is an ordinary shortage: batches are halved, fewer shards kept at hand. Memory that is asked for and
    not used yet counts.
    """
    if sys.platform == "linux":
        import resource  # not everywhere

        resource.setrlimit(resource.RLIMIT_DATA, (size, resource.getrlimit(resource.RLIMIT_DATA)[1]))
