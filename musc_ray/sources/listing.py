"""What a source holds: folders, prefixes, globs, tables of URIs or image bytes, tar shards, tables of the lake."""

import csv
import re
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from musc_ray.errors import MuscRayError
from musc_ray.settings.redact import carries_secret, redacted
from musc_ray.sources.dataset import FILTER, dataset_rows
from musc_ray.sources.iceberg import SCHEME, rows
from musc_ray.sources.images import DEFAULT_GROUP, ListedImage
from musc_ray.sources.reading import image_column, tar_members
from musc_ray.storage.file_info import file_time, file_version
from musc_ray.storage.filesystem import open_filesystem, uri_beside

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
HIDDEN = re.compile(r"/[._]")
"""Below a dataset: logs and leftovers of those who write it."""
UNKNOWN = datetime.min.replace(tzinfo=UTC)
ROWS_AT_ONCE = 65_536


def list_source(source: str) -> Iterator[ListedImage]:
    """Every image of a source.

    Raises:
        MuscRayError: no such source, or one that cannot be read.
    """
    if source.startswith(SCHEME):
        yield from _lake_images(source)
        return
    given, _, row_filter = source.partition(FILTER)
    fs, path = open_filesystem(given)
    try:
        if row_filter:
            yield from _dataset_images(fs, path, unquote(row_filter))
        elif path.lower().endswith(".csv"):
            yield from _table_of_uris(fs, path, _csv_rows(fs, path))
        else:
            yield from _files(fs, path)
    except FileNotFoundError as error:
        raise MuscRayError(f"There is nothing at {source}: give an existing folder, URI, glob or table.") from error
    except MuscRayError:
        raise
    except Exception as error:  # drivers of object stores raise errors of many libraries
        reason = " ".join(str(error).split()) or type(error).__name__
        raise MuscRayError(f"Cannot list {source}: {reason.rstrip('.')}.") from error


