"""Parquet datasets with a filter, `FOLDER?filter=...`: the rows that it keeps; filters are those of Iceberg tables.

Hive partitions (`day=2026-11-24/`) are columns. Files whose partition, and row groups whose statistics, exclude all
rows are not read; of the others only the needed columns are.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import accumulate
from typing import TYPE_CHECKING
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from musc_ray.errors import MuscRayError
from musc_ray.settings.columns import USUAL, ColumnNames
from musc_ray.sources.base import ListedFile, Source
from musc_ray.sources.columns import find_columns, kinds_of, no_columns
from musc_ray.sources.images import Entry, ListedImage, Skipped, Unreadable
from musc_ray.sources.names import is_image_name
from musc_ray.sources.parquet_images import HIDDEN, named_errors, stored_images, uri_of_images
from musc_ray.sources.partitions import partition_schema, partition_values, table_folder
from musc_ray.sources.row_filter import arrow_condition, in_utc
from musc_ray.sources.rows import RowTable, named_image, rows_of
from musc_ray.sources.walk import may_hold_files, walk_files
from musc_ray.storage.filesystem import open_filesystem

if TYPE_CHECKING:
    import pyarrow.dataset as ds

FILTER = "?filter="
UNKNOWN = datetime.min.replace(tzinfo=UTC)

ROW_NUMBER = "#row"
"""Column of a row's number in its file while a filter is applied."""


class DatasetSource(Source):
    """The rows of a Parquet file, folder or glob that a filter keeps: URIs, or images."""

    def __init__(self, text: str, columns: ColumnNames = USUAL) -> None:
        super().__init__(text, columns)
        self.folder, _, row_filter = text.partition(FILTER)
        self.row_filter = unquote(row_filter) or "true"

    @classmethod
    def recognises(cls, text: str) -> bool:
        """Return whether a SOURCE has a filter."""
        return FILTER in text

    def may_hold_images(self) -> bool:
        """Look at the place before the filter; see `Source.may_hold_images`."""
        return may_hold_files(*open_filesystem(self.folder))

    def walked(self) -> str:
        """Return the folder or glob before the filter; see `Source.walked`."""
        return self.folder

    def entries(self) -> Iterator[Entry]:
        """List the images of the rows that the filter keeps, a row group in memory at a time; then all other files.

        Raises:
            SettingsError: the filter does not fit, or the extra `lake` is not installed.
            MuscRayError: there are no Parquet files, or one is not a readable table.
        """
        fs, path = open_filesystem(self.folder)
        files = _Files.below(fs, path)
        try:
            for entry in _kept_images(fs, files, self.row_filter, self.columns):
                if isinstance(entry, ListedImage):
                    files.images.pop(entry.uri, None)
                yield entry
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise MuscRayError(f"The Parquet files in {path} cannot be read as one table: {error}") from error
        yield from files.others
        for uri in files.images:
            yield Skipped(uri, "other", "A filter keeps rows of Parquet tables, and none of them names this file.")


@dataclass(frozen=True)
class _Files:
    """What lies in a folder of tables.

    Attributes:
        base: the folder that partitions are named below.
        tables: Parquet files by path, the newest first.
        images: URIs of image files, which rows may name.
        others: all else.
    """

    base: str
    tables: dict[str, ListedFile]
    images: dict[str, None] = field(default_factory=dict)
    others: list[Skipped | Unreadable] = field(default_factory=list)

    @classmethod
    def below(cls, fs: fsspec.AbstractFileSystem, path: str) -> "_Files":
        """Find the files."""
        tables: list[ListedFile] = []
        images: dict[str, None] = {}
        others: list[Skipped | Unreadable] = []
        for found in walk_files(fs, path):
            if not isinstance(found, ListedFile):
                others.append(found)
            elif HIDDEN.search(found.relative):
                others.append(Skipped(found.uri, "hidden", "It is in a folder of logs or leftovers."))
            elif found.path.endswith(".parquet"):
                tables.append(found)
            elif is_image_name(found.path):
                images[found.uri] = None
            else:
                others.append(Skipped(found.uri, "other", "A filter keeps rows of Parquet tables; this is not one."))
        if not tables:
            raise MuscRayError(f"There are no Parquet files in {path}: a filter is for a table or a folder of tables.")
        base = tables[0].path[: len(tables[0].path) - len(tables[0].relative)].rstrip("/")
        tables.sort(key=lambda file: file.modified or UNKNOWN, reverse=True)
        return cls(base, {file.path: file for file in tables}, images, others)


def _kept_images(fs: fsspec.AbstractFileSystem, files: _Files, row_filter: str, wanted: ColumnNames) -> Iterator[Entry]:
    """List the images of the rows that a filter keeps; it may name the columns of the newest file."""
    import pyarrow.dataset as ds  # here: it imports pandas where that is installed, which takes a second

    partitions = {path: partition_values(file.relative) for path, file in files.tables.items()}
    storage, parquet = pafs.PyFileSystem(pafs.FSSpecHandler(fs)), ds.ParquetFileFormat()
    newest = parquet.inspect(next(iter(files.tables)), storage)
    hive = ds.HivePartitioning(partition_schema(partitions.values(), newest))
    options = ds.FileSystemFactoryOptions(files.base, partitioning=hive)
    factory = ds.FileSystemDatasetFactory(storage, list(files.tables), parquet, options)
    dataset = factory.finish(in_utc(factory.inspect()))
    condition, names = arrow_condition(row_filter, dataset.schema, files.base)
    for fragment in sorted(dataset.get_fragments(filter=condition), key=lambda fragment: str(fragment.path)):
        file, schema = files.tables[fragment.path], fragment.physical_schema
        kinds = kinds_of(schema, partitions[file.path])
        columns = find_columns(kinds, wanted, file.path)
        needed = names.union(columns.of_rows if columns else ())
        with named_errors(file):
            for kept, numbers in _kept_rows(fragment, dataset.schema, condition, needed):
                if columns is None:
                    raise MuscRayError(no_columns(kinds, wanted, file.path))
                rows = rows_of(kept, columns, partitions[file.path], numbers)
                if columns.image is not None:
                    yield from stored_images(file, rows, uri_of_images(file, columns.image, schema))
                else:
                    table = RowTable.beside(fs, file.path, table_folder(file.path, file.relative))
                    yield from (named_image(table, row) for row in rows)


def _kept_rows(
    fragment: "ds.ParquetFileFragment", schema: pa.Schema, condition: pc.Expression, needed: Collection[str]
) -> Iterator[tuple[pa.Table, list[int]]]:
    """Read the rows of one file that a filter keeps, with their numbers; columns that the newest file lacks, too."""
    schema = pa.unify_schemas([schema, in_utc(fragment.physical_schema)], promote_options="permissive")
    columns = [name for name in schema.names if name in needed]
    starts = [0, *accumulate(group.num_rows for group in fragment.row_groups)]
    for part in fragment.split_by_row_group(condition, schema):
        (group,) = part.row_groups
        table = part.to_table(schema=schema, columns=columns)
        numbers = pa.array(range(starts[group.id], starts[group.id + 1]))
        kept = table.append_column(ROW_NUMBER, numbers).filter(condition)
        if kept.num_rows:
            yield kept, kept[ROW_NUMBER].to_pylist()
