"""Storage faults that pass: tried again with growing pauses, on top of what the cloud clients retry themselves.

s3fs is told to repeat failed requests for about half a minute (see `s3`); what matters most needs more patience than
that, and an image must never count as broken because the network, the disk or the credentials were.
"""

import random
import time
from collections.abc import Callable
from typing import TypeVar

from musc_ray.errors import MuscRayError
from musc_ray.storage import s3

TRIES = 6
FIRST_PAUSE_SECONDS = 0.5
PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError, FileExistsError)
"""Errors that another try does not mend."""

Result = TypeVar("Result")


class StorageError(MuscRayError):
    """The storage was away, full, or refused the credentials; the same command takes the job up again."""


def is_storage_fault(error: BaseException) -> bool:
    """Whether an error says something of the storage or its credentials, and nothing of what is stored there.

    Complaints of Arrow, Pillow and tarfile about a file's content are OSErrors, too, but without a number.
    """
    if isinstance(error, ConnectionError | PermissionError | TimeoutError | StorageError):
        return True
    if isinstance(error, OSError) and error.errno is not None:
        return not isinstance(error, PERMANENT)
    return s3.is_away(error)


def as_storage_error(error: BaseException) -> StorageError:
    """A storage fault as one sentence."""
    if isinstance(error, StorageError):
        return error
    reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    return StorageError(f"The storage failed ({reason}): mend it, and the same command goes on from there.")


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
        work: may raise OSError, or what its driver raises while a store is away.
        what: named in the error, such as `read s3://bucket/a.png`.
        sleep: takes seconds; replaced in tests.
        chance: source of the jitter; replaced in tests.

    Raises:
        OSError: a permanent one, at once.
        StorageError: the last try failed, too; or, at once, an object store refused.
    """
    chance = chance or random.Random()  # noqa: S311, no secret
    attempt = 1
    while True:
        try:
            return work()
        except PERMANENT as error:
            if s3.refuses(error):
                raise StorageError(
                    f"Cannot {what}: the store refuses it ({error}); check credentials, rights and this machine's "
                    f"clock, and run the same command again."
                ) from error
            raise
        except Exception as error:
            if isinstance(error, StorageError) or not (isinstance(error, OSError) or is_storage_fault(error)):
                raise
            if attempt == TRIES:
                raise StorageError(
                    f"Cannot {what} after {TRIES} tries ({error}): check the storage and run the same command again."
                ) from error
        sleep(FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * chance.uniform(0.5, 1.0))
        attempt += 1
