"""Parquet files read and written whole through fsspec."""

from collections.abc import Sequence

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import atomic_file
from musc_ray.storage.requests import in_turn


def write_table(fs: fsspec.AbstractFileSystem, path: str, table: pa.Table) -> None:
    """Write a table atomically, zstd-compressed, its schema as given."""
    with atomic_file(fs, path) as partial:
        pq.write_table(table, partial, compression="zstd")


@in_turn
def read_table(fs: fsspec.AbstractFileSystem, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a table, or some of its columns.

    Raises:
        MuscRayError: the file is not a readable Parquet file or lacks a column.
        FileNotFoundError: no such file.
    """
    with fs.open(path, "rb") as file:
        try:
            return pq.ParquetFile(file).read(columns=list(columns) if columns is not None else None)
        except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
            raise MuscRayError(f"{path} is not a readable Parquet table: {error}") from error
