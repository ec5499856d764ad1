"""Commit the rows of one run to an Iceberg table: added rows and removed rows appear together or not at all."""

import logging
import random
import time
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

FILE_BYTES = 128 * 2**20
"""Rows are gathered to this much memory (Arrow) before they are written as a file."""

MAX_ATTEMPTS = 20
MAX_PAUSE_SECONDS = 5.0
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
    for attempt in range(MAX_ATTEMPTS):
        table = retry_creation(load)
        before = table.properties.get(PUBLISHED + run.run_id)
        if before == run.digest:
            return False
        try:
            _commit(table, run, changes(table, before is not None))
        except _conflicts() as error:  # the next attempt sees whether a commit of unknown outcome landed
            pause = min(MAX_PAUSE_SECONDS, 0.1 * 2**attempt) * random.uniform(0.5, 1.0)  # noqa: S311, no secret
            logger.info("Another publisher changed %s (%s); retrying in %.1f s.", table.name(), error, pause)
            time.sleep(pause)
        else:
            return True
    raise MuscRayError(
        f"The Iceberg table {'.'.join(table.name())} was changed by others in each of {MAX_ATTEMPTS} attempts to "
        f"publish run {run.run_id}: publish again when they are done."
    )


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
