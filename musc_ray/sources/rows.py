"""A row of a table as an image: by the URI that it names, or by the image bytes that it holds.

Values keep their meaning: the group 0 is `0`, `001` is `001`, 3.0 is `3`; a missing value is an error of its row.
"""

import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa

from musc_ray.errors import MuscRayError
from musc_ray.settings.credentials import carries_secret, redacted
from musc_ray.sources.columns import Columns, is_binary, is_text
from musc_ray.sources.images import DEFAULT_GROUP, Entry, ListedImage, Unreadable
from musc_ray.sources.partitions import Partitions
from musc_ray.storage.filesystem import uri_beside

WHOLE_SECONDS = re.compile(r"\.0+(?=Z|$)")
"""What a time of whole seconds shows of its unit."""

Value = str | bytes | None
"""A value as text; bytes are not UTF-8."""


class Row(NamedTuple):
    """What is read of a row.

    Attributes:
        number: of the row in its table, from 0.
        uri, group, version: None where the value is missing; `group` is the default one if the table has no groups.
        line: number of its line, in a CSV file.
    """

    number: int
    uri: Value
    group: Value
    version: Value = ""
    line: int | None = None


class RowTable(NamedTuple):
    """A table whose rows are listed.

    Attributes:
        uri: its own.
        locate: returns the URI that a URI of a row means; raises MuscRayError where it means none.
    """

    uri: str
    locate: Callable[[str], str]

    @classmethod
    def beside(cls, fs: fsspec.AbstractFileSystem, path: str, folder: str) -> "RowTable":
        """Return a table whose relative URIs start from a folder."""
        return cls(str(fs.unstrip_protocol(path)), lambda given: uri_beside(fs, f"{folder}/", given))


def rows_of(
    table: pa.Table | pa.RecordBatch, columns: Columns, partitions: Partitions, numbers: "range | list[int]"
) -> Iterator[Row]:
    """Read the rows of a part of a table.

    Args:
        table: with the columns that are no partitions.
        columns: which hold what.
        partitions: values that all rows share.
        numbers: of the rows.

    Raises:
        MuscRayError: the groups or versions are lists, structs, or the like.
    """

    def values(name: str | None, default: Value) -> list[Value]:
        if name is None:
            return [default] * len(numbers)
        if name in partitions:
            return [partitions[name]] * len(numbers)
        return texts(table.column(name), name)

    parts = (values(columns.uri, None), values(columns.group, DEFAULT_GROUP), values(columns.version, ""))
    yield from map(Row, numbers, *parts)


def named_image(table: RowTable, row: Row) -> Entry:
    """Return the image whose URI a row holds.

    Raises:
        MuscRayError: the URI carries credentials.
    """
    uri = row.uri
    if isinstance(uri, bytes):
        return _unreadable(table, row, "has a uri that is not UTF-8 text")
    if uri is None or not uri.strip():
        return _unreadable(table, row, "names no uri")
    check_secrets(table.uri, uri)
    try:
        image = ListedImage(table.locate(uri), _relative(uri), "", str_or_empty(row.version))
    except MuscRayError as error:
        return _unreadable(table, row, f"names no file: {error}")
    return grouped(image, row)


def grouped(image: ListedImage, row: Row) -> Entry:
    """Return an image with the group of its row, or the row as unreadable if it names none."""
    group = row.group
    if isinstance(group, bytes) or group is None or not group.strip():
        what = "has a group that is not UTF-8 text" if isinstance(group, bytes) else "names no group"
        message = f"{_place(row)} {what}, and the table has a column of groups: fill it in."
        return Unreadable(image.uri, image.relative, "", "RowError", message)
    return image._replace(group=sys.intern(group))  # one object for a million rows


def broken_row(table: RowTable, row: Row, message: str) -> Unreadable:
    """Return a row of which no value is known."""
    return Unreadable(f"{table.uri}#row={row.number}", f"row {row.number}", "", "RowError", message)


def check_secrets(table: str, uri: str) -> None:
    """Refuse a URI with a password or a signature: all tables of results would have it, and it would soon expire.

    Raises:
        MuscRayError: it carries credentials.
    """
    if carries_secret(uri):
        raise MuscRayError(
            f"The table {table} names {redacted(uri)}, which carries credentials: name files without, and give "
            f"credentials in the environment."
        )


def str_or_empty(value: Value) -> str:
    """Return a version as text; empty where it is missing."""
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value or ""


def texts(column: pa.ChunkedArray | pa.Array, name: str) -> list[Value]:
    """Return the values of a column as text: whole numbers without a fraction, NaN as missing.

    Raises:
        MuscRayError: its type has no text.
    """
    kind = column.type
    if pa.types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if is_text(kind):
        try:
            return list(column.to_pylist())
        except UnicodeDecodeError:  # Parquet files may hold what is not UTF-8
            return [_decoded(value) for value in column.cast(pa.large_binary()).to_pylist()]
    if is_binary(kind):
        padded = pa.types.is_fixed_size_binary(kind)
        return [_decoded(value.rstrip(b"\0") if padded and value else value) for value in column.to_pylist()]
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.timestamp(kind.unit, "UTC"))  # as filters read it
    try:
        shown = column.cast(pa.string()).to_pylist()
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid) as error:
        raise MuscRayError(
            f"The column '{name}' holds {kind}, which is neither text nor a number or time: name another one with the "
            f"setting 'column'."
        ) from error
    if pa.types.is_floating(kind):
        return [_number(value, text) for value, text in zip(column.to_pylist(), shown, strict=True)]
    if pa.types.is_timestamp(kind):
        return [None if text is None else WHOLE_SECONDS.sub("", text) for text in shown]
    return list(shown)


def _number(value: Any, text: str | None) -> str | None:
    """Return a float as text: 3.0 is 3, since a column of whole numbers with gaps becomes one of floats in pandas."""
    if value is None or value != value:
        return None
    return str(int(value)) if float(value).is_integer() else text


def _decoded(value: bytes | None) -> Value:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return value


def _relative(uri: str) -> str:
    """Return the path that groups are named from: of a relative URI without `.` and with `/` between its folders."""
    if "://" in uri or uri.startswith("/"):
        return uri
    return posixpath.normpath(uri.replace("\\", "/"))


def _unreadable(table: RowTable, row: Row, what: str) -> Unreadable:
    group = row.group if isinstance(row.group, str) else ""
    return broken_row(table, row, f"{_place(row)} {what.rstrip('.')}.")._replace(group=group)


def _place(row: Row) -> str:
    return f"Row {row.number} of the table" if row.line is None else f"Line {row.line} of the table"
