"""The images that are to be checked: listed as a run lists them, each with its group."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from musc_ray.checking.results import UncheckedImage
from musc_ray.checking.stored_group import groups_there
from musc_ray.errors import MuscRayError
from musc_ray.settings.messages import shown
from musc_ray.sources.catalog import storable
from musc_ray.sources.grouping import group_pattern
from musc_ray.sources.images import DEFAULT_GROUP, CatalogImage, ListedImage, Skipped, Unreadable, image_id
from musc_ray.sources.registry import list_source, open_source
from musc_ray.sources.walk import base_of_glob
from musc_ray.storage.filesystem import open_filesystem
from musc_ray.storage.manifest import RunManifest


@dataclass(frozen=True)
class GivenImages:
    """The images to check by group, those that cannot be, and how many other files lie among them."""

    groups: dict[str, list[CatalogImage]]
    failed: Sequence[UncheckedImage]
    skipped: int


def list_given(given: Sequence[str], runs: Mapping[str, RunManifest], group: str | None) -> GivenImages:
    """List images and find the group of each.

    Args:
        given: paths or URIs of images, folders, globs or tables.
        runs: of the groups there are.
        group: of all images; None: of each by its path, as the run does.
    """
    latest = max(runs.values(), key=lambda run: run.scored_at)
    groups: dict[str, dict[str, CatalogImage]] = {}
    failed: list[UncheckedImage] = []
    skipped = 0
    for text in given:
        found, others, unreadable = _entries(text, latest.settings.column)
        failed += unreadable
        skipped += len(others)
        if not found and not unreadable:
            reason = others[0].message if others else "It holds no image."
            failed.append(UncheckedImage(storable(text), storable(reason)))
        for image in found:
            try:
                name = group or group_of(image, runs, latest)
            except MuscRayError as error:
                failed.append(UncheckedImage(storable(image.uri), storable(str(error))))
                continue
            key, uri = image_id(image.uri), storable(image.uri)
            groups.setdefault(name, {})[key] = CatalogImage(key, uri, name, image.version, image.modified)
    return GivenImages({name: list(images.values()) for name, images in groups.items()}, failed, skipped)


def _entries(text: str, column: str | None) -> tuple[list[ListedImage], list[Skipped], list[UncheckedImage]]:
    """List what is given: images, other files, and what cannot be read or listed."""
    found: list[ListedImage] = []
    skipped: list[Skipped] = []
    failed: list[UncheckedImage] = []
    try:
        for entry in list_source(open_source(text, column)):
            if isinstance(entry, ListedImage):
                found.append(entry)
            elif isinstance(entry, Unreadable):
                failed.append(UncheckedImage(storable(entry.uri), storable(entry.message)))
            else:
                skipped.append(entry)
    except MuscRayError as error:
        failed.append(UncheckedImage(storable(text), storable(str(error))))
    return found, skipped, failed


def group_of(image: ListedImage, runs: Mapping[str, RunManifest], latest: RunManifest) -> str:
    """Return the group of an image: by its path below the run's source, or else by the part of its path that names one.

    Raises:
        MuscRayError: its path names none that there is, or several.
    """
    only = next(iter(runs)) if len(runs) == 1 else None
    if latest.settings.group_by is None:
        name = image.group if image.group in runs and image.group != DEFAULT_GROUP else only
        if name is None:
            raise MuscRayError(f"Nothing says which group it belongs to: give --group; {groups_there(runs)}.")
        return name
    pattern = group_pattern(latest.settings.group_by)
    below = _below_source(image.uri, latest.settings.source)
    if below is not None:
        match = pattern.match(below)
        if match is not None and match["group"] in runs:
            return str(match["group"])
        named = "" if match is None else f" {shown(match['group'])}"
        raise MuscRayError(f"No run has scored its group{named}: give --group; {groups_there(runs)}.")
    named_groups = {match["group"] for match in map(pattern.match, _endings(image)) if match is not None} & runs.keys()
    if len(named_groups) == 1:
        return str(named_groups.pop())
    if named_groups or only is None:
        which = "several groups" if named_groups else "no group that a run has scored"
        raise MuscRayError(f"Its path names {which}: give --group; {groups_there(runs)}.")
    return only


def _below_source(uri: str, source: str | None) -> str | None:
    """Return the path of an image below a run's folder, prefix or glob; None where it does not lie there."""
    if source is None:
        return None
    fs, root = open_filesystem(source.partition("?filter=")[0])
    base = base_of_glob(root) if re.search(r"[*?\[]", root) else root
    start = str(fs.unstrip_protocol(base)).rstrip("/") + "/"
    return uri.removeprefix(start) if uri.startswith(start) else None


def _endings(image: ListedImage) -> Iterator[str]:
    """Yield what may be an image's path below some source: as it was given, then less and less of its whole path."""
    yield image.relative
    path = image.uri.partition("://")[2].lstrip("/")
    while path:
        yield path
        path = path.partition("/")[2]
