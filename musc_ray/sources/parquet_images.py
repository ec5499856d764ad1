"""Parquet tables: rows that are images, `<container>.parquet#row=<n>`, and rows with the URIs of images.

Reading one image reads its row group. Shards are random samples, so reads jump between row groups, of which the last
few are cached: small row groups are better. An image that is not in one of the usual columns has its column in its URI,
`<container>.parquet#column=<name>&row=<n>`.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from pathlib import PurePosixPath
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.errors import ImageError, MuscRayError, reason_of
from musc_ray.settings.columns import ColumnNames
from musc_ray.sources.base import Container, ListedFile
from musc_ray.sources.columns import Columns, find_columns, image_column, kinds_of, no_columns
from musc_ray.sources.images import Entry, ListedImage, Skipped
from musc_ray.sources.limits import too_large
from musc_ray.sources.partitions import Partitions, partition_values, table_folder
from musc_ray.sources.rows import Row, RowTable, grouped, named_image, rows_of
from musc_ray.storage.filesystem import open_filesystem

IN_PARQUET = re.compile(r"(.+\.parquet)#((?:column=[^&#/]+&)?row=\d{1,18})", re.DOTALL | re.IGNORECASE)
ROWS_CHUNK = 65_536

HIDDEN = re.compile(r"(?:^|/)[._]")
"""Below a folder of tables: logs and leftovers of those who write it."""

MAX_CACHED_FOOTERS = 64
MAX_CACHED_ROW_GROUPS = 4


class ParquetImages(Container):
    """A Parquet file with a column of encoded images or of their URIs; other Parquet files are skipped."""

    def recognises(self, path: str) -> bool:
        """Return whether a path ends with .parquet."""
        return PurePosixPath(path).suffix.lower() == ".parquet"

    def entries(self, file: ListedFile, columns: ColumnNames) -> Iterator[Entry]:
        """List all rows; values of Hive partitions are columns, too."""
        if HIDDEN.search(file.relative):
            yield Skipped(file.uri, "hidden", "The table is hidden, or in a folder of logs or leftovers.")
        else:
            yield from list_parquet(file, columns)

    def splits(self, uri: str) -> list[tuple[str, str]]:
        """Return the table's URI, and the row's number with the column if it is not a usual one."""
        match = IN_PARQUET.fullmatch(uri)
        return [] if match is None else [(match[1], match[2])]

    def read(self, container: str, name: str, max_bytes: int) -> bytes:
        """Read the image of a row; see `Container.read`. Larger row groups are refused, too."""
        column, _, number = name.rpartition("&")
        row = int(number.partition("=")[2])
        with _broken_as_image_errors():
            starts = _row_group_starts(container)
            if row >= starts[-1]:
                raise FileNotFoundError(f"{container} has no row {row}.")
            group = bisect_right(starts, row) - 1
            images = _images_of(container, group, max_bytes, unquote(column.partition("=")[2]) or None)
            value = images[row - starts[group]].as_py()
        if isinstance(value, dict):
            value = value["bytes"]
        if value is None:
            raise FileNotFoundError(f"Row {row} of {container} holds no image.")
        if len(value) > max_bytes:
            raise too_large("The image", len(value), max_bytes)
        return bytes(value)


def list_parquet(file: ListedFile, columns: ColumnNames) -> Iterator[Entry]:
    """List the rows of a Parquet file, or only that it is skipped where no column holds images or URIs.

    Raises:
        MuscRayError: it is broken, or lacks a column that the setting names.
    """
    partitions = partition_values(file.relative)
    with named_errors(file), file.fs.open(file.path, "rb") as opened:
        parquet = pq.ParquetFile(opened)
        kinds = kinds_of(parquet.schema_arrow, partitions)
        found = find_columns(kinds, columns, file.path)
        if found is None:
            yield Skipped(file.uri, "other", no_columns(kinds, columns, file.path))
            return
        rows = _rows(parquet, found, partitions)
        if found.image is not None:
            yield from stored_images(file, rows, uri_of_images(file, found.image, parquet.schema_arrow))
            return
        table = RowTable.beside(file.fs, file.path, table_folder(file.path, file.relative))
        for row in rows:
            yield named_image(table, row)


def stored_images(file: ListedFile, rows: Iterator[Row], uri: str) -> Iterator[Entry]:
    """List the images that rows of a Parquet file hold; `uri` is what `uri_of_images` returns."""
    for row in rows:
        image = ListedImage(
            f"{uri}row={row.number}", f"{file.relative}/{row.number}", "", f"{file.version}-{row.number}", file.modified
        )
        yield grouped(image, row)


def uri_of_images(file: ListedFile, column: str, schema: pa.Schema) -> str:
    """Return the URIs of the images in a column of a file up to `row=`; the usual column is not named in them."""
    if column == image_column(schema):
        return f"{file.uri}#"
    return f"{file.uri}#column={quote(column, safe='').replace('.', '%2E')}&"


@contextmanager
def named_errors(file: ListedFile) -> Iterator[None]:
    """Name the Parquet file that cannot be listed to its end."""
    try:
        yield
    except MuscRayError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise MuscRayError(f"{file.path} is not a readable Parquet table: {reason_of(error)}.") from error


def _rows(parquet: pq.ParquetFile, columns: Columns, partitions: Partitions) -> Iterator[Row]:
    """Read the values of all rows, ROWS_CHUNK rows in memory at a time."""
    names = [name for name in columns.of_rows if name not in partitions]
    count = parquet.metadata.num_rows
    if not names:
        yield from rows_of(pa.table({}), columns, partitions, range(count))
        return
    first = 0
    for batch in parquet.iter_batches(ROWS_CHUNK, columns=names):
        yield from rows_of(batch, columns, partitions, range(first, first + batch.num_rows))
        first += batch.num_rows


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
def _images_of(container: str, group: int, max_bytes: int, column: str | None = None) -> pa.ChunkedArray:
    """Read the images of a row group from a column, or from the usual one."""
    fs, path = open_filesystem(container)
    with fs.open(path, "rb") as file:
        parquet = pq.ParquetFile(file)
        name = image_column(parquet.schema_arrow) if column is None else column
        if name not in parquet.schema_arrow.names:
            raise FileNotFoundError(f"{container} has no column with images.")
        chunks = parquet.metadata.row_group(group)
        columns = [chunks.column(place) for place in range(chunks.num_columns)]
        size = sum(
            each.total_uncompressed_size
            for each in columns
            if each.path_in_schema == name or each.path_in_schema.startswith(f"{name}.")
        )
        if size > max_bytes:
            raise too_large("The row group", size, max_bytes)
        return parquet.read_row_group(group, columns=[name])[name]
