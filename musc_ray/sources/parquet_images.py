"""Parquet tables with image bytes: rows that are images, `<container>.parquet#row=<n>`.

Reading one image reads its row group. Shards are random samples, so reads jump between row groups, of which the last
few are cached: small row groups are better.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.errors import ImageError, MuscRayError, reason_of
from musc_ray.sources.base import Container, ListedFile
from musc_ray.sources.images import Entry, ListedImage
from musc_ray.sources.limits import too_large
from musc_ray.sources.rows import Row, row_group
from musc_ray.storage.filesystem import open_filesystem

IN_PARQUET = re.compile(r"(.+\.parquet)#row=(\d{1,18})", re.DOTALL | re.IGNORECASE)
IMAGE_COLUMNS = ("image", "bytes", "image_bytes")
ROWS_CHUNK = 65_536

MAX_CACHED_FOOTERS = 64
MAX_CACHED_ROW_GROUPS = 4


class ParquetImages(Container):
    """A Parquet file with a column of encoded images; other Parquet files hold none."""

    def recognises(self, path: str) -> bool:
        """Return whether a path ends with .parquet."""
        return PurePosixPath(path).suffix.lower() == ".parquet"

    def entries(self, file: ListedFile) -> Iterator[Entry]:
        """List all rows; none where no column holds images."""
        with file.fs.open(file.path, "rb") as opened:
            parquet = open_parquet(opened, file.path)
            if image_column(parquet.schema_arrow) is not None:
                for number, row in enumerate(_rows(parquet)):
                    yield stored_image(file, number, row)

    def split(self, uri: str) -> tuple[str, str] | None:
        """Return the table's URI and the row's number."""
        match = IN_PARQUET.fullmatch(uri)
        return None if match is None else (match[1], match[2])

    def read(self, container: str, name: str, max_bytes: int) -> bytes:
        """Read the image of a row; see `Container.read`. Larger row groups are refused, too."""
        row = int(name)
        with _broken_as_image_errors():
            starts = _row_group_starts(container)
            if row >= starts[-1]:
                raise FileNotFoundError(f"{container} has no row {row}.")
            group = bisect_right(starts, row) - 1
            value = _images_of(container, group, max_bytes)[row - starts[group]].as_py()
        if isinstance(value, dict):
            value = value["bytes"]
        if value is None:
            raise FileNotFoundError(f"Row {row} of {container} holds no image.")
        if len(value) > max_bytes:
            raise too_large("The image", len(value), max_bytes)
        return bytes(value)


def stored_image(file: ListedFile, number: int, row: Row) -> ListedImage:
    """Return the image in a row of a Parquet file; `number` counts all rows of the file from 0."""
    return ListedImage(
        f"{file.uri}#row={number}",
        f"{file.relative}/{number}",
        row_group(row),
        f"{file.version}-{number}",
        file.modified,
    )


def image_column(schema: pa.Schema) -> str | None:
    """Return the column that holds encoded images: binary, or a struct with `bytes` as Hugging Face writes it."""
    for name in IMAGE_COLUMNS:
        if name in schema.names:
            kind = schema.field(name).type
            if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
                kind = kind.field("bytes").type
            if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                return name
    return None


def open_parquet(file: object, path: str) -> pq.ParquetFile:
    """Open a Parquet file and read its footer.

    Raises:
        MuscRayError: it is not one.
    """
    try:
        return pq.ParquetFile(file)
    except pa.ArrowInvalid as error:
        raise MuscRayError(f"{path} is not a readable Parquet table: {error}") from error


def read_rows(parquet: pq.ParquetFile, columns: list[str]) -> Iterator[Row]:
    """Read some columns of all rows, ROWS_CHUNK rows in memory at a time."""
    for batch in parquet.iter_batches(ROWS_CHUNK, columns=columns):
        yield from batch.to_pylist()


def _rows(parquet: pq.ParquetFile) -> Iterable[Row]:
    """Read the groups of all rows, where the table has them."""
    if "group" in parquet.schema_arrow.names:
        return read_rows(parquet, ["group"])
    return ({} for _ in range(parquet.metadata.num_rows))


@contextmanager
def _broken_as_image_errors() -> Iterator[None]:
    """Blame the image for what Arrow says of the file's content; faults of the storage pass as they are."""
    try:
        yield
    except pa.ArrowMemoryError:
        raise
    except (pa.ArrowException, OSError) as error:
        of_content = isinstance(error, pa.ArrowException) or (type(error) is OSError and error.errno is None)
        if not of_content:
            raise
        raise ImageError(f"The file cannot be read: {reason_of(error)}.") from error


@lru_cache(maxsize=MAX_CACHED_FOOTERS)
def _row_group_starts(container: str) -> list[int]:
    """Return the first row of each row group of a Parquet file, and the number of its rows."""
    fs, path = open_filesystem(container)
    with fs.open(path, "rb") as file:
        metadata = pq.read_metadata(file)
    groups = range(metadata.num_row_groups)
    return list(accumulate((metadata.row_group(group).num_rows for group in groups), initial=0))


@lru_cache(maxsize=MAX_CACHED_ROW_GROUPS)
def _images_of(container: str, group: int, max_bytes: int) -> pa.ChunkedArray:
    """Read the images of a row group."""
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
