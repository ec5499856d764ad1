"""Hive partitions: folders `key=value` that are columns of the tables below them."""

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from urllib.parse import unquote

import pyarrow as pa

PARTITION = re.compile(r"([^=/]+)=([^/]*)")
NULL = "__HIVE_DEFAULT_PARTITION__"
WHOLE_NUMBER = re.compile(r"0|-?[1-9]\d{0,8}")

Partitions = Mapping[str, str | None]
"""Values by column, as text: `001` stays `001`; None for null."""


def partition_values(relative: str) -> dict[str, str | None]:
    """Return the values of the partition that a file belongs to, by its path below the source."""
    found = (PARTITION.fullmatch(part) for part in PurePosixPath(relative).parts[:-1])
    return {unquote(match[1]): None if match[2] == NULL else unquote(match[2]) for match in found if match}


def table_folder(path: str, relative: str) -> str:
    """Return the folder that a table's relative URIs start from: its own, above its partitions."""
    folders = path.split("/")[:-1]
    for part in reversed(PurePosixPath(relative).parts[:-1]):
        if not PARTITION.fullmatch(part):
            break
        folders.pop()
    return "/".join(folders)


def partition_schema(partitions: Iterable[Partitions], physical: pa.Schema) -> pa.Schema:
    """Return the types by which a filter compares partitions.

    They are those of columns of the same name in the files, or else whole numbers, or text where any value is not one.
    """
    values: dict[str, set[str]] = {}
    for each in partitions:
        for name, value in each.items():
            values.setdefault(name, set()).update(() if value is None else (value,))
    numbers = {name for name, of in values.items() if of and all(map(WHOLE_NUMBER.fullmatch, of))}
    kinds = {name: pa.int32() if name in numbers else pa.string() for name in values}
    return pa.schema(kinds | {field.name: field.type for field in physical if field.name in kinds})
