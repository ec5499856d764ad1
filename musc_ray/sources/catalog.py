"""The catalog of an archive: its images by group, with their ids and the versions of their files."""

import re

import pyarrow as pa

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.sources.base import Source
from musc_ray.sources.images import IMAGE_SUFFIXES, CatalogImage, image_id
from musc_ray.sources.registry import list_source, open_source
from musc_ray.storage.schemas import CATALOG


def list_images(
    source: str, group_by: str | None, after: int | None = None
) -> tuple[dict[str, list[CatalogImage]], int | None]:
    """List the images of a source, and which snapshot of it they are, if its kind has snapshots.

    Args:
        source, group_by: see `catalog_images`.
        after: a snapshot of the source whose images are not needed.

    Raises:
        MuscRayError, SettingsError: see `catalog_images`.
    """
    opened = open_source(source)
    snapshot = opened.snapshot()
    if snapshot is None:
        return _catalog(opened, group_by), None
    if snapshot == after:
        return {}, snapshot
    return _catalog(opened.between(snapshot, after), group_by, may_be_empty=after is not None), snapshot


def catalog_images(source: str, group_by: str | None = None) -> dict[str, list[CatalogImage]]:
    """List the images of a source by group, each group in the order of the hashed ids.

    Args:
        source: folder, URI prefix, glob, image file, tar shards, a Parquet table of image bytes, or a Parquet, CSV
            or Iceberg table with a `uri` column (optional `group`).
        group_by: path template with `{group}` (`{group}/**`), or a regular expression with a group named `group`,
            matched against the path below the source; None puts all images into one group, or takes the table's
            `group` column.

    Raises:
        MuscRayError: no such source, or no images in it.
        SettingsError: group_by is neither, or matches none of the images.
    """
    return _catalog(open_source(source), group_by)


def _catalog(source: Source, group_by: str | None, may_be_empty: bool = False) -> dict[str, list[CatalogImage]]:
    """Give all listed images their group and id: the one place that each of them passes."""
    group_of = _group_pattern(group_by) if group_by else None
    groups: dict[str, dict[str, CatalogImage]] = {}
    ungrouped = 0
    for listed in list_source(source):
        group = listed.group
        if group_of is not None:
            match = group_of.match(listed.relative)
            if match is None:
                ungrouped += 1
                continue
            group = match["group"]
        uri, group = _storable(listed.uri), _storable(group)
        image = CatalogImage(image_id(listed.uri), uri, group, listed.version, listed.modified)
        groups.setdefault(group, {})[image.image_id] = image  # a URI listed twice is one image
    if not groups and not may_be_empty:
        if ungrouped:
            raise SettingsError(f"group_by {group_by!r} fits none of the {ungrouped} images below {source.text}.")
        suffixes = "/".join(sorted(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES))
        raise MuscRayError(f"No images found in {source.text}: give a folder or URI with {suffixes} files.")
    return {group: [images[key] for key in sorted(images)] for group, images in sorted(groups.items())}


def _storable(name: str) -> str:
    r"""Return a name as text that a table can hold: bytes that are not UTF-8 are spelled out, as \udcff.

    No file has that name, so that the image becomes a row of the errors table, which shows it.
    """
    return name.encode("utf-8", "backslashreplace").decode()


def to_table(shards: dict[str, dict[int, list[CatalogImage]]]) -> pa.Table:
    """Return the catalog table of a run: all images with the shards that they belong to."""
    parts = [
        pa.table(
            [
                [image.image_id for image in images],
                [image.uri for image in images],
                [group] * len(images),
                [image.version for image in images],
                pa.array([shard] * len(images), pa.int32()),
                [image.modified for image in images],
            ],
            schema=CATALOG,
        )
        for group, group_shards in shards.items()
        for shard, images in group_shards.items()
    ]
    return pa.concat_tables(parts) if parts else CATALOG.empty_table()


def _group_pattern(group_by: str) -> re.Pattern[str]:
    """Compile a path template or a regular expression.

    Raises:
        SettingsError: it is neither, or names no group.
    """
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
