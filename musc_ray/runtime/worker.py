"""A worker: what it may use of its machine, and the role that it plays in the stage that runs."""

import gc
import math
import re
import sys
import threading
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from musc_ray.errors import MuscRayError
from musc_ray.storage.requests import MAX_REQUESTS, limit_requests

PROCESS_STATUS = Path("/proc/self/status")

MIN_ROOM_BYTES = 512 * 10**6
"""Memory that a role needs at least: without it libraries break as they are imported, and OpenMP ends the process."""


@dataclass(frozen=True)
class WorkerResources:
    """Number of workers of a stage, and what each may use.

    Attributes:
        cpus, gpus: of the cluster's, which Ray sets aside.
        threads: of its arithmetic.
        requests: concurrent reads of the storage.
        memory: bytes; None for no limit of ours.
    """

    workers: int
    cpus: float
    gpus: float
    threads: int
    device: str
    requests: int = MAX_REQUESTS
    memory: int | None = None


@dataclass(frozen=True)
class Role:
    """A class whose methods workers call for the tasks of a stage.

    The class is named, not given: a driver that only dispatches tasks need not import what its workers import.

    Attributes:
        module, name: of the class; it is made with the arguments of the pool and WorkerResources.
        calls: calls that run at the same time, on threads of their own; None for one for each thread of the worker.
        begins: the work before the first call, for the terminal.
    """

    module: str
    name: str
    calls: int | None = None
    begins: str = "starting workers"

    def load(self) -> Any:
        """Import the class."""
        import_modules([self.module])
        return getattr(sys.modules[self.module], self.name)

    def calls_of(self, resources: WorkerResources) -> int:
        """Return how many calls a worker runs at the same time."""
        return self.calls or max(1, resources.threads)


class RoleHost:
    """The part of a worker that holds the object of its role, one at a time, and calls its methods.

    Args:
        resources: what it may use.
        shared: bytes of this process's data that are not the worker's, and that its limit leaves out.
    """

    def __init__(self, resources: WorkerResources, shared: int = 0) -> None:
        self.resources, self.shared = resources, shared
        self._player: Any = None
        self._turns: Any = nullcontext()
        self._before: dict[str, int] = {}

    def assign(self, role: Role, arguments: Sequence[Any]) -> None:
        """Play a role from now on; the object of the role before is given up first.

        Raises:
            MuscRayError: the libraries of the role leave hardly any of the worker's memory.
            Exception: what the role raises when it is made.
        """
        self.release()
        player = role.load()
        self._check_room()
        self.take_share()
        self._turns = threading.BoundedSemaphore(role.calls_of(self.resources))
        self._player = player(*arguments, self.resources)

    def release(self) -> None:
        """Give up the object of the current role, and the memory that it holds."""
        self._player = None
        gc.collect()
        torch = sys.modules.get("torch")
        if torch is not None and self.resources.device == "cuda":
            torch.cuda.empty_cache()

    def call(self, method: str, *arguments: Any) -> Any:
        """Call a method of the role's object."""
        with self._turns:
            return getattr(self._player, method)(*arguments)

    def take_share(self) -> None:
        """Limit this process to its share of the cores, of requests to the storage, and of memory."""
        limit_requests(self.resources.requests)
        memory = self.resources.memory
        if memory is not None and self.resources.device == "cpu":  # CUDA reserves far more addresses than it uses
            self._before.setdefault("memory", limit_memory(memory + self.shared))
        torch = sys.modules.get("torch")
        if torch is not None:
            self._before.setdefault("threads", torch.get_num_threads())
            use_threads(self.resources.threads)

    def _check_room(self) -> None:
        """Check that the first role has room; later ones use what the ones before have left."""
        memory = self.resources.memory
        if memory is None or self.resources.device != "cpu" or "memory" in self._before:
            return
        taken = data_bytes() - self.shared
        if memory - taken < MIN_ROOM_BYTES:
            raise MuscRayError(
                f"max_worker_gb is {memory / 1e9:.0f}, of which a worker takes {taken / 1e9:.1f} GB before it has read "
                f"anything: give at least {math.ceil((taken + MIN_ROOM_BYTES) / 1e9)}."
            )

    def lift_limits(self) -> None:
        """Give this process back the cores and the memory that it had before."""
        if "memory" in self._before:
            limit_memory(self._before.pop("memory"))
        if "threads" in self._before:
            use_threads(self._before.pop("threads"))


def import_modules(modules: Sequence[str]) -> None:
    """Import modules that take seconds, without garbage collection meanwhile.

    PyTorch and a model library make a million objects and hardly any garbage; looking for it takes a tenth of the time.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        for module in modules:
            import_module(module)
    finally:
        if collects:
            gc.enable()


def use_threads(threads: int) -> None:
    """Limit this process's arithmetic to its share of the cores, so that workers do not compete for the same ones."""
    import torch  # here, since a driver that only dispatches work does not need its 300 MB

    torch.set_num_threads(threads)


def limit_memory(size: int) -> int:
    """Limit this process's data segment (RLIMIT_DATA) to `size` bytes, on Linux; memory not used yet counts.

    What is refused is an ordinary shortage: batches are halved, fewer shards cached.

    Returns:
        The limit before, as this function takes it.
    """
    if sys.platform != "linux":
        return -1
    import resource  # not on every platform

    before, highest = resource.getrlimit(resource.RLIMIT_DATA)
    allowed = size if highest == resource.RLIM_INFINITY else min(size, highest)
    resource.setrlimit(resource.RLIMIT_DATA, (allowed, highest))
    return before


def data_bytes() -> int:
    """Return the size of this process's data segment, as `limit_memory` limits it; 0 where the system does not say."""
    try:
        found = re.search(r"^VmData:\s*(\d+) kB", PROCESS_STATUS.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return 0 if found is None else int(found[1]) * 1024
