"""Which columns of a table hold what: by the setting `column`, or else by their usual names and types."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import pyarrow as pa

from musc_ray.errors import MuscRayError
from musc_ray.settings.columns import USUAL, ColumnNames

IMAGE_COLUMNS = ("image", "bytes", "image_bytes")
MAX_NAMED = 20

Kinds = Mapping[str, pa.DataType]


class Columns(NamedTuple):
    """The columns that are read of a table; None for those that it lacks. Either `uri` or `image` is there."""

    uri: str | None
    image: str | None
    group: str | None
    version: str | None

    @property
    def of_rows(self) -> list[str]:
        """Return the columns that are read of every row when it is listed."""
        return list(dict.fromkeys(name for name in (self.uri, self.group, self.version) if name is not None))


def find_columns(kinds: Kinds, wanted: ColumnNames, table: str) -> Columns | None:
    """Find the columns of a table that hold images or their URIs, and groups and versions.

    Args:
        kinds: types by column.
        wanted: their names, where they are not the usual ones.
        table: its path, for the errors.

    Returns:
        The columns; None where none holds images or URIs.

    Raises:
        MuscRayError: a column that the setting names for groups or versions is missing, or two columns differ only in
            capitals.
    """
    uri, image = _data_column(kinds, wanted, table)
    if uri is None and image is None:
        return None
    group = _named(kinds, "group", wanted.group, table) if wanted.grouped else None
    return Columns(uri, image, group, _named(kinds, "version", wanted.version, table))


def need_columns(kinds: Kinds, wanted: ColumnNames, table: str) -> Columns:
    """Find the columns of a table as `find_columns` does.

    Raises:
        MuscRayError: it has none; or as `find_columns`.
    """
    found = find_columns(kinds, wanted, table)
    if found is None:
        raise MuscRayError(no_columns(kinds, wanted, table))
    return found


def no_columns(kinds: Kinds, wanted: ColumnNames, table: str) -> str:
    """Say that no column of a table holds images or URIs, which it has, and the way out."""
    shown = [f"{name} ({kind})" for name, kind in kinds.items()][:MAX_NAMED]
    more = ", ..." if len(kinds) > MAX_NAMED else ""
    has = f"it has {', '.join(shown)}{more}" if shown else "it has no columns"
    if wanted.named is None:
        return (
            f"The table {table} has no column 'uri' and none with image bytes; {has}: name the column with the "
            f"setting 'column'."
        )
    return f"The table {table} has no column '{wanted.named}' of images or URIs; {has}: correct the setting 'column'."


def image_column(schema: pa.Schema) -> str | None:
    """Return the column of encoded images by its usual names: binary, or a struct with `bytes` as Hugging Face has."""
    return _data_column(kinds_of(schema), USUAL, "")[1]


def kinds_of(schema: pa.Schema, partitions: Iterable[str] = ()) -> dict[str, pa.DataType]:
    """Return the types by column, those of partitions included."""
    return {field.name: field.type for field in schema} | {name: pa.string() for name in partitions}


def _data_column(kinds: Kinds, wanted: ColumnNames, table: str) -> tuple[str | None, str | None]:
    """Return the column of URIs or that of images; the other is None."""
    if wanted.named is not None:
        kind = kinds.get(wanted.named)
        if kind is not None and wanted.uri is None and _holds_images(kind):
            return None, wanted.named
        if kind is not None and wanted.image is None and _holds_text(kind):
            return wanted.named, None
        return None, None
    for name in IMAGE_COLUMNS:
        found = _alike(kinds, name, table)
        if found is not None and _holds_images(kinds[found]):
            return None, found
    found = _alike(kinds, "uri", table)
    return (found if found is not None and _holds_text(kinds[found]) else None), None


def _named(kinds: Kinds, usual: str, given: str | None, table: str) -> str | None:
    """Return the column of groups or versions, if there is one."""
    if given is None:
        return _alike(kinds, usual, table)
    if given not in kinds:
        raise MuscRayError(
            f"The table {table} has no column '{given}' of {usual}s; it has {', '.join(list(kinds)[:MAX_NAMED])}: "
            f"correct the setting 'column'."
        )
    return given


def _alike(kinds: Kinds, name: str, table: str) -> str | None:
    """Return the column of a name, or the only one that differs from it in capitals."""
    if name in kinds:
        return name
    alike = [each for each in kinds if each.casefold() == name]
    if len(alike) > 1:
        raise MuscRayError(f"The table {table} has the columns {', '.join(alike)}: call one of them '{name}'.")
    return alike[0] if alike else None


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return bool(kind.get_field_index("bytes") >= 0) and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _holds_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return _is_binary(kind) or is_text(kind) or pa.types.is_null(kind)


def is_text(kind: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's text types."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_binary(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return is_binary(kind)


def is_binary(kind: pa.DataType) -> bool:
    """Return whether a type is one of Arrow's binary types."""
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_binary_view(kind)
        or pa.types.is_fixed_size_binary(kind)
    )
