"""The bytes of one image, from its URI alone: a plain file, a member of a tar, or a row of a Parquet table.

Images inside containers are named `<container>#<member>` and `<container>#row=<n>`. Shards are random samples, so reads
jump about: of a tar only the member's bytes are read, of a Parquet file the row group, the last few of which are kept
(small row groups are better).
"""

import errno
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.errors import ImageError, MuscRayError
from musc_ray.settings.limits import ImageLimits
from musc_ray.storage.filesystem import open_filesystem
from musc_ray.storage.requests import in_turn
from musc_ray.storage.retry import StorageError, with_retries

IN_TAR = re.compile(r"(?P<container>.+\.tar)#(?P<member>.+)", re.DOTALL | re.IGNORECASE)
IN_PARQUET = re.compile(r"(?P<container>.+\.parquet)#row=(?P<row>\d+)", re.DOTALL | re.IGNORECASE)
IMAGE_COLUMNS = ("image", "bytes", "image_bytes")

Span = tuple[int, int]
"""Offset and size in bytes."""


NO_FILE = (errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)
"""What another try does not mend: symbolic links in a ring, names that no file can have."""

REFUSALS = range(400, 500)
OTHER_REFUSALS = (401, 403, 407, 408, 425, 429)
"""Answers of a web server: the image cannot be had, unless it is credentials that are wrong, or the hour."""


@in_turn
def read_image(uri: str, max_bytes: int = ImageLimits.bytes) -> bytes:
    """The encoded image.

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
        raise StorageError(f"Cannot read {uri}: {_reason(error)}; check the storage and its credentials.") from error


def _read(uri: str, max_bytes: int) -> bytes:
    if "\0" in uri:
        raise ImageError("No file has a zero byte in its name.")
    try:
        if match := IN_PARQUET.fullmatch(uri):
            with _image_errors(in_parquet=True):
                return _table_image(match["container"], int(match["row"]), max_bytes)
        if match := IN_TAR.fullmatch(uri):
            with _image_errors():
                return _member(match["container"], match["member"], max_bytes)
    except FileNotFoundError:
        if not _exists(uri):  # a plain file may be called so, too
            raise
    with _image_errors():
        fs, path = open_filesystem(uri)
        return read_at_most(fs, path, max_bytes)


@contextmanager
def _image_errors(in_parquet: bool = False) -> Iterator[None]:
    """What is wrong with an image, its container or its name; all that may be the storage's fault goes on as it is."""
    try:
        yield
    except StorageError:
        raise
    except MuscRayError as error:
        if isinstance(error.__cause__, ImportError):  # the driver of its storage is not installed
            raise StorageError(str(error)) from error
        raise ImageError(str(error)) from error
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        of_arrow = isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)
        if (in_parquet and of_arrow) or getattr(error, "errno", None) in NO_FILE:
            raise ImageError(f"The file cannot be read: {_reason(error)}.") from error
        raise
    except Exception as error:
        status = getattr(error, "status", None)  # of aiohttp, which fsspec reads web servers with
        if status in REFUSALS and status not in OTHER_REFUSALS:
            raise ImageError(f"The server answered {status}.") from error
        raise


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def read_at_most(fs: fsspec.AbstractFileSystem, path: str, max_bytes: int) -> bytes:
    """A file's content, and no more than that of it into memory.

    Raises:
        ImageError: it is larger than `max_bytes`.
    """
    with fs.open(path, "rb") as file:
        size = getattr(file, "size", None)  # some web servers do not tell
        most = max_bytes if size is None else size  # a local file's `read` takes memory for all that is asked for
        content = b"" if most > max_bytes else bytes(file.read(most + 1))
    if max(size or 0, len(content)) > max_bytes:
        raise too_large("The file", size, max_bytes)
    return content


def too_large(what: str, size: int | None, max_bytes: int) -> ImageError:
    """The error of a file or part of one that is not read."""
    has = f"has {size / 2**20:,.0f} MiB, more" if size is not None else "is larger"
    return ImageError(f"{what} {has} than max_image_mb {max_bytes // 2**20}.")


def _exists(uri: str) -> bool:
    fs, path = open_filesystem(uri)
    return bool(fs.exists(path))


def _member(container: str, member: str, max_bytes: int) -> bytes:
    fs, path = open_filesystem(container)
    span = _cached_members(container).get(member)
    if span is None:
        raise FileNotFoundError(f"{container} has no member {member}.")
    if span[1] > max_bytes:
        raise too_large("The member", span[1], max_bytes)
    return bytes(fs.cat_file(path, start=span[0], end=span[0] + span[1]))


def tar_members(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Span]:
    """Where the files of an uncompressed tar lie in it, by member name.

    Raises:
        MuscRayError: not a tar file.
    """
    found: dict[str, Span] = {}
    last = -1
    try:
        with fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.offset <= last or member.size < 0:  # Pythons before August 2025 would go round for ever
                    raise ValueError("it goes back to where it was")
                last = member.offset
                if member.isfile():
                    found[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError) as error:
        raise MuscRayError(f"{path} is not a readable tar file ({_reason(error)}).") from error
    return found


@lru_cache(maxsize=64)
def _cached_members(container: str) -> dict[str, Span]:
    return tar_members(*open_filesystem(container))


def image_column(schema: pa.Schema) -> str | None:
    """The column of a table that holds encoded images: binary, or a struct with `bytes` as Hugging Face writes it."""
    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                kind = kind.field("bytes").type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
    return None


def _table_image(container: str, row: int, max_bytes: int) -> bytes:
    for group, first, rows in _row_groups(container):
        if first <= row < first + rows:
            value = _row_group(container, group, max_bytes)[row - first].as_py()
            if isinstance(value, dict):
                value = value["bytes"]
            if value is None:
                raise FileNotFoundError(f"Row {row} of {container} holds no image.")
            if len(value) > max_bytes:
                raise too_large("The image", len(value), max_bytes)
            return bytes(value)
    raise FileNotFoundError(f"{container} has no row {row}.")


@lru_cache(maxsize=64)
def _row_groups(container: str) -> list[tuple[int, int, int]]:
    """(row group, first row, rows) of a Parquet file."""
    fs, path = open_filesystem(container)
    with fs.open(path, "rb") as file:
        metadata = pq.read_metadata(file)
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return [(group, sum(counts[:group]), count) for group, count in enumerate(counts)]


@lru_cache(maxsize=4)
def _row_group(container: str, group: int, max_bytes: int) -> pa.ChunkedArray:
    fs, path = open_filesystem(container)
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        name = image_column(parquet.schema_arrow)
        if name is None:
            raise FileNotFoundError(f"{container} has no column with images.")
        chunks = parquet.metadata.row_group(group)
        columns = [chunks.column(place) for place in range(chunks.num_columns)]
        size = sum(each.total_uncompressed_size for each in columns if each.path_in_schema.split(".")[0] == name)
        if size > max_bytes:
            raise too_large("The row group", size, max_bytes)
        return parquet.read_row_group(group, columns=[name])[name]
