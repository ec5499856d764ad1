"""Storage faults that pass: tried again with growing pauses, on top of what the cloud clients retry themselves.

s3fs repeats a throttled or failed request five times within about 3 seconds; a store that is away for longer needs
more patience than that, and an image must never count as broken because the network was.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from musc_ray.errors import MuscRayError

TRIES = 6
FIRST_PAUSE_SECONDS = 0.5
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""Errors that another try does not mend."""

Result = TypeVar("Result")


class StorageError(MuscRayError):
    """The storage did not answer for as long as it was worth waiting; the same command takes the job up again."""


def with_retries(
    work: Callable[[], Result],
    what: str,
    sleep: Callable[[float], None] = time.sleep,
    chance: random.Random | None = None,
) -> Result:
    """Do something on a storage, again if it fails for a passing reason.

    Pauses double from half a second to 8 seconds, each shortened by up to half at random so that workers do not return
    all at once; about 12 seconds in all.

    Args:
        work: may raise OSError.
        what: named in the error, such as `read s3://bucket/a.png`.
        sleep: takes seconds; replaced in tests.
        chance: source of the jitter; replaced in tests.

    Raises:
        OSError: a permanent one, at once.
        StorageError: the last try failed, too.
    """
    chance = chance or random.Random()  # noqa: S311, no secret
    attempt = 1
    while True:
        try:
            return work()
        except PERMANENT:
            raise
        except OSError as error:
            if attempt == TRIES:
                raise StorageError(
                    f"Cannot {what} after {TRIES} tries ({error}): check the storage and run the same command again."
                ) from error
        sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * chance.uniform(0.5, 1.0))
        attempt += 1
