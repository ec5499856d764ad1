"""Row filters of sources (`?filter=...`), in pyiceberg's language for Iceberg and Parquet tables alike.

Times may have a zone. In a column of times with zones, whichever these are, a time without zone is in UTC, and a day
is its first moment.
"""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.errors import SettingsError, reason_of


def arrow_condition(row_filter: str, schema: pa.Schema, where: str) -> tuple[pc.Expression, set[str]]:
    """Translate a filter for Arrow.

    Args:
        row_filter: for example `day >= '2026-11-24' and line = 3`; `true` keeps all rows.
        schema: the columns that it may name, see `in_utc`.
        where: the table, for the error.

    Returns:
        Arrow's condition, and the columns that it names.

    Raises:
        SettingsError: the filter does not fit the schema, or the extra `lake` is not installed.
    """
    try:
        from pyiceberg.expressions.visitors import bind, extract_field_ids
        from pyiceberg.io.pyarrow import expression_to_pyarrow
    except ImportError as error:
        raise SettingsError("A source with a filter needs the extra 'lake': pip install 'musc-ray[lake]'.") from error
    columns = _comparable(schema)
    try:
        bound = bind(columns, parse_condition(row_filter, columns), case_sensitive=True)
    except filter_errors() as error:
        raise SettingsError(filter_sentence(row_filter, where, error)) from error
    names = {columns.find_column_name(number) or "" for number in extract_field_ids(bound)}
    return expression_to_pyarrow(bound, columns), names


def parse_condition(row_filter: str, columns: Any) -> Any:
    """Parse a filter, with its times written as pyiceberg compares them.

    Args:
        row_filter: see `arrow_condition`.
        columns: pyiceberg's schema of the table.

    Raises:
        as in `filter_errors`.
    """
    from pyiceberg.expressions import parser

    return _with_times(parser.parse(row_filter), columns)


def in_utc(schema: pa.Schema) -> pa.Schema:
    """Return a schema with the same times in UTC where columns have other zones, which filters do not know."""
    fields = [
        field.with_type(pa.timestamp(field.type.unit, "UTC"))
        if pa.types.is_timestamp(field.type) and field.type.tz is not None
        else field
        for field in schema
    ]
    return pa.schema(fields, schema.metadata)


def _with_times(condition: Any, columns: Any) -> Any:
    """Return a condition whose texts for columns of times are written in full."""
    from pyiceberg import expressions as ex
    from pyiceberg.types import TimestampType, TimestamptzType

    if isinstance(condition, ex.Not):
        return ex.Not(_with_times(condition.child, columns))
    if isinstance(condition, ex.And | ex.Or):
        return type(condition)(_with_times(condition.left, columns), _with_times(condition.right, columns))
    if not isinstance(condition, ex.LiteralPredicate | ex.SetPredicate):
        return condition
    if not isinstance(condition.term, ex.Reference):
        return condition
    kind = columns.find_field(condition.term.name).field_type
    if not isinstance(kind, TimestampType | TimestamptzType):
        return condition
    zoned = isinstance(kind, TimestamptzType)
    if isinstance(condition, ex.SetPredicate):
        return type(condition)(condition.term, {_time(literal.value, zoned) for literal in condition.literals})
    return type(condition)(condition.term, _time(condition.literal.value, zoned))


def _time(given: Any, zoned: bool) -> Any:
    """Return the text of a time as pyiceberg reads it; what is none stays for its error."""
    try:
        time = datetime.fromisoformat(given)
    except (TypeError, ValueError):
        return given
    if zoned and time.tzinfo is None:
        time = time.replace(tzinfo=UTC)
    return time.isoformat()


def filter_errors() -> tuple[type[Exception], ...]:
    """Return what pyiceberg raises for a filter that it cannot parse, or whose columns or values do not fit."""
    from pyparsing import ParseException

    return (ValueError, TypeError, ParseException)


def filter_sentence(row_filter: str, where: str, error: Exception) -> str:
    """Say why a filter cannot be used on a table."""
    reason = f"{reason_of(error)}.".partition("Expected {")[0].strip() or "it is not a condition."
    return f"The filter {row_filter!r} does not fit {where}: {reason}"


def _comparable(schema: pa.Schema) -> Any:
    """Return the columns that a filter may name, those of Iceberg's simple types, as an Iceberg schema."""
    from pyiceberg.io.pyarrow import UnsupportedPyArrowTypeException, pyarrow_to_schema
    from pyiceberg.schema import Schema
    from pyiceberg.table.name_mapping import MappedField, NameMapping

    fields: list[Any] = []
    for number, field in enumerate(schema, 1):
        if not pa.types.is_nested(field.type):
            names = NameMapping([MappedField.model_validate({"field-id": number, "names": [field.name]})])
            try:
                fields += pyarrow_to_schema(pa.schema([field]), names, downcast_ns_timestamp_to_us=True).fields
            except UnsupportedPyArrowTypeException:  # Iceberg has no such type: filters cannot name the column
                continue
    return Schema(*fields)
