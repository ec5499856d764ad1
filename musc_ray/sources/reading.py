"""The bytes of one image from its URI alone: a plain file, or an image in a container."""

from collections.abc import Iterator
from contextlib import contextmanager

from musc_ray.errors import ImageError, MuscRayError, reason_of
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.containers import split_uri
from musc_ray.sources.limits import read_at_most
from musc_ray.storage.filesystem import open_filesystem
from musc_ray.storage.listing import exists
from musc_ray.storage.requests import in_turn
from musc_ray.storage.retry import IMPOSSIBLE_NAMES, StorageError, with_retries

REFUSALS = range(400, 500)
STORAGE_REFUSALS = (401, 403, 407, 408, 425, 429)
"""Answers of a web server. Refusals mean that the image does not exist; these blame credentials or the moment."""


@in_turn
def read_image(uri: str, max_bytes: int = ImageLimits.bytes) -> bytes:
    """Read the encoded image.

    Args:
        uri: of a file, or of an image in a container.
        max_bytes: larger files, and larger row groups of tables, are refused before they are read.

    Raises:
        ImageError: too large, in a broken container, or a URI that names nothing that could be read.
        FileNotFoundError: no such file, member or row; other permanent OSErrors as they are.
        StorageError: the storage did not answer.
    """
    try:
        return with_retries(lambda: _read(uri, max_bytes), f"read {uri}")
    except (MuscRayError, OSError, MemoryError):
        raise
    except Exception as error:  # drivers of object stores raise errors of many libraries
        raise StorageError(f"Cannot read {uri}: {reason_of(error)}; check the storage and its credentials.") from error


def _read(uri: str, max_bytes: int) -> bytes:
    if "\0" in uri:
        raise ImageError("The URI contains a NUL byte: remove it.")
    missing: FileNotFoundError | None = None
    for in_container in split_uri(uri):
        try:
            with _image_errors():
                return in_container.read(max_bytes)
        except FileNotFoundError as error:
            missing = missing or error
    if missing is not None and not exists(*open_filesystem(uri)):  # a plain file may have such a name, too
        raise missing
    with _image_errors():
        fs, path = open_filesystem(uri)
        return read_at_most(fs, path, max_bytes)


@contextmanager
def _image_errors() -> Iterator[None]:
    """Turn what is wrong with an image, its container or its name into ImageError.

    Whatever may be the storage's fault passes as it is.
    """
    try:
        yield
    except StorageError:
        raise
    except MuscRayError as error:
        if isinstance(error.__cause__, ImportError):  # the driver of its storage is not installed
            raise StorageError(str(error)) from error
        raise ImageError(str(error)) from error
    except OSError as error:
        if error.errno in IMPOSSIBLE_NAMES:
            raise ImageError(f"The file cannot be read: {reason_of(error)}.") from error
        raise
    except Exception as error:
        status = getattr(error, "status", None)  # of aiohttp, which fsspec reads web servers with
        if status in REFUSALS and status not in STORAGE_REFUSALS:
            raise ImageError(f"The server answered {status}.") from error
        raise