def _below(fs: fsspec.AbstractFileSystem, path: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """The folder and the files, with what the filesystem says of them, of a folder, prefix, glob or single file."""
    if fs.isfile(path):
        return str(PurePosixPath(path).parent), {path: fs.info(path)}
    if not fs.exists(path) and any(sign in path for sign in "*?["):
        return re.split(r"[^/]*[*?\[]", path, maxsplit=1)[0], fs.glob(path, detail=True)
    found = fs.find(path, detail=True)
    if not found and not fs.exists(path):
        raise FileNotFoundError(path)
    return path, found


def _files(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[ListedImage]:
    """Images among the files of a folder, prefix, glob or single file, and in the containers among them."""
    base, found = _below(fs, path)
    single = list(found) == [path]
    for name, info in found.items():
        relative = name[len(base) :].lstrip("/") if name.startswith(base) else name
        suffix = PurePosixPath(name).suffix.lower()
        if info.get("type") == "directory":
            continue
        if suffix in IMAGE_SUFFIXES:
            yield ListedImage(
                str(fs.unstrip_protocol(name)), relative, DEFAULT_GROUP, file_version(info), file_time(info)
            )
        elif suffix == ".tar":
            yield from _tar_images(fs, name, relative, info)
        elif suffix == ".parquet":
            yield from _parquet_images(fs, name, relative, info, single)


def _tar_images(fs: fsspec.AbstractFileSystem, path: str, relative: str, info: dict[str, Any]) -> Iterator[ListedImage]:
    """The image members of a WebDataset shard or any other uncompressed tar."""
    container, version = str(fs.unstrip_protocol(path)), file_version(info)
    for member, (offset, size) in tar_members(fs, path).items():
        if PurePosixPath(member).suffix.lower() in IMAGE_SUFFIXES:
            yield ListedImage(
                f"{container}#{member}",
                f"{relative}/{member}",
                DEFAULT_GROUP,
                f"{version}-{offset}-{size}",
                file_time(info),
            )


def _parquet_images(
    fs: fsspec.AbstractFileSystem, path: str, relative: str, info: dict[str, Any], single: bool
) -> Iterator[ListedImage]:
    """A Parquet file as a table of image bytes or, given as the source itself, of URIs."""
    with fs.open(path, "rb") as file:
        try:
            parquet = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise MuscRayError(f"{path} is not a readable Parquet table: {error}") from error
        names = parquet.schema_arrow.names
        if image_column(parquet.schema_arrow) is None:
            if single:
                columns = _columns_of_uris(names, path)
                yield from _table_of_uris(fs, path, _parquet_rows(parquet, columns))
            return
        found = _parquet_rows(parquet, ["group"]) if "group" in names else iter([{}] * parquet.metadata.num_rows)
        for number, row in enumerate(found):
            yield _row_image(fs, path, relative, info, number, row)


def _row_image(
    fs: fsspec.AbstractFileSystem, path: str, relative: str, info: dict[str, Any], number: int, row: dict[str, Any]
) -> ListedImage:
    """The image in a row of a Parquet file."""
    uri, version = f"{fs.unstrip_protocol(path)}#row={number}", f"{file_version(info)}-{number}"
    return ListedImage(uri, f"{relative}/{number}", _group(row), version, file_time(info))


def _group(row: dict[str, Any]) -> str:
    return sys.intern(str(row.get("group") or DEFAULT_GROUP))  # one object for a million rows


def _table_of_uris(fs: fsspec.AbstractFileSystem, path: str, found: Iterator[dict[str, Any]]) -> Iterator[ListedImage]:
    """Every row of a table with a `uri` column (optional `group`, `version`); relative URIs lie beside the table."""
    for row in found:
        yield _named_image(fs, path, row)


def _named_image(fs: fsspec.AbstractFileSystem, path: str, row: dict[str, Any]) -> ListedImage:
    """The image that a row names."""
    given = str(row["uri"])
    _check_secrets(path, given)
    return ListedImage(uri_beside(fs, path, given), given, _group(row), str(row.get("version") or ""))


def _dataset_images(fs: fsspec.AbstractFileSystem, path: str, row_filter: str) -> Iterator[ListedImage]:
    """The rows of Parquet files that a filter leaves: URIs, relative ones to the folder, or image bytes."""
    base, found = _below(fs, path)
    base = base.rstrip("/")
    tables = (name for name in found if name.endswith(".parquet") and not HIDDEN.search(name, len(base)))
    files = {name: found[name] for name in tables}
    if not files:
        raise MuscRayError(f"There are no Parquet files in {path}: a filter is for a table or a folder of tables.")
    newest_first = sorted(files, key=lambda name: file_time(files[name]) or UNKNOWN, reverse=True)
    for row in dataset_rows(fs, newest_first, base, row_filter):
        if row.holds_image:
            yield _row_image(fs, row.path, row.path[len(base) + 1 :], files[row.path], row.number, row.values)
        else:
            _columns_of_uris(list(row.values), row.path)
            yield _named_image(fs, f"{base}/", row.values)


def _check_secrets(table: str, uri: str) -> None:
    """Refuse a URI with a password or a signature: all tables of results would have it, and it would soon expire."""
    if carries_secret(uri):
        raise MuscRayError(
            f"The table {table} names {redacted(uri)}, which carries credentials: name files without, and give "
            f"credentials in the environment."
        )


def _lake_images(source: str) -> Iterator[ListedImage]:
    """Every row of an Iceberg table; its URIs must be whole, since they lie beside nothing."""
    for row in rows(source):
        given = str(row["uri"])
        _check_secrets(source, given)
        if "://" not in given and not given.startswith("/"):
            raise MuscRayError(f"The table of {source} has the uri {given!r}: store whole URIs, or absolute paths.")
        uri = given if "://" in given else f"file://{given}"  # as fsspec has it: nothing is encoded
        yield ListedImage(uri, given, _group(row), str(row.get("version") or ""))


def _parquet_rows(parquet: pq.ParquetFile, columns: list[str]) -> Iterator[dict[str, Any]]:
    for batch in parquet.iter_batches(ROWS_AT_ONCE, columns=columns):
        yield from batch.to_pylist()


def _csv_rows(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[dict[str, Any]]:
    with fs.open(path, "r", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        _columns_of_uris(list(reader.fieldnames or []), path)
        yield from reader


def _columns_of_uris(names: list[str], path: str) -> list[str]:
    if "uri" not in names:
        raise MuscRayError(
            f"The table {path} has no column 'uri' and none with image bytes: name the column with the paths 'uri'."
        )
    return [name for name in ("uri", "group", "version") if name in names]
