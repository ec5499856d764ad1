"""Limit a process's concurrent reads of a storage: setting `max_requests`."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

MAX_REQUESTS = 32

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_turns = threading.BoundedSemaphore(MAX_REQUESTS)


def limit_requests(count: int) -> None:
    """Limit this process to `count` concurrent reads; reads in progress continue."""
    global _turns
    _turns = threading.BoundedSemaphore(count)


def in_turn(read: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that reads from storage, and waits while too many others do; it must not call another such one."""

    @wraps(read)
    def waits(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with _turns:
            return read(*args, **kwargs)

    return waits
