"""Which images of each group persons vouch for or have found defective, before any image is scored.

Known good are the images of the setting `known_good`, and those of OUT whose latest verdict is good. Defective are
those whose latest verdict says so: they are scored, but no other image is compared with them.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from musc_ray.errors import SettingsError
from musc_ray.features.group_names import named
from musc_ray.settings.model import Settings
from musc_ray.sources.catalog import Catalog, list_images
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.verdicts import judged_versions, latest_verdicts

Listed = Mapping[str, Sequence[CatalogImage]]
"""Images by group, in the order of their ids."""

Ids = Mapping[str, frozenset[str]]
"""Ids of images by group."""


@dataclass(frozen=True)
class Roles:
    """The images of a run that are not scored among the others.

    Attributes:
        known_good: ids of those that persons vouch for: they are compared with, and not scored.
        defective: ids of those that persons found defective: they are scored, and not compared with.
        digests: of what is known of each group, see `Judged.digests`.
    """

    known_good: Ids = field(default_factory=dict)
    defective: Ids = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Mapping[str, object]]:
        """Return what is part of a run's identity."""
        kinds = {"known_good": self.known_good, "defective": self.defective}
        return {kind: {name: sorted(ids) for name, ids in found.items()} for kind, found in kinds.items()}


@dataclass(frozen=True)
class Judged:
    """What is known of some images beforehand.

    Attributes:
        known_good: images that persons vouch for, by group.
        defective: ids of images that persons found defective, by group.
        catalog: what the source of known good images listed; empty without one.
        notes: what the user should know of them.
    """

    known_good: Mapping[str, tuple[CatalogImage, ...]] = field(default_factory=dict)
    defective: Ids = field(default_factory=dict)
    catalog: Catalog = field(default_factory=Catalog)
    notes: tuple[str, ...] = ()

    @property
    def known_good_ids(self) -> Ids:
        """Return the ids of the known good images of each group that has any."""
        return {name: frozenset(image.image_id for image in images) for name, images in self.known_good.items()}

    def without_known_good(self, listed: Listed) -> dict[str, list[CatalogImage]]:
        """Return the images of each group that are to be scored."""
        known = self.known_good_ids
        return {
            name: [image for image in images if image.image_id not in known.get(name, ())]
            for name, images in listed.items()
        }

    def with_known_good(self, listed: Listed) -> dict[str, list[CatalogImage]]:
        """Return all images of the listed groups that need features, in the order of their ids."""
        return {
            name: sorted({image.image_id: image for image in (*images, *self.known_good.get(name, ()))}.values())
            for name, images in listed.items()
        }

    @property
    def digests(self) -> dict[str, str]:
        """Return a hash of each group's ids, by which later runs tell whether anything has changed."""
        good = self.known_good_ids
        ids = {
            name: [sorted(good.get(name, ())), sorted(self.defective.get(name, ()))]
            for name in {**good, **self.defective}
        }
        return {name: hashlib.sha256(json.dumps(both).encode()).hexdigest()[:16] for name, both in ids.items()}

    def roles(self, to_score: Listed) -> Roles:
        """Return what is known of the groups of some images that are to be scored."""
        good = {name: ids for name, ids in self.known_good_ids.items() if name in to_score}
        present = {name: {image.image_id for image in images} for name, images in to_score.items()}
        defective = {name: ids & present[name] for name, ids in self.defective.items() if name in present}
        return Roles(good, {name: ids for name, ids in defective.items() if ids}, self.digests)


NOTHING_JUDGED = Judged()
"""Of images of which nothing is known beforehand."""


def judged_images(settings: Settings, out_paths: OutPaths, listed: Listed, whole: bool = True) -> Judged:
    """Find which images of the listed groups are known to be good or defective.

    Args:
        settings: known_good, and how images are listed and grouped.
        out_paths: of the OUT, whose verdicts count.
        listed: the images of the source.
        whole: whether these are all images of the source; nights and rescored groups may well be of other groups than
            the known good images.

    Raises:
        SettingsError: no known good image of the setting is of a listed group, although all images are listed.
        MuscRayError: the source of known good images cannot be listed, or verdicts cannot be read.
    """
    source = vouched_images(settings, listed, whole)
    good = {name: {image.image_id: image for image in images} for name, images in source.known_good.items()}
    defective = _add_verdicts(out_paths, listed, good)
    known_good = {name: tuple(sorted(images.values())) for name, images in good.items() if images}
    return replace(source, known_good=known_good, defective=defective)


def vouched_images(settings: Settings, listed: Listed, whole: bool = True) -> Judged:
    """Find the images of the setting `known_good` that are of the listed groups; the OUT's verdicts are not read.

    Args:
        settings, listed, whole: as for `judged_images`.

    Raises:
        SettingsError, MuscRayError: as `judged_images`.
    """
    if settings.known_good is None:
        return NOTHING_JUDGED
    catalog = list_images(settings.known_good, settings.group_by, column=settings.column)
    notes = _check_groups(settings.known_good, catalog, listed, whole)
    known_good = {name: tuple(images) for name, images in catalog.groups.items() if name in listed}
    return Judged(known_good, catalog=catalog, notes=notes)


def _add_verdicts(out_paths: OutPaths, listed: Listed, good: dict[str, dict[str, CatalogImage]]) -> Ids:
    """Add the images whose latest verdict is good to the known good ones; return the ids of the defective ones."""
    verdicts = {image_id: found for image_id, found in latest_verdicts(out_paths).items() if found.verdict != "unsure"}
    if not verdicts:
        return {}
    present = {image.image_id: image for images in listed.values() for image in images if image.image_id in verdicts}
    judged = judged_versions(out_paths, verdicts)
    defective: dict[str, set[str]] = {}
    for image_id, found in verdicts.items():
        versions = judged.get(image_id, {})
        image = present.get(image_id) or next(map(_image_of, versions.values()), None)
        if image is None or image.group not in listed or image.version not in versions:
            continue  # another group, or a file that was changed since it was judged
        if found.verdict == "good":
            good.setdefault(image.group, {})[image_id] = image
        else:
            defective.setdefault(image.group, set()).add(image_id)
            good.get(image.group, {}).pop(image_id, None)
    return {name: frozenset(ids) for name, ids in defective.items()}


def _image_of(row: Mapping[str, Any]) -> CatalogImage:
    return CatalogImage(row["image_id"], row["uri"], row["group"], row["version"], row.get("modified"))


def _check_groups(known_good: str, catalog: Catalog, listed: Listed, whole: bool) -> tuple[str, ...]:
    """Compare the groups of known good images with those of the source; returns a note on those that are not there.

    Where not all images of the source are listed there is a note only if no group is: others are listed another time.

    Raises:
        SettingsError: no group is, although all images of the source are listed.
    """
    others = [name for name in catalog.groups if name not in listed]
    none_is = len(others) == len(catalog.groups)
    if not others or not (whole or none_is):
        return ()
    names, there = named(others, "group"), named(list(listed), "group")
    if not whole:
        return (f"The known good images of {known_good} are of {names}, of which nothing is listed now: not used.",)
    if none_is:
        raise SettingsError(
            f"The known good images of {known_good} are of {names}, the source has {there}: put them into folders, or "
            "give group_by, so that both have the same groups."
        )
    images = sum(len(catalog.groups[name]) for name in others)
    return (f"{images:,} known good images are of {names}, which the source does not have: they are not used.",)
