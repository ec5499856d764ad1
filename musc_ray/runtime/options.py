"""What the settings say of the executor and its workers."""

import os
from dataclasses import dataclass
from typing import Self

from musc_ray.settings.model import Settings
from musc_ray.settings.types import ExecutorName
from musc_ray.storage.requests import MAX_REQUESTS


@dataclass(frozen=True)
class ExecutorOptions:
    """Options of an executor; see the settings of these names."""

    executor: ExecutorName = "auto"
    address: str | None = None
    workers: int | None = None
    threads: int | None = None
    device: str = "auto"
    max_requests: int = MAX_REQUESTS
    max_worker_gb: int | None = None

    @classmethod
    def of(cls, settings: Settings, device: str | None = None) -> Self:
        """Take these options out of the settings of a run; `device` replaces theirs."""
        return cls(
            executor=settings.executor,
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

    @property
    def worker_memory(self) -> int | None:
        """Bytes that a worker may use; None for no limit of ours."""
        return self.max_worker_gb * 10**9 if self.max_worker_gb else None
