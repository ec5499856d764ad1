"""One commit to an Iceberg table: rows of a run come in, rows that they replace go out, all at once or not at all."""

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ValidationException
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io.pyarrow import ArrowScan, _dataframe_to_data_files
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table, Transaction

from musc_ray.errors import MuscRayError
from musc_ray.lake.catalog import look_again
from musc_ray.lake.schema import iceberg_schema

FILE_BYTES = 128 * 2**20
"""Rows are gathered to so much memory (Arrow) before they are written as a file."""

TRIES = 20
LONGEST_PAUSE_SECONDS = 5.0
PUBLISHED = "musc-ray.run."
"""Table property of a run that is in the table: its digest; the commit that brings the rows sets it."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Changes:
    """What a commit does to a table.

    Attributes:
        additions: rows that come in.
        replaced: files with rows that go.
        goes: which of a file's rows go, as a mask.
    """

    additions: Iterable[pa.Table]
    replaced: Sequence[FileScanTask]
    goes: Callable[[pa.Table], pa.ChunkedArray]


def commit_run(
    load: Callable[[], Table], run_id: str, digest: str, columns: pa.Schema, changes: Callable[[Table, bool], Changes]
) -> bool:
    """Bring a run into a table unless it is there; what another publisher does meanwhile is seen by another try.

    Args:
        load: gives the table in its present state.
        run_id: the run.
        digest: changes when the run's content does.
        columns: of the rows that come in; those that the table lacks are added to it, as optional ones.
        changes: for a table, and whether an earlier content of the run is in it: what there is to do. Called anew in
            every try.

    Returns:
        Whether there was anything to do.

    Raises:
        MuscRayError: others changed the table in every try.
    """
    for attempt in range(TRIES):
        table = look_again(load)
        before = table.properties.get(PUBLISHED + run_id)
        if before == digest:
            return False
        try:
            _commit(table, run_id, digest, columns, changes(table, before is not None))
        except _conflicts() as error:  # the next try sees whether a commit of unknown outcome landed
            pause = min(LONGEST_PAUSE_SECONDS, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311, no secret
            logger.info("Another publisher changed %s (%s); again in %.1f s.", table.name(), error, pause)
            time.sleep(pause)
        else:
            return True
    raise MuscRayError(
        f"The Iceberg table {'.'.join(table.name())} was changed by others in each of {TRIES} tries to publish run "
        f"{run_id}: publish again when they are done."
    )


def _conflicts() -> tuple[type[Exception], ...]:
    """What two publishers at once may meet; SQLite locks its file, too."""
    try:
        from sqlalchemy.exc import OperationalError
    except ImportError:
        return (CommitFailedException, CommitStateUnknownException, ValidationException)
    return (CommitFailedException, CommitStateUnknownException, ValidationException, OperationalError)


def _commit(table: Table, run_id: str, digest: str, columns: pa.Schema, changes: Changes) -> None:
    # pyiceberg's own retries would append to whatever is there by then, even if that is the same run.
    # Only this object's copy is changed.
    table.metadata.properties["commit.retry.num-retries"] = "0"
    transaction = table.transaction()
    with transaction.update_schema() as evolution:
        evolution.union_by_name(iceberg_schema(columns))
    transaction.set_properties({PUBLISHED + run_id: digest})
    written: list[DataFile] = []
    try:
        for rows in chain(_staying(table, changes), gathered(changes.additions)):
            written += write_files(transaction, rows)
        update = transaction.update_snapshot(snapshot_properties={"musc-ray.run-id": run_id})
        with update.overwrite() if changes.replaced else update.fast_append() as snapshot:
            for file in written:
                snapshot.append_data_file(file)
            for task in changes.replaced:
                snapshot.delete_data_file(task.file)
    except Exception:
        _delete(table, written)
        raise
    try:
        transaction.commit_transaction()
    except (CommitFailedException, ValidationException):  # after any other error the files may be in use
        _delete(table, written)
        raise


def _delete(table: Table, files: Iterable[DataFile]) -> None:
    """Delete files that no snapshot names."""
    for file in files:
        table.io.delete(file.file_path)


def _staying(table: Table, changes: Changes) -> Iterator[pa.Table]:
    """What stays of the files that are replaced, one at a time."""
    for task in changes.replaced:
        rows = read_file(table, task)
        rest = rows.filter(pc.invert(changes.goes(rows)))
        if rest.num_rows:
            yield rest


def gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The same rows in tables of about FILE_BYTES, so that memory is bounded and files are not small."""
    waiting: list[pa.Table] = []
    size = 0
    for table in tables:
        if table.num_rows:
            waiting.append(table)
            size += table.nbytes
        if size >= FILE_BYTES:
            yield pa.concat_tables(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.concat_tables(waiting)


def write_files(transaction: Transaction, rows: pa.Table) -> list[DataFile]:
    """Write rows as data files, one or more for each partition; nobody sees them before a commit names them."""
    return list(_dataframe_to_data_files(transaction.table_metadata, rows, transaction._table.io))


def read_file(table: Table, task: FileScanTask, columns: tuple[str, ...] = ("*",)) -> pa.Table:
    """The rows of one data file that are not deleted, in the table's present columns."""
    scan = ArrowScan(table.metadata, table.io, table.scan(selected_fields=columns).projection(), AlwaysTrue())
    found: Any = scan.to_table([task])
    return found
