"""Rows of a Parquet dataset that a filter leaves: `SOURCE?filter=...`, in the filter language of the Iceberg tables.

Hive partitions (`day=2026-11-24/`) are columns. Files whose partition, and row groups whose statistics, rule all rows
out are not read; of the others only the columns that matter are.
"""

from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import fsspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.sources.iceberg import COLUMNS, filter_errors, filter_sentence
from musc_ray.sources.reading import image_column

FILTER = "?filter="


class DatasetRow(NamedTuple):
    """A row: its file, its number in the file, whether it holds the image itself, and what it has of COLUMNS."""

    path: str
    number: int
    holds_image: bool
    values: dict[str, Any]


def dataset_rows(
    fs: fsspec.AbstractFileSystem, files: Sequence[str], folder: str, row_filter: str
) -> Iterator[DatasetRow]:
    """The rows of some Parquet files that a filter leaves, a row group in memory at a time.

    Args:
        fs: where they lie.
        files: their paths, the newest first: a filter may name its columns.
        folder: partitions are named below it.
        row_filter: for example `day >= '2026-11-24' and line = 3`; `true` leaves all.

    Raises:
        SettingsError: the filter does not fit, or the extra `lake` is not installed.
        MuscRayError: a file is not a readable Parquet table.
    """
    try:
        factory = ds.FileSystemDatasetFactory(
            pafs.PyFileSystem(pafs.FSSpecHandler(fs)),
            list(files),
            ds.ParquetFileFormat(),
            ds.FileSystemFactoryOptions(folder, partitioning=ds.HivePartitioning.discover()),
        )
        dataset = factory.finish()
        wanted, names = _condition(row_filter, dataset.schema, folder)
        for fragment in sorted(dataset.get_fragments(filter=wanted), key=lambda fragment: str(fragment.path)):
            yield from _fragment_rows(fragment, dataset.schema, wanted, names)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise MuscRayError(f"The Parquet files in {folder} cannot be read as one table: {error}") from error


def _fragment_rows(
    fragment: ds.ParquetFileFragment, schema: pa.Schema, wanted: pc.Expression, names: set[str]
) -> Iterator[DatasetRow]:
    """The rows of one file; columns that the newest file lacks are read, too."""
    schema = pa.unify_schemas([schema, fragment.physical_schema], promote_options="permissive")
    columns = [name for name in schema.names if name in names or name in COLUMNS]
    holds_image = image_column(fragment.physical_schema) is not None
    starts = [0, *accumulate(group.num_rows for group in fragment.row_groups)]
    for part in fragment.split_by_row_group(wanted, schema):
        (group,) = part.row_groups
        table = part.to_table(schema=schema, columns=columns)
        numbers = pa.array(range(starts[group.id], starts[group.id + 1]))
        found = table.append_column("#row", numbers).filter(wanted)
        kept = found.select([name for name in columns if name in COLUMNS]).to_pylist()
        for number, values in zip(found["#row"].to_pylist(), kept, strict=True):
            yield DatasetRow(fragment.path, number, holds_image, values)


def _condition(row_filter: str, schema: pa.Schema, where: str) -> tuple[pc.Expression, set[str]]:
    """A filter as Arrow's condition, and the columns that it names."""
    try:
        from pyiceberg.expressions import parser
        from pyiceberg.expressions.visitors import bind, extract_field_ids
        from pyiceberg.io.pyarrow import expression_to_pyarrow
    except ImportError as error:
        raise SettingsError("A source with a filter needs the extra 'lake': pip install 'musc-ray[lake]'.") from error
    columns = _comparable(schema)
    try:
        bound = bind(columns, parser.parse(row_filter), case_sensitive=True)
    except filter_errors() as error:
        raise SettingsError(filter_sentence(row_filter, where, error)) from error
    names = {columns.find_column_name(number) or "" for number in extract_field_ids(bound)}
    return expression_to_pyarrow(bound, columns), names


def _comparable(schema: pa.Schema) -> Any:
    """The columns that a filter may name, those of Iceberg's simple types, as an Iceberg schema."""
    from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException, pyarrow_to_schema
    from pyiceberg.schema import Schema
    from pyiceberg.table.name_mapping import MappedField, NameMapping

    fields: list[Any] = []
    for number, field in enumerate(schema, 1):
        if not pa.types.is_nested(field.type):
            names = NameMapping([MappedField.model_validate({"field-id": number, "names": [field.name]})])
            try:
                fields += pyarrow_to_schema(pa.schema([field]), names, downcast_ns_timestamp_to_us=True).fields
            except UnsupportedPyArrowTypeException:  # Iceberg has no such type: it cannot be filtered by
                continue
    return Schema(*fields)
