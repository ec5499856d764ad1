"""Commit the rows of one run to an Iceberg table: added rows and removed rows appear together or not at all."""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.exceptions import CommitFailedException, CommitStateUnknownException, ValidationException
from pyiceberg.manifest import DataFile
from pyiceberg.table import FileScanTask, Table

from musc_ray.errors import MuscRayError
from musc_ray.lake.catalog import retry_creation
from musc_ray.lake.data_files import read_file, write_files
from musc_ray.lake.schema import iceberg_schema
from musc_ray.storage.retry import Backoff, retry

FILE_BYTES = 128 * 2**20
"""Rows are gathered to this much memory (Arrow) before they are written as a file."""

CONFLICT_BACKOFF = Backoff(attempts=20, first_seconds=0.1, max_seconds=5.0)
PUBLISHED = "musc-ray.run."
"""Prefix of the table property that names a published run; its value is the run's digest, set by the same commit."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Changes:
    """What a commit does to a table.

    Attributes:
        added: rows to append.
        rewritten: data files that hold rows to remove.
        removed: takes a file's rows; returns the mask of those to remove.
    """

    added: Iterable[pa.Table]
    rewritten: Sequence[FileScanTask]
    removed: Callable[[pa.Table], pa.ChunkedArray]


@dataclass(frozen=True)
class RunCommit:
    """A run to bring into a table.

    Attributes:
        run_id: the run.
        digest: changes when the run's content does.
        columns: of the added rows; those that the table lacks are added to it as optional columns.
    """

    run_id: str
    digest: str
    columns: pa.Schema


def commit_run(load: Callable[[], Table], run: RunCommit, changes: Callable[[Table, bool], Changes]) -> bool:
    """Commit a run unless the table holds it already; conflicts with other publishers are retried.

    Args:
        load: loads the table in its present state.
        run: what to commit.
        changes: takes the table and whether it holds an earlier content of the run; returns what to do. Called anew in
            every attempt.

    Returns:
        Whether there was anything to do.

    Raises:
        MuscRayError: other publishers changed the table in every attempt.
    """
    name = ""

    def attempt() -> bool:  # sees whether an earlier commit of unknown outcome landed
        nonlocal name
        table = retry_creation(load)
        name = ".".join(table.name())
        before = table.properties.get(PUBLISHED + run.run_id)
        if before == run.digest:
            return False
        try:
            _commit(table, run, changes(table, before is not None))
        except _conflicts() as error:
            logger.info("Another publisher changed %s (%s).", name, error)
            raise _ConflictError from error
        return True

    try:
        return retry(attempt, lambda error: isinstance(error, _ConflictError), CONFLICT_BACKOFF)
    except _ConflictError as error:
        raise MuscRayError(
            f"The Iceberg table {name} was changed by others in each of {CONFLICT_BACKOFF.attempts} attempts to "
            f"publish run {run.run_id}: publish again when they are done."
        ) from error


class _ConflictError(Exception):
    """Another publisher changed the table meanwhile."""


def _conflicts() -> tuple[type[Exception], ...]:
    """Errors that concurrent publishers meet; SQLite locks its file, too."""
    try:
        from sqlalchemy.exc import OperationalError
    except ImportError:
        return (CommitFailedException, CommitStateUnknownException, ValidationException)
    return (CommitFailedException, CommitStateUnknownException, ValidationException, OperationalError)


def _commit(table: Table, run: RunCommit, changes: Changes) -> None:
    # pyiceberg's own retries would append to the table's new state even if that holds the same run already.
    # Only this object's copy is changed.
    table.metadata.properties["commit.retry.num-retries"] = "0"
    transaction = table.transaction()
    with transaction.update_schema() as evolution:
        evolution.union_by_name(iceberg_schema(run.columns))
    transaction.set_properties({PUBLISHED + run.run_id: run.digest})
    written: list[DataFile] = []
    try:
        for rows in chain(_kept(table, changes), gathered(changes.added)):
            written += write_files(table.io, transaction.table_metadata, rows)
        update = transaction.update_snapshot(snapshot_properties={"musc-ray.run-id": run.run_id})
        with update.overwrite() if changes.rewritten else update.fast_append() as snapshot:
            for file in written:
                snapshot.append_data_file(file)
            for task in changes.rewritten:
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
    """Delete data files that no snapshot names."""
    for file in files:
        table.io.delete(file.file_path)


def _kept(table: Table, changes: Changes) -> Iterator[pa.Table]:
    """Yield the rows to keep of the files that are rewritten, one file at a time."""
    for task in changes.rewritten:
        rows = read_file(table, task)
        rest = rows.filter(pc.invert(changes.removed(rows)))
        if rest.num_rows:
            yield rest


def gathered(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Yield the same rows in tables of about FILE_BYTES, so that memory is bounded and files are not small."""
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
