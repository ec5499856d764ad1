"""The catalog of an archive: its images by group with their ids and versions, what was skipped, what is unreadable."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pyarrow as pa

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.sources.base import Source
from musc_ray.sources.grouping import group_pattern, grouping_notes
from musc_ray.sources.images import CatalogImage, ListedImage, Skipped, Unreadable, image_id
from musc_ray.sources.names import IMAGE_SUFFIXES
from musc_ray.sources.registry import list_source, may_hold_images, open_source
from musc_ray.storage.schemas import CATALOG, SKIPPED

MAX_EXAMPLES = 3
"""Files that an error names."""


@dataclass(frozen=True)
class Catalog:
    """All that a source lists.

    Attributes:
        groups: the images by group, each group in the order of the hashed ids.
        skipped: what is not an image of the archive.
        unreadable: what could be one but is not listed as one, such as a broken link or a row without a URI.
        snapshot: of the source, if its kind has snapshots.
        notes: what the user should know of how the images are grouped.
        known_good: ids of those of the images that persons vouch for.
    """

    groups: dict[str, list[CatalogImage]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    unreadable: list[Unreadable] = field(default_factory=list)
    snapshot: int | None = None
    notes: tuple[str, ...] = ()
    known_good: frozenset[str] = frozenset()

    @property
    def images(self) -> int:
        """Number of images in groups."""
        return sum(map(len, self.groups.values()))

    @property
    def skipped_by_reason(self) -> dict[str, int]:
        """Number of skipped entries by reason."""
        return dict(Counter(entry.reason for entry in self.skipped))

    @property
    def listed(self) -> int:
        """Number of entries: images, skipped and unreadable ones."""
        return self.images + len(self.skipped) + len(self.unreadable)


def check_source(source: str, group_by: str | None = None, column: str | None = None) -> None:
    """Check that there is something at a source, before work that takes longer; what there is, only a listing tells.

    Args:
        source, group_by, column: as for `list_images`.

    Raises:
        MuscRayError: no such source, or a local folder without files.
        SettingsError: group_by is neither, or `column` names no columns.
    """
    if group_by is not None:
        group_pattern(group_by)
    opened = open_source(source, column)
    if not may_hold_images(opened):
        raise _nothing(source, None, Catalog())


def list_images(
    source: str, group_by: str | None = None, after: int | None = None, column: str | None = None
) -> Catalog:
    """List everything in a source, the images by group.

    Args:
        source: folder, URI prefix, glob, image file, tar shards, a Parquet table of image bytes, or a Parquet, CSV
            or Iceberg table with a `uri` column (optional `group`).
        group_by: path template with `{group}` (`{group}/**`), or a regular expression with a group named `group`,
            matched against the path below the source; None puts all images into one group, or takes the table's
            `group` column.
        after: a snapshot of the source whose images are not needed.
        column: names of the columns of tables, see the setting `column`.

    Raises:
        MuscRayError: no such source, no images in it, or it cannot be listed to its end.
        SettingsError: group_by is neither, or matches none of the images.
    """
    opened = open_source(source, column, grouped=group_by is None)
    snapshot = opened.snapshot()
    if snapshot is None:
        return _catalog(opened, group_by)
    if snapshot == after:
        return Catalog(snapshot=snapshot)
    found = _catalog(opened.between(snapshot, after), group_by, may_be_empty=after is not None)
    return replace(found, snapshot=snapshot)


def catalog_images(
    source: str, group_by: str | None = None, column: str | None = None
) -> dict[str, list[CatalogImage]]:
    """List the images of a source by group; see `list_images`."""
    return list_images(source, group_by, column=column).groups


def _catalog(source: Source, group_by: str | None, may_be_empty: bool = False) -> Catalog:
    """Give every entry its place: the one way into an archive."""
    group_of = None if group_by is None else group_pattern(group_by)
    groups: dict[str, dict[str, CatalogImage]] = {}
    skipped: list[Skipped] = []
    unreadable: list[Unreadable] = []
    folders: set[str] = set()
    names: set[tuple[str, str]] = set()
    for entry in list_source(source):
        if isinstance(entry, Skipped):
            skipped.append(entry._replace(uri=storable(entry.uri), message=storable(entry.message)))
            continue
        group = entry.group
        if group_of is not None:
            match = group_of.match(entry.relative)
            if match is None or not match["group"]:
                unreadable.append(_ungrouped(entry, group_by))
                continue
            group = match["group"]
        if isinstance(entry, Unreadable):
            unreadable.append(_storable_error(entry, group))
            continue
        if group_of is None:
            folders.add(entry.relative.rpartition("/")[0].partition("/")[0])
        again = _add(entry, storable(group), groups, names)
        if again is not None:
            skipped.append(again)
    found = Catalog(
        {group: [images[key] for key in sorted(images)] for group, images in sorted(groups.items())},
        skipped,
        unreadable,
        notes=grouping_notes(folders, groups) if group_of is None else (),
    )
    if not found.groups and not may_be_empty:
        raise _nothing(source.text, group_by, found)
    return found


def _add(
    entry: ListedImage, group: str, groups: dict[str, dict[str, CatalogImage]], names: set[tuple[str, str]]
) -> Skipped | None:
    """Add an image to its group; return it as skipped where the group has it by another name already.

    `names` holds the groups and first names of objects that have several: the first one may be in another group, or
    hidden.
    """
    images = groups.setdefault(group, {})
    key, first = image_id(entry.uri), entry.same_as
    if key in images or (first is not None and (image_id(first) in images or (group, first) in names)):
        message = f"{first or entry.uri} is the same image of group '{group}'."
        return Skipped(storable(entry.uri), "second_name", storable(message))
    if first is not None:
        names.add((group, first))
    images[key] = CatalogImage(key, storable(entry.uri), group, entry.version, entry.modified)
    return None


def _ungrouped(entry: ListedImage | Unreadable, group_by: str | None) -> Unreadable:
    message = f"group_by {group_by!r} does not fit its path {entry.relative!r}."
    return Unreadable(storable(entry.uri), storable(entry.relative), "", "GroupByError", storable(message))


def _storable_error(entry: Unreadable, group: str) -> Unreadable:
    return Unreadable(*(storable(text) for text in entry._replace(group=group)))


def _nothing(source: str, group_by: str | None, found: Catalog) -> MuscRayError:
    """Return the error of a source without images that can be grouped."""
    ungrouped = [entry for entry in found.unreadable if entry.error == "GroupByError"]
    if ungrouped:
        paths = ", ".join(repr(entry.relative) for entry in ungrouped[:MAX_EXAMPLES])
        return SettingsError(
            f"group_by {group_by!r} fits none of the {len(ungrouped)} images below {source}, such as {paths}."
        )
    suffixes = "/".join(sorted(suffix.lstrip(".") for suffix in IMAGE_SUFFIXES))
    others: list[Skipped | Unreadable] = [*found.unreadable, *found.skipped]
    first = " ".join(f"{entry.uri}: {entry.message}" for entry in others[:MAX_EXAMPLES])
    seen = f" {len(others):,} other entries were found, the first: {first}" if others else ""
    return MuscRayError(f"No images found in {source}: give a folder or URI with {suffixes} files.{seen}")


def storable(name: str) -> str:
    r"""Return a name as text that a table can hold: bytes that are not UTF-8 are spelled out, as \udcff.

    No file has that name, so that the image becomes a row of the errors table, which shows it.
    """
    return name.encode("utf-8", "backslashreplace").decode()


def skipped_table(skipped: Sequence[Skipped]) -> pa.Table:
    """Return the table of what a source listed and is not an image of the archive."""
    columns = list(zip(*skipped, strict=True)) or [(), (), ()]
    return pa.table([list(column) for column in columns], schema=SKIPPED)


def to_table(shards: dict[str, dict[int, list[CatalogImage]]], known_good: Mapping[str, Collection[str]]) -> pa.Table:
    """Return the catalog table of a run: all images with the shards that they belong to.

    Args:
        shards: images by group and shard.
        known_good: ids of those that are known to be good and are not scored, by group.
    """
    parts = [
        pa.table(
            [
                [image.image_id for image in images],
                [image.uri for image in images],
                [group] * len(images),
                [image.version for image in images],
                pa.array([shard] * len(images), pa.int32()),
                [image.modified for image in images],
                [image.image_id in known_good.get(group, ()) for image in images],
            ],
            schema=CATALOG,
        )
        for group, group_shards in shards.items()
        for shard, images in group_shards.items()
    ]
    return pa.concat_tables(parts) if parts else CATALOG.empty_table()
