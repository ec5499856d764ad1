"""Iceberg tables: `iceberg://CATALOG/NAMESPACE.TABLE?filter=...`, a row an image."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import pyarrow as pa

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.lake.catalog import open_catalog, open_table
from musc_ray.settings.columns import ColumnNames
from musc_ray.sources.base import Source
from musc_ray.sources.columns import IMAGE_COLUMNS, Columns, kinds_of, need_columns
from musc_ray.sources.images import Entry
from musc_ray.sources.row_filter import filter_errors, filter_sentence, parse_condition
from musc_ray.sources.rows import RowTable, named_image, rows_of
from musc_ray.storage.filesystem import whole_uri

if TYPE_CHECKING:
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

    def may_hold_images(self) -> bool:
        """Open the table, which may be empty for now; see `Source.may_hold_images`."""
        _open(parse_source(self.text))
        return True

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
        return IcebergSource(text if after is None else f"{text}&after={after}", self.columns)

    def entries(self) -> Iterator[Entry]:
        """List the images of the rows; files and row groups that the filter excludes are not read.

        Raises:
            SettingsError: no such catalog or snapshot, or a filter that does not fit the table.
            MuscRayError: no such table, one without a column of URIs, or URIs that carry credentials.
        """
        wanted = parse_source(self.text)
        table = _open(wanted)
        columns = _columns(table, self.columns, wanted.table)
        if wanted.snapshot is not None and table.snapshot_by_id(wanted.snapshot) is None:
            raise SettingsError(
                f"The Iceberg table {wanted.table} has no snapshot {wanted.snapshot}: it may have expired; take one of "
                f"the table's history."
            )
        rows = RowTable(self.text, _whole)
        first = 0
        for batch in _scan(table, wanted, tuple(columns.of_rows)):
            for row in rows_of(batch, columns, {}, range(first, first + batch.num_rows)):
                yield named_image(rows, row)
            first += batch.num_rows


def _columns(table: "Table", wanted: ColumnNames, name: str) -> Columns:
    """Find the columns of URIs, groups and versions.

    Raises:
        MuscRayError: none holds URIs; rows of Iceberg tables have no place that images could be read from.
    """
    if wanted.image is not None:
        raise MuscRayError("Setting 'column' names image bytes, but Iceberg tables are read for URIs: give uri=NAME.")
    kinds = kinds_of(table.schema().as_arrow())
    if wanted.named is None:
        kinds = {column: kind for column, kind in kinds.items() if column.casefold() not in IMAGE_COLUMNS}
    return need_columns(kinds, wanted._replace(data=None, uri=wanted.named), name)


def _whole(given: str) -> str:
    """Return the URI of an image.

    Raises:
        MuscRayError: it is relative.
    """
    whole = whole_uri(f"file://{given}" if given.startswith("/") else given)  # as fsspec has it: nothing is encoded
    if whole is not None:
        return whole
    raise MuscRayError(f"{given!r} is relative to nothing: store whole URIs, or absolute paths.")


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
        condition = parse_condition(row_filter, table.schema())
        if wanted.after is not None and _only_appended(table, wanted.after, wanted.snapshot):
            appended = table.incremental_append_scan(
                from_snapshot_id_exclusive=wanted.after,
                to_snapshot_id_inclusive=wanted.snapshot,
                row_filter=condition,
                selected_fields=columns,
            )
            return iter(appended.to_arrow_batch_reader())
        whole = table.scan(row_filter=condition, selected_fields=columns, snapshot_id=wanted.snapshot)
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
