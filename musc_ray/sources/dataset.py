"""Parquet datasets with a filter, `FOLDER?filter=...`: the rows that it keeps; filters are those of Iceberg tables.

Hive partitions (`day=2026-11-24/`) are columns. Files whose partition, and row groups whose statistics, exclude all
rows are not read; of the others only the needed columns are.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from musc_ray.errors import MuscRayError
from musc_ray.sources.base import ListedFile, Source
from musc_ray.sources.images import Entry, ListedImage
from musc_ray.sources.parquet_images import image_column, stored_image
from musc_ray.sources.row_filter import arrow_condition
from musc_ray.sources.rows import COLUMNS, Row, columns_to_read, named_image
from musc_ray.sources.walk import walk_files
from musc_ray.storage.filesystem import open_filesystem

FILTER = "?filter="
HIDDEN = re.compile(r"/[._]")
"""Below a dataset: logs and leftovers of those who write it."""
UNKNOWN = datetime.min.replace(tzinfo=UTC)

ROW_NUMBER = "#row"
"""Column of a row's number in its file while a filter is applied."""


class DatasetSource(Source):
    """The rows of a Parquet file, folder or glob that a filter keeps: URIs, relative ones to the folder, or images."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.folder, _, row_filter = text.partition(FILTER)
        self.row_filter = unquote(row_filter) or "true"

    @classmethod
    def recognises(cls, text: str) -> bool:
        """Return whether a SOURCE has a filter."""
        return FILTER in text

    def walked(self) -> str:
        """Return the folder or glob before the filter; see `Source.walked`."""
        return self.folder

    def entries(self) -> Iterator[Entry]:
        """List the images of the rows that the filter keeps, a row group in memory at a time.

        Raises:
            SettingsError: the filter does not fit, or the extra `lake` is not installed.
            MuscRayError: there are no Parquet files, or one is not a readable table.
        """
        fs, path = open_filesystem(self.folder)
        base, files = _tables(fs, path)
        try:
            yield from _kept_images(fs, files, base, self.row_filter)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise MuscRayError(f"The Parquet files in {base} cannot be read as one table: {error}") from error


def _tables(fs: fsspec.AbstractFileSystem, path: str) -> tuple[str, dict[str, ListedFile]]:
    """Return the folder that partitions are named below, and its Parquet files by path, the newest first."""
    files = [
        found
        for found in walk_files(fs, path)
        if isinstance(found, ListedFile) and found.path.endswith(".parquet") and not HIDDEN.search(f"/{found.relative}")
    ]
    if not files:
        raise MuscRayError(f"There are no Parquet files in {path}: a filter is for a table or a folder of tables.")
    base = files[0].path[: len(files[0].path) - len(files[0].relative)].rstrip("/")
    files.sort(key=lambda file: file.modified or UNKNOWN, reverse=True)
    return base, {file.path: file for file in files}


def _kept_images(
    fs: fsspec.AbstractFileSystem, files: Mapping[str, ListedFile], base: str, row_filter: str
) -> Iterator[ListedImage]:
    """List the images of the rows that a filter keeps; it may name the columns of the newest file."""
    dataset = ds.FileSystemDatasetFactory(
        pafs.PyFileSystem(pafs.FSSpecHandler(fs)),
        list(files),
        ds.ParquetFileFormat(),
        ds.FileSystemFactoryOptions(base, partitioning=ds.HivePartitioning.discover()),
    ).finish()
    wanted, names = arrow_condition(row_filter, dataset.schema, base)
    for fragment in sorted(dataset.get_fragments(filter=wanted), key=lambda fragment: str(fragment.path)):
        holds_images = image_column(fragment.physical_schema) is not None
        for number, row in _kept_rows(fragment, dataset.schema, wanted, names):
            if holds_images:
                yield stored_image(files[fragment.path], number, row)
            else:
                columns_to_read(row, fragment.path)
                yield named_image(fs, f"{base}/", row)


def _kept_rows(
    fragment: ds.ParquetFileFragment, schema: pa.Schema, wanted: pc.Expression, names: set[str]
) -> Iterator[tuple[int, Row]]:
    """Read the rows of one file that a filter keeps, with their numbers; columns that the newest file lacks, too."""
    schema = pa.unify_schemas([schema, fragment.physical_schema], promote_options="permissive")
    columns = [name for name in schema.names if name in names or name in COLUMNS]
    starts = [0, *accumulate(group.num_rows for group in fragment.row_groups)]
    for part in fragment.split_by_row_group(wanted, schema):
        (group,) = part.row_groups
        table = part.to_table(schema=schema, columns=columns)
        numbers = pa.array(range(starts[group.id], starts[group.id + 1]))
        kept = table.append_column(ROW_NUMBER, numbers).filter(wanted)
        rows = kept.select([name for name in columns if name in COLUMNS]).to_pylist()
        yield from zip(kept[ROW_NUMBER].to_pylist(), rows, strict=True)
