"""The bytes of one image, from its URI alone: a plain file, a member of a tar, or a row of a Parquet table.

Images inside containers are named `<container>#<member>` and `<container>#row=<n>`. Shards are random samples, so reads
jump about: of a tar only the member's bytes are read, of a Parquet file the row group, the last few of which are kept
(small row groups are better).
"""

import re
import tarfile
from functools import lru_cache

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.storage.filesystem import open_filesystem
from musc_ray.storage.retry import with_retries

IN_TAR = re.compile(r"(?P<container>.+\.tar)#(?P<member>.+)", re.DOTALL | re.IGNORECASE)
IN_PARQUET = re.compile(r"(?P<container>.+\.parquet)#row=(?P<row>\d+)", re.DOTALL | re.IGNORECASE)
IMAGE_COLUMNS = ("image", "bytes", "image_bytes")

Span = tuple[int, int]
"""Offset and size in bytes."""


def read_image(uri: str) -> bytes:
    """The encoded image.

    Raises:
        FileNotFoundError: no such file, member or row; other permanent OSErrors as they are.
        StorageError: the storage did not answer.
    """
    return with_retries(lambda: _read(uri), f"read {uri}")


def _read(uri: str) -> bytes:
    if match := IN_PARQUET.fullmatch(uri):
        return _table_image(match["container"], int(match["row"]))
    if match := IN_TAR.fullmatch(uri):
        fs, path = open_filesystem(match["container"])
        span = _cached_members(match["container"]).get(match["member"])
        if span is None:
            raise FileNotFoundError(f"{match['container']} has no member {match['member']}.")
        return bytes(fs.cat_file(path, start=span[0], end=span[0] + span[1]))
    with fsspec.open(uri, "rb") as file:
        return bytes(file.read())


def tar_members(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Span]:
    """Where the files of an uncompressed tar lie in it, by member name.

    Raises:
        OSError: not a tar file.
    """
    try:
        with fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            return {member.name: (member.offset_data, member.size) for member in archive if member.isfile()}
    except tarfile.TarError as error:
        raise OSError(f"{path} is not a readable tar file ({error})") from error


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


def _table_image(container: str, row: int) -> bytes:
    for group, first, rows in _row_groups(container):
        if first <= row < first + rows:
            value = _row_group(container, group)[row - first].as_py()
            if isinstance(value, dict):
                value = value["bytes"]
            if value is None:
                raise FileNotFoundError(f"Row {row} of {container} holds no image.")
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
def _row_group(container: str, group: int) -> pa.ChunkedArray:
    fs, path = open_filesystem(container)
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        name = image_column(parquet.schema_arrow)
        if name is None:
            raise FileNotFoundError(f"{container} has no column with images.")
        return parquet.read_row_group(group, columns=[name])[name]
