"""Retries with growing pauses: the one loop that all rooms use, and what storage faults it waits for.

s3fs itself repeats failed requests for about half a minute (see `s3`). These retries come on top: an image must never
count as broken because the network, the disk or the credentials were.
"""

import errno
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from musc_ray.errors import MuscRayError, reason_of
from musc_ray.storage import s3

MAX_ATTEMPTS = 6
FIRST_PAUSE_SECONDS = 0.5
MAX_PAUSE_SECONDS = 8.0
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""Errors that another attempt does not change."""

IMPOSSIBLE_NAMES = (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
"""Numbers of errors that another attempt does not change, either: symbolic links in a ring, names no file can have."""

Result = TypeVar("Result")


class StorageError(MuscRayError):
    """The storage was unreachable, full, or refused the credentials; the same command resumes the job."""


def is_storage_fault(error: BaseException) -> bool:
    """Return whether an error is about the storage or its credentials, not about what is stored there.

    Arrow, Pillow and tarfile raise OSError for a file's content, too, but without a number.
    """
    if isinstance(error, ConnectionError | PermissionError | TimeoutError | StorageError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return not isinstance(error, PERMANENT)
    return s3.is_away(error)


def as_storage_error(error: BaseException) -> StorageError:
    """Return a storage fault as one sentence."""
    if isinstance(error, StorageError):
        return error
    return StorageError(f"The storage failed ({reason_of(error)}): repair it, and the same command resumes the job.")


@dataclass(frozen=True)
class Backoff:
    """Attempts, and pauses between them that double from `first_seconds` up to `max_seconds`."""

    attempts: int
    first_seconds: float
    max_seconds: float


def retry(
    work: Callable[[], Result],
    is_transient: Callable[[Exception], bool],
    backoff: Backoff,
    sleep: Callable[[float], None] = time.sleep,
    chance: random.Random | None = None,
) -> Result:
    """Call `work` until it succeeds, fails for a lasting reason, or has had all its attempts; raise its last error.

    Each pause is shortened by up to half at random, so that workers do not return all at once.

    Args:
        work: what to do.
        is_transient: whether another attempt may succeed after an error.
        backoff: attempts and pauses.
        sleep: takes seconds; replaced in tests.
        chance: source of the jitter; replaced in tests.
    """
    chance = chance or random.Random()  # noqa: S311, no secret
    for attempt in range(backoff.attempts - 1):
        try:
            return work()
        except Exception as error:
            if not is_transient(error):
                raise
        sleep(min(backoff.max_seconds, backoff.first_seconds * 2**attempt) * chance.uniform(0.5, 1.0))
    return work()


def with_retries(
    work: Callable[[], Result],
    what: str,
    sleep: Callable[[float], None] = time.sleep,
    chance: random.Random | None = None,
) -> Result:
    """Do something on a storage; retry it for about 12 seconds when it fails for a passing reason.

    Args:
        work: may raise OSError, or what its driver raises while a store is away.
        what: named in the error, such as `read s3://bucket/a.png`.
        sleep, chance: see `retry`.

    Raises:
        OSError: a permanent one, at once.
        StorageError: the last attempt failed, too; or, at once, an object store refused.
    """
    try:
        return retry(work, _is_transient, Backoff(MAX_ATTEMPTS, FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS), sleep, chance)
    except PERMANENT as error:
        if s3.refuses(error):
            raise StorageError(
                f"Cannot {what}: the store refuses it ({error}); check credentials, rights and this machine's clock, "
                f"and run the same command again."
            ) from error
        raise
    except Exception as error:
        if not _is_transient(error):
            raise
        raise StorageError(
            f"Cannot {what} after {MAX_ATTEMPTS} attempts ({error}): check the storage and run the same command again."
        ) from error


def _is_transient(error: Exception) -> bool:
    if isinstance(error, (StorageError, *PERMANENT)) or getattr(error, "errno", None) in IMPOSSIBLE_NAMES:
        return False
    return isinstance(error, OSError) or is_storage_fault(error)
