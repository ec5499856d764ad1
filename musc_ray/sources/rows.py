"""A row of a table as an image: by the URI that it names, or by the image bytes that it holds."""

import sys
from collections.abc import Iterable, Mapping
from typing import Any

import fsspec

from musc_ray.errors import MuscRayError
from musc_ray.settings.credentials import carries_secret, redacted
from musc_ray.sources.images import DEFAULT_GROUP, ListedImage
from musc_ray.storage.filesystem import uri_beside

COLUMNS = ("uri", "group", "version")
"""What is read of each row, where the table has it; a table of URIs must have `uri`."""

Row = Mapping[str, Any]


def columns_to_read(names: Iterable[str], table: str) -> list[str]:
    """Return the columns of a table of URIs that are read.

    Raises:
        MuscRayError: it has no column `uri`.
    """
    found = [name for name in COLUMNS if name in names]
    if "uri" not in found:
        raise MuscRayError(
            f"The table {table} has no column 'uri' and none with image bytes: name the column with the paths 'uri'."
        )
    return found


def row_group(row: Row) -> str:
    """Return the group that a row names, or the default one."""
    return sys.intern(str(row.get("group") or DEFAULT_GROUP))  # one object for a million rows


def named_image(fs: fsspec.AbstractFileSystem, table: str, row: Row) -> ListedImage:
    """Return the image that a row names; a relative URI is beside the table.

    Raises:
        MuscRayError: the URI carries credentials.
    """
    given = str(row["uri"])
    check_secrets(table, given)
    return ListedImage(uri_beside(fs, table, given), given, row_group(row), str(row.get("version") or ""))


def check_secrets(table: str, uri: str) -> None:
    """Refuse a URI with a password or a signature: all tables of results would have it, and it would soon expire.

    Raises:
        MuscRayError: it carries credentials.
    """
    if carries_secret(uri):
        raise MuscRayError(
            f"The table {table} names {redacted(uri)}, which carries credentials: name files without, and give "
            f"credentials in the environment."
        )
