"""Write a complete run into the three tables of the lake: its history, the latest row of each image, the run itself.

Each table takes the run in one commit, in this order: a row in the table of runs says that the other two are complete.
What a crash leaves out, publishing again adds.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.catalog import Catalog
from pyiceberg.partitioning import UNPARTITIONED_PARTITION_SPEC
from pyiceberg.table import Table

from musc_ray.lake.catalog import retry_creation
from musc_ray.lake.commit import Changes, RunCommit, commit_run
from musc_ray.lake.data_files import read_file
from musc_ray.lake.schema import RUNS, by_day_and_group, iceberg_schema, scores_schema
from musc_ray.settings.values import settings_dict
from musc_ray.storage.manifest import RunManifest

KEYS = ("image_id", "run_id", "scored_at")
COMMENT = "Anomaly scores of musc-ray: "
TABLES = {"": "every image of every run", "_current": "the latest row of each image", "_runs": "its runs"}


@dataclass(frozen=True)
class LakeRun:
    """A complete run to publish.

    Attributes:
        record: its manifest.
        out: where its files are.
        scores: reads its scores, file by file; called several times.
        maps: whether patch maps go into the history.
    """

    record: RunManifest
    out: str
    scores: Callable[[Sequence[str]], Iterator[pa.Table]]
    maps: bool = True

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self.record.run_id

    @property
    def scored_at(self) -> datetime:
        """The time that stands in all of its rows."""
        return self.record.scored_at

    @property
    def digest(self) -> str:
        """Changes when the run is computed again or gets other thresholds."""
        content = [self.record.scored_at.isoformat(), self.record.thresholds]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def columns(self, maps: bool) -> pa.Schema:
        """Return the columns of its scores in the lake, with or without patch maps."""
        defects = self.record.settings.repeated_defects
        return scores_schema(maps, bool(self.record.thresholds), defects)

    def rows(self, columns: pa.Schema) -> Iterator[pa.Table]:
        """Yield its scores in these columns, file by file."""
        return (table.select(columns.names).cast(columns) for table in self.scores(columns.names))


def publish_run(catalog: Catalog, name: str, run: LakeRun) -> bool:
    """Publish a run, or what the lake lacks of it.

    Args:
        catalog: where the tables are; missing ones are created.
        name: of the table of scores, with its namespace.
        run: what to publish.

    Returns:
        Whether there was anything to do.
    """
    retry_creation(lambda: catalog.create_namespace_if_not_exists(name.rpartition(".")[0]))
    history, current = run.columns(run.maps), run.columns(maps=False)
    steps: list[tuple[str, pa.Schema, Callable[[Table, bool], Changes]]] = [
        ("", history, lambda table, again: _of_run(table, run.run_id, run.rows(history), again)),
        ("_current", current, lambda table, _: _latest(table, run, current)),
        ("_runs", RUNS, lambda table, again: _of_run(table, run.run_id, [_lineage(run)], again)),
    ]
    done = [
        commit_run(partial(_table, catalog, name, suffix, columns), RunCommit(run.run_id, run.digest, columns), changes)
        for suffix, columns, changes in steps
    ]
    return any(done)


def _table(catalog: Catalog, name: str, suffix: str, columns: pa.Schema) -> Table:
    """Load a table of the lake in its present state; create it where it is missing."""
    schema = iceberg_schema(columns)
    spec = UNPARTITIONED_PARTITION_SPEC if suffix == "_runs" else by_day_and_group(schema)
    properties = {"comment": COMMENT + TABLES[suffix], "musc-ray.tables": name}
    return catalog.create_table_if_not_exists(name + suffix, schema, partition_spec=spec, properties=properties)


def _of_run(table: Table, run_id: str, rows: Iterable[pa.Table], again: bool) -> Changes:
    """Add the rows of a run, in place of an earlier content of it if the table holds one."""
    earlier = list(table.scan(row_filter=f"run_id = '{run_id}'").plan_files()) if again else []
    return Changes(rows, earlier, lambda found: pc.equal(found["run_id"], run_id))


def _latest(table: Table, run: LakeRun, columns: pa.Schema) -> Changes:
    """Add the rows of the run that no later run has replaced, in place of earlier rows of the same images.

    Ids are hashes: no file can be skipped by its statistics, so the keys of all are read, one file at a time.
    """
    ids = pa.concat_tables(run.scores(["image_id"]))["image_id"].combine_chunks()
    this = pa.scalar(run.scored_at, columns.field("scored_at").type)

    def masks(keys: pa.Table) -> tuple[pa.ChunkedArray, pa.ChunkedArray]:
        """Masks of the rows to remove, and of those that stay in place of the run's row of the same image."""
        same_run, same_image = pc.equal(keys["run_id"], run.run_id), pc.is_in(keys["image_id"], value_set=ids)
        same_time = pc.and_(pc.equal(keys["scored_at"], this), pc.greater(keys["run_id"], run.run_id))
        later = pc.and_not(pc.or_(pc.greater(keys["scored_at"], this), same_time), same_run)
        return pc.or_(same_run, pc.and_not(same_image, later)), pc.and_(same_image, later)

    rewritten, newer = [], []
    for task in table.scan().plan_files():
        keys = read_file(table, task, KEYS)
        removed, stays = masks(keys)
        newer += keys.filter(stays)["image_id"].chunks
        if pc.any(removed).as_py():
            rewritten.append(task)
    not_ours = pa.chunked_array(newer, ids.type)
    return Changes(_without(run.rows(columns), not_ours), rewritten, lambda rows: masks(rows)[0])


def _without(tables: Iterable[pa.Table], ids: pa.ChunkedArray) -> Iterator[pa.Table]:
    for table in tables:
        yield table.filter(pc.invert(pc.is_in(table["image_id"], value_set=ids))) if len(ids) else table


def _lineage(run: LakeRun) -> pa.Table:
    """Build a run's row of the table of runs."""
    record, resolved, counts = run.record, run.record.resolved, run.record.counts
    row = {
        "run_id": run.run_id,
        "scored_at": run.scored_at,
        "features_id": record.features_id,
        "backbone": resolved.backbone,
        "weights_sha256": resolved.weights_sha256,
        "code_version": record.versions["musc-ray"],
        "source": record.settings.source,
        "source_snapshot": record.source_snapshot,
        "out": run.out,
        "images": counts.images,
        "scored": counts.scored,
        "failed": counts.failed,
        "settings": json.dumps(settings_dict(record.settings), sort_keys=True),
    }
    return pa.Table.from_pylist([row], schema=RUNS)
