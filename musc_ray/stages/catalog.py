"""Stage 1, images -> catalog: which images there are, in which groups, and which version of each file."""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.identity import image_id
from musc_ray.storage.filesystem import is_local, open_filesystem
from musc_ray.storage.parquet import read_table

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
DEFAULT_GROUP = "all"


@dataclass(frozen=True, order=True)
class CatalogImage:
    """One image of the archive; ordered by its id, which is how shards become random samples."""

    image_id: str
    uri: str
    group: str
    version: str


def catalog_images(source: str, group_by: str | None = None) -> dict[str, list[CatalogImage]]:
    """List the images of a source by group, each group in the order of the hashed ids.

    Args:
        source: folder, URI prefix, glob, image file, or a Parquet or CSV table with a `uri` column (optional `group`).
        group_by: path template with `{group}` (`{group}/**`), or a regular expression with a group named `group`,
            matched against the path below the source; None puts everything into one group, or takes the table's
            `group` column.

    Raises:
        MuscRayError: no such source, or no images in it.
        SettingsError: group_by is neither, or fits none of the images.
    """
    rows = _table_rows(source) if source.lower().endswith((".parquet", ".csv")) else _listed_files(source)
    group_of = _group_pattern(group_by) if group_by else None
    groups: dict[str, dict[str, CatalogImage]] = {}
    ungrouped = 0
    for uri, relative, group, version in rows:
        if group_of is not None:
            match = group_of.match(relative)
            if match is None:
                ungrouped += 1
                continue
            group = match["group"]
        image = CatalogImage(image_id(uri), uri, group, version)
        groups.setdefault(group, {})[image.image_id] = image  # a URI listed twice is one image
    if not groups and ungrouped:
        raise SettingsError(f"group_by {group_by!r} fits none of the {ungrouped} images below {source}.")
    if not groups:
        raise MuscRayError(f"No images found in {source}: give a folder or URI with {_suffix_list()} files.")
    return {group: sorted(images.values()) for group, images in sorted(groups.items())}


def to_table(shards: dict[str, dict[int, list[CatalogImage]]]) -> pa.Table:
    """The catalog table of a run: every image with the shard that it belongs to."""
    from musc_ray.storage.schemas import CATALOG

    rows = [
        {"image_id": i.image_id, "uri": i.uri, "group": group, "version": i.version, "shard": shard}
        for group, group_shards in shards.items()
        for shard, images in group_shards.items()
        for i in images
    ]
    return pa.Table.from_pylist(rows, schema=CATALOG)


def _suffix_list() -> str:
    return "/".join(sorted(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES))


def _group_pattern(group_by: str) -> re.Pattern[str]:
    """A path template or a regular expression as one pattern."""
    if "{group}" in group_by:
        tokens = re.split(r"(\{group\}|\*\*|\*|\?)", group_by)
        meaning = {"{group}": r"(?P<group>[^/]+)", "**": r".*", "*": r"[^/]*", "?": r"[^/]"}
        if tokens.count("{group}") == 1:
            return re.compile("".join(meaning.get(token, re.escape(token)) for token in tokens) + r"\Z", re.DOTALL)
    try:
        pattern = re.compile(group_by, re.DOTALL)
    except re.error as error:
        raise SettingsError(f"group_by {group_by!r} is not a valid regular expression: {error}.") from error
    if "group" not in pattern.groupindex:
        raise SettingsError(
            f"group_by {group_by!r} names no group: use a path template such as '{{group}}/**' or a regular expression "
            f"with (?P<group>...)."
        )
    return pattern


def _listed_files(source: str) -> Iterator[tuple[str, str, str, str]]:
    """(uri, path below the source, group, version) of every image file of a folder, prefix, glob or single file."""
    fs, path = open_filesystem(source)
    try:
        if fs.isfile(path):
            base, found = str(PurePosixPath(path).parent), {path: fs.info(path)}
        elif not fs.exists(path) and any(sign in path for sign in "*?["):
            base, found = re.split(r"[^/]*[*?\[]", path, maxsplit=1)[0], fs.glob(path, detail=True)
        else:
            base, found = path, fs.find(path, detail=True)
    except FileNotFoundError:
        found = {}
    except (PermissionError, OSError) as error:
        raise MuscRayError(f"Cannot list {source}: {error}.") from error
    if not found and not fs.exists(path) and not any(sign in path for sign in "*?["):
        raise MuscRayError(f"There is nothing at {source}: give an existing folder, URI, glob or table.")
    for name, info in found.items():
        if info.get("type") != "directory" and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES:
            relative = name[len(base) :].lstrip("/") if name.startswith(base) else name
            yield fs.unstrip_protocol(name), relative, DEFAULT_GROUP, file_version(info)


def file_version(info: dict[str, Any]) -> str:
    """What changes when a file's content does: its ETag where the store has one, else size and time."""
    etag = info.get("ETag") or info.get("etag") or info.get("md5Hash")
    if etag:
        return str(etag).strip('"')
    changed = info.get("mtime") or info.get("LastModified") or info.get("last_modified") or ""
    return f"{info.get('size', '')}-{changed}"


def _table_rows(source: str) -> Iterator[tuple[str, str, str, str]]:
    """(uri, uri, group, version) of every row of a Parquet or CSV table; relative URIs lie beside the table."""
    fs, path = open_filesystem(source)
    try:
        rows = _parquet_rows(fs, path) if path.lower().endswith(".parquet") else _csv_rows(fs, path)
        beside = PurePosixPath(path).parent
        for row in rows:
            uri = str(row["uri"])
            if "://" not in uri:
                location = uri if uri.startswith("/") and is_local(fs) else str(beside / uri)
                uri = str(fs.unstrip_protocol(location))
            yield uri, str(row["uri"]), str(row.get("group") or DEFAULT_GROUP), str(row.get("version") or "")
    except FileNotFoundError as error:
        raise MuscRayError(f"There is no table at {source}: give an existing folder, URI, glob or table.") from error


def _parquet_rows(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[dict[str, Any]]:
    table = read_table(fs, path)
    columns = [name for name in ("uri", "group", "version") if name in table.column_names]
    _require_uri_column(columns, path)
    yield from table.select(columns).to_pylist()


def _csv_rows(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[dict[str, Any]]:
    with fs.open(path, "r", encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        _require_uri_column(reader.fieldnames or [], path)
        yield from reader


def _require_uri_column(columns: Any, path: str) -> None:
    if "uri" not in columns:
        raise MuscRayError(f"The table {path} has no column 'uri': name the column with the image paths so.")
