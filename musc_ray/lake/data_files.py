"""Read and write single data files of an Iceberg table.

`Transaction.append`, `overwrite` and `upsert` are not used: which rows a run replaces is known by image id alone, and
pyiceberg 0.12 takes ids as a predicate that it binds again for each file and manifest. Replacing 400,000 rows in
`delete(In("image_id", ids))` and `append` took 22.1 s against 2.6 s here (tests/benchmarks/bench_lake.py); `upsert`
builds the same predicate. They would also split a commit into two or three snapshots. All names used are public ones.
"""

import uuid
from collections.abc import Iterator
from functools import reduce
from itertools import count
from operator import and_
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.io import FileIO
from pyiceberg.io.pyarrow import ArrowScan, pyarrow_to_schema, write_file
from pyiceberg.manifest import DataFile
from pyiceberg.partitioning import PartitionFieldValue, PartitionKey
from pyiceberg.table import FileScanTask, Table, WriteTask
from pyiceberg.table.metadata import TableMetadata


def read_file(table: Table, task: FileScanTask, columns: tuple[str, ...] = ("*",)) -> pa.Table:
    """Read the rows of one data file that are not deleted, in the table's present columns."""
    scan = ArrowScan(table.metadata, table.io, table.scan(selected_fields=columns).projection(), AlwaysTrue())
    found: Any = scan.to_table([task])
    return found


def write_files(io: FileIO, metadata: TableMetadata, rows: pa.Table) -> list[DataFile]:
    """Write rows as data files, one for each partition; nobody sees them before a commit names them.

    Args:
        io: of the table.
        metadata: of the table; columns that the rows lack are null.
        rows: no more than one file may hold.
    """
    schema = pyarrow_to_schema(rows.schema, name_mapping=metadata.schema().name_mapping)
    write_uuid, numbers = uuid.uuid4(), count()
    tasks = (
        WriteTask(write_uuid, next(numbers), schema, part.combine_chunks().to_batches(), partition_key=key)
        for key, part in _by_partition(metadata, rows)
    )
    return list(write_file(io, metadata, tasks))


def _by_partition(metadata: TableMetadata, rows: pa.Table) -> Iterator[tuple[PartitionKey | None, pa.Table]]:
    """Split rows by the values of the table's partition fields."""
    schema, spec = metadata.schema(), metadata.spec()
    if spec.is_unpartitioned():
        yield None, rows
        return
    values = {
        f"field {field.field_id}": field.transform.pyarrow_transform(schema.find_field(field.source_id).field_type)(
            rows[schema.find_field(field.source_id).name].combine_chunks()
        )
        for field in spec.fields
    }
    partitions = pa.table(values)
    numbered = partitions.append_column("row", pa.array(np.arange(len(rows))))
    for partition in partitions.group_by(partitions.column_names).aggregate([]).to_pylist():
        same = [
            pc.field(name).is_null() if value is None else pc.field(name) == value for name, value in partition.items()
        ]
        key = PartitionKey(
            [PartitionFieldValue(field, value) for field, value in zip(spec.fields, partition.values(), strict=True)],
            spec,
            schema,
        )
        yield key, rows.take(numbered.filter(reduce(and_, same))["row"])
