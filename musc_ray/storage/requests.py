"""How much a process asks of a storage at once: setting `max_requests`."""

import threading
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

MAX_REQUESTS = 32

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_turns = threading.BoundedSemaphore(MAX_REQUESTS)


def limit_requests(count: int) -> None:
    """From now on this process reads so many files at once; what is under way goes on."""
    global _turns
    _turns = threading.BoundedSemaphore(count)


def in_turn(read: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """A function that reads from storage, and waits while too many others do; it must not call another such one."""

    @wraps(read)
    def waits(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with _turns:
            return read(*args, **kwargs)

    return waits
