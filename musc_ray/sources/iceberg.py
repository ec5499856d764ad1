"""Images from an Iceberg table: `iceberg://CATALOG/NAMESPACE.TABLE?filter=...`, a row an image."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.lake.catalog import one_line, open_catalog, open_table

if TYPE_CHECKING:
    from pyiceberg.table import DataScan, IncrementalAppendScan, Table

SCHEME = "iceberg://"
COLUMNS = ("uri", "group", "version")
"""What is read of each row, where the table has it; `uri` it must have."""

LEAVE_OLD_ROWS = ("append", "replace")
"""Operations of snapshots after which old rows are as they were: rows came in, or files were compacted."""


class LakeSource(NamedTuple):
    """Which rows of which table: those of a snapshot (default: the present one) that came in after another."""

    catalog: str
    table: str
    row_filter: str | None
    snapshot: int | None
    after: int | None


def parse_source(source: str) -> LakeSource:
    """The parts of an `iceberg://` URI.

    Raises:
        SettingsError: it has others, or lacks some.
    """
    path, _, query = source.removeprefix(SCHEME).partition("?")
    catalog, _, table = unquote(path).partition("/")
    options = dict(option.partition("=")[::2] for option in query.split("&") if option)
    if not catalog or "." not in table or options.keys() - {"filter", "snapshot", "after"}:
        raise SettingsError(
            f"The source {source} is no table: write iceberg://CATALOG/NAMESPACE.TABLE, perhaps with "
            f"?filter=day >= '2026-11-23' or ?snapshot=ID."
        )
    numbers = {name: options[name] for name in ("snapshot", "after") if name in options}
    for name, text in numbers.items():
        if not text.isdecimal():
            raise SettingsError(f"The source {source} has a {name} that is no number: take one of the table's history.")
    row_filter = unquote(options["filter"]) if "filter" in options else None
    snapshot, after = (int(numbers[name]) if name in numbers else None for name in ("snapshot", "after"))
    return LakeSource(catalog, table, row_filter, snapshot, after)


def present_snapshot(source: str) -> int | None:
    """The snapshot that a source stands for now; None where its table is empty."""
    wanted = parse_source(source)
    found = _table(wanted).current_snapshot()
    return wanted.snapshot or (found.snapshot_id if found else None)


def between(source: str, snapshot: int, after: int | None) -> str:
    """A source as of a snapshot, without the rows that were there at an earlier one."""
    if parse_source(source).snapshot is None:
        source += f"{'&' if '?' in source else '?'}snapshot={snapshot}"
    return source if after is None else f"{source}&after={after}"


def rows(source: str) -> Iterator[dict[str, Any]]:
    """The rows of a source, only the columns that matter; files and row groups that its filter rules out are not read.

    Raises:
        SettingsError: no such catalog or snapshot, or a filter that does not fit the table.
        MuscRayError: no such table, or one without a column `uri`.
    """
    wanted = parse_source(source)
    table = _table(wanted)
    names = table.schema().column_names
    if "uri" not in names:
        raise MuscRayError(f"The Iceberg table {wanted.table} has no column 'uri': name the column with the paths so.")
    if wanted.snapshot is not None and table.snapshot_by_id(wanted.snapshot) is None:
        raise SettingsError(f"The Iceberg table {wanted.table} has no snapshot {wanted.snapshot}: was it expired?")
    columns, row_filter = tuple(name for name in COLUMNS if name in names), wanted.row_filter or "true"
    scan: DataScan | IncrementalAppendScan
    try:
        if wanted.after is not None and _only_appended(table, wanted.after, wanted.snapshot):
            scan = table.incremental_append_scan(
                from_snapshot_id_exclusive=wanted.after,
                to_snapshot_id_inclusive=wanted.snapshot,
                row_filter=row_filter,
                selected_fields=columns,
            )
        else:
            scan = table.scan(row_filter=row_filter, selected_fields=columns, snapshot_id=wanted.snapshot)
        batches = scan.to_arrow_batch_reader()
    except filter_errors() as error:
        raise SettingsError(filter_sentence(row_filter, wanted.table, error)) from error
    for batch in batches:
        yield from batch.to_pylist()


def _table(wanted: LakeSource) -> "Table":
    return open_table(open_catalog(wanted.catalog), wanted.table)


def _only_appended(table: "Table", after: int, snapshot: int | None) -> bool:
    """Whether all snapshots since `after` left old rows alone; not if some of them are gone."""
    found = table.current_snapshot() if snapshot is None else table.snapshot_by_id(snapshot)
    while found is not None and found.snapshot_id != after:
        if found.summary is None or found.summary.operation.value not in LEAVE_OLD_ROWS:
            return False
        found = None if found.parent_snapshot_id is None else table.snapshot_by_id(found.parent_snapshot_id)
    return found is not None


def filter_sentence(row_filter: str, where: str, error: Exception) -> str:
    """Why a filter cannot be used."""
    reason = one_line(error).partition("Expected {")[0].strip() or "it is no condition."
    return f"The filter {row_filter!r} does not fit {where}: {reason}"


def filter_errors() -> tuple[type[Exception], ...]:
    """What pyiceberg raises for a filter that it cannot parse, or that names columns or values that do not fit."""
    from pyparsing import ParseException

    return (ValueError, TypeError, ParseException)
