"""Roles of the tests of executors, in a module that workers can import."""

import _thread
import os
import threading
import time
from typing import Any

import numpy as np

from musc_ray.errors import MuscRayError
from musc_ray.runtime.worker import Role, WorkerResources


def role(name: str, calls: int | None = 2) -> Role:
    return Role("tests.unit.runtime.players", name, calls)


class Adder:
    """Adds, counts how many of its calls run at the same time, and fails as asked."""

    def __init__(self, start: float, resources: WorkerResources) -> None:
        self.start, self.resources = start, resources
        self.failures: dict[int, int] = {}
        self.running = self.most = 0
        self.lock = threading.Lock()

    def add(self, *numbers: float) -> float:
        return self.start + sum(float(np.sum(number)) for number in numbers)

    def parts(self, count: int) -> tuple[Any, ...]:
        return tuple(np.full(2**15, number, np.float32) for number in range(count))

    def short_of_memory(self, task: int, times: int) -> int:
        """Run out of memory in the first calls for a task; return how often."""
        self.failures[task] = self.failures.get(task, 0) + 1
        if self.failures[task] <= times:
            raise MemoryError("injected")
        return self.failures[task] - 1

    def fail(self) -> None:
        raise KeyError("as it was raised")

    def unreachable(self) -> None:
        raise ConnectionError("the store is away")

    def die(self) -> None:
        os._exit(1)

    def overlap(self) -> int:
        """Return how many calls ran at the same time so far."""
        with self.lock:
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(0.05)
        with self.lock:
            self.running -= 1
        return self.most

    def where(self) -> tuple[int, str, int]:
        return os.getpid(), threading.current_thread().name, self.resources.threads


class Multiplier:
    """A role that comes after another one."""

    def __init__(self, factor: float, resources: WorkerResources) -> None:
        self.factor = factor

    def times(self, number: float) -> float:
        return self.factor * number

    def where(self) -> int:
        return os.getpid()


class Unfit:
    """Cannot be made."""

    def __init__(self, reason: str, resources: WorkerResources) -> None:
        raise MuscRayError(reason)


class Hungry:
    """Runs out of memory while it is made."""

    def __init__(self, resources: WorkerResources) -> None:
        raise MemoryError("injected")


class Sleeper:
    """Is interrupted as by Ctrl-C while its call runs."""

    def __init__(self, resources: WorkerResources) -> None:
        pass

    def sleep(self, seconds: float) -> None:
        _thread.interrupt_main()
        time.sleep(seconds)
