"""Tables of URIs: a CSV or Parquet file with a column `uri` (optional `group`, `version`), a row an image."""

import csv
from collections.abc import Iterator
from pathlib import PurePosixPath

import fsspec

from musc_ray.sources.base import Source
from musc_ray.sources.files import FilesSource
from musc_ray.sources.images import Entry
from musc_ray.sources.parquet_images import image_column, open_parquet, read_rows
from musc_ray.sources.rows import Row, columns_to_read, named_image
from musc_ray.storage.filesystem import open_filesystem
from musc_ray.storage.listing import is_file

SUFFIXES = (".csv", ".parquet")


class TableSource(Source):
    """A CSV or Parquet file that is given as the source itself; relative URIs are beside it."""

    @classmethod
    def recognises(cls, text: str) -> bool:
        """Return whether a SOURCE ends as a table's name does."""
        return PurePosixPath(text).suffix.lower() in SUFFIXES

    def entries(self) -> Iterator[Entry]:
        """List the images that the rows name; of a folder, glob or table of images with such a name, its images."""
        fs, path = open_filesystem(self.text)
        if not is_file(fs, path):
            yield from FilesSource(self.text).entries()
        elif path.lower().endswith(".csv"):
            for row in _csv_rows(fs, path):
                yield named_image(fs, path, row)
        else:
            yield from _parquet_images(fs, path, self.text)


def _parquet_images(fs: fsspec.AbstractFileSystem, path: str, source: str) -> Iterator[Entry]:
    with fs.open(path, "rb") as file:
        parquet = open_parquet(file, path)
        if image_column(parquet.schema_arrow) is None:
            for row in read_rows(parquet, columns_to_read(parquet.schema_arrow.names, path)):
                yield named_image(fs, path, row)
            return
    yield from FilesSource(source).entries()


def _csv_rows(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Row]:
    with fs.open(path, "r", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        columns_to_read(reader.fieldnames or (), path)
        yield from reader
