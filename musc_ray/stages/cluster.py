"""Ray: joining a cluster or starting one for the length of a command, and work on a pool of actors."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
import torch

from musc_ray.config import Settings
from musc_ray.errors import MuscRayError

LOCAL_OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of an embedded Ray: tile minima pass through it and spill to disk beyond."""

TASKS_PER_ACTOR = 2
"""One running, one waiting: an actor never idles for the driver, and little is in flight when something dies."""

ACTOR_RETRIES = 3

Actor = Any
"""Handle of a Ray actor: its methods are made at run time, so no type describes them."""


@dataclass(frozen=True)
class ActorPlan:
    """How many actors a stage gets and what each may use."""

    actors: int
    cpus: float
    gpus: float
    threads: int
    device: str

    def options(self) -> dict[str, Any]:
        """Ray options of such an actor: restarted when its process or node dies, its task tried again."""
        return {
            "num_cpus": self.cpus,
            "num_gpus": self.gpus,
            "max_restarts": ACTOR_RETRIES,
            "max_task_retries": ACTOR_RETRIES,
        }


@contextmanager
def ray_cluster(settings: Settings) -> Iterator[None]:
    """Join the cluster at `address` (or the one a submitted job runs in), or start an own Ray and stop it at the end.

    Raises:
        MuscRayError: no cluster at the address.
    """
    if ray.is_initialized():  # the caller's own cluster: used, and left running
        yield
        return
    address = settings.address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        cpus = settings.workers * (settings.threads or 1) if settings.workers else _usable_cpus()
        options |= {
            "address": "local",
            "num_cpus": cpus,
            "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
    else:
        options["address"] = address
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise MuscRayError(f"Cannot reach a Ray cluster at {address or 'this machine'}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _resources() -> dict[str, float]:
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return resources


def plan_actors(settings: Settings, tasks: int) -> ActorPlan:
    """Actors for a stage of so many tasks: one a GPU where the cluster has some, else one a `threads` CPUs."""
    resources = _resources()
    cpus, gpus = int(resources.get("CPU", 1)), int(resources.get("GPU", 0))
    if settings.device == "cuda" and gpus == 0:
        raise MuscRayError("device is 'cuda' but the cluster has no GPU: use --device cpu or add GPU nodes.")
    if gpus and settings.device != "cpu":
        threads = settings.threads or max(1, cpus // gpus)
        most, plan_cpus, plan_gpus, device = gpus, min(threads, cpus // gpus), 1.0, "cuda"
    else:
        threads = settings.threads or 1
        most, plan_cpus, plan_gpus, device = max(1, cpus // threads), threads, 0.0, "cpu"
    actors = max(1, min(settings.workers or most, most, tasks))
    return ActorPlan(actors, plan_cpus, plan_gpus, threads, device)


def start_actors(actor: type, plan: ActorPlan, *arguments: Any, calls_at_once: int = 1) -> list[Actor]:
    """The actors of a plan, each made with the same arguments and running so many calls on threads of their own."""
    remote: Any = ray.remote(actor).options(**plan.options(), max_concurrency=calls_at_once)
    return [remote.remote(*arguments) for _ in range(plan.actors)]


def use_threads(threads: int) -> None:
    """Limit this process's arithmetic to its share of the cores; two actors otherwise fight for the same ones."""
    torch.set_num_threads(threads)


def run_on_actors(
    actors: Sequence[Actor], tasks: Iterable[Any], submit: Callable[[Actor, Any], Any]
) -> Iterator[tuple[Any, Any]]:
    """Feed tasks to actors with bounded work in flight; yields (task, ready reference) as they finish.

    Args:
        actors: the pool.
        tasks: taken one by one, in order, whenever an actor has room.
        submit: calls the actor's method for a task and returns one reference, or several of which the first is
            awaited.
    """
    waiting = iter(tasks)
    room = deque(actor for _ in range(TASKS_PER_ACTOR) for actor in actors)
    running: dict[Any, tuple[Actor, Any, Any]] = {}
    while True:
        while room:
            task = next(waiting, _NO_TASK)
            if task is _NO_TASK:
                break
            actor = room.popleft()
            result = submit(actor, task)
            running[result[0] if isinstance(result, list) else result] = (actor, task, result)
        if not running:
            return
        ready, _ = ray.wait(list(running), num_returns=1)
        actor, task, result = running.pop(ready[0])
        room.append(actor)
        yield task, result


_NO_TASK = object()
