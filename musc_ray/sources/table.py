"""Tables that are given as the source itself: CSV files of URIs, and Parquet files of URIs or images."""

from collections.abc import Iterator
from pathlib import PurePosixPath

import fsspec
import pyarrow as pa

from musc_ray.errors import MuscRayError
from musc_ray.sources.base import ListedFile, Source
from musc_ray.sources.columns import Columns, need_columns
from musc_ray.sources.csv_rows import read_csv_rows
from musc_ray.sources.files import FilesSource
from musc_ray.sources.images import DEFAULT_GROUP, Entry, Skipped
from musc_ray.sources.parquet_images import list_parquet
from musc_ray.sources.rows import Row, RowTable, broken_row, named_image
from musc_ray.sources.walk import may_hold_files, walk_files
from musc_ray.storage.filesystem import open_filesystem
from musc_ray.storage.listing import is_file

CSV_SUFFIXES = (".csv", ".tsv")


class TableSource(Source):
    """A CSV or Parquet file; relative URIs are beside it."""

    @classmethod
    def recognises(cls, text: str) -> bool:
        """Return whether a SOURCE ends as a table's name does."""
        return PurePosixPath(text).suffix.lower() in (*CSV_SUFFIXES, ".parquet")

    def may_hold_images(self) -> bool:
        """Look whether there is such a file, or folder with files; see `Source.may_hold_images`."""
        return may_hold_files(*open_filesystem(self.text))

    def entries(self) -> Iterator[Entry]:
        """List the rows; of a folder or glob with such a name, its files.

        Raises:
            MuscRayError: no column holds images or URIs, the table has no rows, or the file is broken.
        """
        fs, path = open_filesystem(self.text)
        if not is_file(fs, path):
            yield from FilesSource(self.text, self.columns).entries()
        elif path.lower().endswith(CSV_SUFFIXES):
            yield from _some(self._of_csv(fs, path), path)
        else:
            yield from _some(self._of_parquet(fs, path), path)

    def _of_parquet(self, fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Entry]:
        for file in walk_files(fs, path):
            if not isinstance(file, ListedFile):
                yield file
                continue
            for entry in list_parquet(file, self.columns):
                if isinstance(entry, Skipped):
                    raise MuscRayError(entry.message)
                yield entry

    def _of_csv(self, fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Entry]:
        table = RowTable.beside(fs, path, path.rpartition("/")[0])
        wanted = self.columns
        names = tuple({wanted.named or "uri", wanted.group or "group", wanted.version or "version"})
        columns: Columns | None = None
        for number, (line, values) in enumerate(read_csv_rows(fs, path, names)):
            row = Row(number, None, None, "", line)
            if isinstance(values, str):
                yield broken_row(table, row, values)
                continue
            if columns is None:
                columns = need_columns(dict.fromkeys(values, pa.string()), wanted, path)
            group = DEFAULT_GROUP if columns.group is None else values[columns.group]
            version = "" if columns.version is None else values[columns.version]
            yield named_image(table, row._replace(uri=values[columns.uri or ""], group=group, version=version))


def _some(entries: Iterator[Entry], path: str) -> Iterator[Entry]:
    first = next(entries, None)
    if first is None:
        raise MuscRayError(f"No images found in {path}: the table has no rows.")
    yield first
    yield from entries
