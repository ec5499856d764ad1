"""Ray: join a cluster, or start one on this machine for the length of a command."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from musc_ray.errors import MuscRayError
from musc_ray.runtime.hardware import usable_cpus
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.storage.requests import limit_requests

logger = logging.getLogger(__name__)

LOCAL_OBJECT_STORE_BYTES = 512 * 2**20
"""Object store of an embedded Ray: tile minima pass through it and spill to disk beyond."""


@contextmanager
def ray_cluster(options: ExecutorOptions) -> Iterator[None]:
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


def _init_options(options: ExecutorOptions) -> dict[str, Any]:
    """Return the arguments of `ray.init` that join a cluster or start one on this machine."""
    if options.address is not None:
        return {"address": options.address}
    return {
        "address": "local",
        "num_cpus": options.workers * (options.threads or 1) if options.workers else usable_cpus(),
        "object_store_memory": LOCAL_OBJECT_STORE_BYTES,
        "include_dashboard": False,
    }
