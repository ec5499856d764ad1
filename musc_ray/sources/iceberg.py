"""Iceberg tables: `iceberg://CATALOG/NAMESPACE.TABLE?filter=...`, a row an image."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.lake.catalog import open_catalog, open_table
from musc_ray.sources.base import Source
from musc_ray.sources.images import Entry, ListedImage
from musc_ray.sources.row_filter import filter_errors, filter_sentence
from musc_ray.sources.rows import COLUMNS, Row, check_secrets, row_group

if TYPE_CHECKING:
    import pyarrow as pa
    from pyiceberg.table import Table

SCHEME = "iceberg://"

OPTIONS = frozenset(("filter", "snapshot", "after"))

KEEP_OLD_ROWS = ("append", "replace")
"""Operations of snapshots that leave old rows as they were: rows were added, or files were compacted."""


class TableRows(NamedTuple):
    """The rows of an Iceberg table that a SOURCE names.

    Attributes:
        catalog: of the table.
        table: its name with its namespace.
        row_filter: a condition that rows must meet; None keeps all.
        snapshot: the rows of this snapshot; None for the present one.
        after: without the rows of this earlier snapshot; None keeps all.
    """

    catalog: str
    table: str
    row_filter: str | None
    snapshot: int | None
    after: int | None


class IcebergSource(Source):
    """The rows of an Iceberg table; their URIs must be whole, since they are relative to nothing."""

    @classmethod
    def recognises(cls, text: str) -> bool:
        """Return whether a SOURCE begins with iceberg://."""
        return text.startswith(SCHEME)

    def snapshot(self) -> int | None:
        """Return the snapshot that the source stands for now; None where its table is empty."""
        wanted = parse_source(self.text)
        found = _open(wanted).current_snapshot()
        return wanted.snapshot or (found.snapshot_id if found else None)

    def between(self, snapshot: int, after: int | None) -> "IcebergSource":
        """Return the source as of a snapshot, without the rows of an earlier one."""
        text = self.text
        if parse_source(text).snapshot is None:
            text += f"{'&' if '?' in text else '?'}snapshot={snapshot}"
        return IcebergSource(text if after is None else f"{text}&after={after}")

    def entries(self) -> Iterator[Entry]:
        """List the images of the rows; files and row groups that the filter excludes are not read.

        Raises:
            SettingsError: no such catalog or snapshot, or a filter that does not fit the table.
            MuscRayError: no such table, one without a column `uri`, or URIs that are relative or carry credentials.
        """
        wanted = parse_source(self.text)
        table = _open(wanted)
        names = table.schema().column_names
        if "uri" not in names:
            raise MuscRayError(f"The Iceberg table {wanted.table} has no column 'uri': name the column of paths 'uri'.")
        if wanted.snapshot is not None and table.snapshot_by_id(wanted.snapshot) is None:
            raise SettingsError(
                f"The Iceberg table {wanted.table} has no snapshot {wanted.snapshot}: it may have expired; take one of "
                f"the table's history."
            )
        for batch in _scan(table, wanted, tuple(name for name in COLUMNS if name in names)):
            for row in batch.to_pylist():
                yield self._image(row)

    def _image(self, row: Row) -> ListedImage:
        given = str(row["uri"])
        check_secrets(self.text, given)
        if "://" not in given and not given.startswith("/"):
            raise MuscRayError(f"The table of {self.text} has the uri {given!r}: store whole URIs, or absolute paths.")
        uri = given if "://" in given else f"file://{given}"  # as fsspec has it: nothing is encoded
        return ListedImage(uri, given, row_group(row), str(row.get("version") or ""))


def parse_source(source: str) -> TableRows:
    """Parse an `iceberg://` URI.

    Raises:
        SettingsError: a part is missing or unknown.
    """
    path, _, query = source.removeprefix(SCHEME).partition("?")
    catalog, _, table = unquote(path).partition("/")
    options = dict(option.partition("=")[::2] for option in query.split("&") if option)
    if not catalog or "." not in table or options.keys() - OPTIONS:
        raise SettingsError(
            f"The source {source} is not a table: write iceberg://CATALOG/NAMESPACE.TABLE, perhaps with "
            f"?filter=day >= '2026-11-23' or ?snapshot=ID."
        )
    numbers = {name: options[name] for name in ("snapshot", "after") if name in options}
    for name, text in numbers.items():
        if not text.isdecimal():
            raise SettingsError(f"The {name} of source {source} is not a number: take one of the table's history.")
    row_filter = unquote(options["filter"]) if "filter" in options else None
    snapshot, after = (int(numbers[name]) if name in numbers else None for name in ("snapshot", "after"))
    return TableRows(catalog, table, row_filter, snapshot, after)


def _open(wanted: TableRows) -> "Table":
    return open_table(open_catalog(wanted.catalog), wanted.table)


def _scan(table: "Table", wanted: TableRows, columns: tuple[str, ...]) -> "Iterator[pa.RecordBatch]":
    """Read some columns of the rows; only what was appended since `after` where nothing else happened since."""
    row_filter = wanted.row_filter or "true"
    try:
        if wanted.after is not None and _only_appended(table, wanted.after, wanted.snapshot):
            appended = table.incremental_append_scan(
                from_snapshot_id_exclusive=wanted.after,
                to_snapshot_id_inclusive=wanted.snapshot,
                row_filter=row_filter,
                selected_fields=columns,
            )
            return iter(appended.to_arrow_batch_reader())
        whole = table.scan(row_filter=row_filter, selected_fields=columns, snapshot_id=wanted.snapshot)
        return iter(whole.to_arrow_batch_reader())
    except filter_errors() as error:
        raise SettingsError(filter_sentence(row_filter, wanted.table, error)) from error


def _only_appended(table: "Table", after: int, snapshot: int | None) -> bool:
    """Return whether all snapshots since `after` kept old rows as they were; False if some of them expired."""
    found = table.current_snapshot() if snapshot is None else table.snapshot_by_id(snapshot)
    while found is not None and found.snapshot_id != after:
        if found.summary is None or found.summary.operation.value not in KEEP_OLD_ROWS:
            return False
        found = None if found.parent_snapshot_id is None else table.snapshot_by_id(found.parent_snapshot_id)
    return found is not None
