"""Select the new images of a nightly run, and the window of earlier images that they are scored against."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta

from musc_ray.errors import SettingsError
from musc_ray.features.known_good import NOTHING_JUDGED, Judged
from musc_ray.features.workspace import Workspace
from musc_ray.nightly.history import Known
from musc_ray.sources.images import CatalogImage
from musc_ray.storage.feature_shards import existing_shards


@dataclass(frozen=True)
class Night:
    """What a nightly run scores.

    Attributes:
        images: by group, the new images and the earlier ones of the window, sorted by id.
        earlier: by group, the ids of the earlier ones.
        waiting: by group, the number of new images where they are too few to score each other.
        notes: what the user should know of windows that leave nothing.
    """

    images: dict[str, list[CatalogImage]] = field(default_factory=dict)
    earlier: dict[str, frozenset[str]] = field(default_factory=dict)
    waiting: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def select_night(
    workspace: Workspace,
    listed: Mapping[str, Sequence[CatalogImage]],
    known: Mapping[str, Mapping[str, Known]],
    today: date,
    judged: Judged = NOTHING_JUDGED,
) -> Night:
    """Select the new images and, among earlier images that have features, their window.

    Args:
        workspace: the OUT; of its settings since, window, references (number of earlier images, or all) and seed.
        listed: the source's images by group.
        known: earlier images, see `known_images`.
        today: in UTC; the window ends at the start of this day, or of `since`.
        judged: known good images, which are neither new nor of the window, and defective ones, which are not of it
            unless it is scored again.

    Raises:
        SettingsError: `since` with a source that does not say when its images were changed.
    """
    settings = workspace.settings
    start = datetime.combine(date.fromisoformat(settings.since) if settings.since else today, time(), UTC)
    oldest = start - timedelta(days=int(settings.window.rstrip("d"))) if settings.window else None
    night = Night()
    good, defective = judged.known_good_ids, {} if settings.rescore_window else judged.defective
    for group, images in judged.without_known_good(listed).items():
        of_group = known.get(group, {})
        new = [image for image in images if _is_new(image, of_group, start if settings.since else None)]
        if not new:
            continue
        others = {image.image_id for image in new} | good.get(group, frozenset()) | defective.get(group, frozenset())
        before = {image_id: k for image_id, k in of_group.items() if image_id not in others}
        recent = {image_id: k for image_id, k in before.items() if oldest is None or k.at >= oldest}
        if before and not recent:
            night.notes.append(_all_older(group, before, start, settings.window))
        earlier = list(_earlier(workspace, group, recent))
        if len(new) + len(earlier) < 2:
            night.waiting[group] = len(new)
            continue
        night.images[group] = sorted([*new, *earlier])
        night.earlier[group] = frozenset(image.image_id for image in earlier)
    return night


def _all_older(group: str, before: Mapping[str, Known], start: datetime, window: str | None) -> str:
    """Say that a window leaves none of the earlier images, and which window would."""
    newest = max(known.at for known in before.values())
    days = math.ceil((start - newest) / timedelta(days=1))
    return (
        f"Group '{group}': all {len(before):,} earlier images are older than the window {window}; the newest was "
        f"changed (or, if its source does not say, scored) at {newest.astimezone(UTC):%Y-%m-%d %H:%M} UTC: set window "
        f"to {days}d or more, or leave it out."
    )


def _is_new(image: CatalogImage, known: Mapping[str, Known], since: datetime | None) -> bool:
    """Whether an image was added or changed since `since`; without it, whether no run knows this version."""
    if since is None:
        before = known.get(image.image_id)
        return before is None or before.version != image.version
    if image.modified is None:
        raise SettingsError(
            f"The source does not say when {image.uri} was changed: use --new instead of --since {since.date()}."
        )
    return image.modified >= since


def _earlier(workspace: Workspace, group: str, recent: Mapping[str, Known]) -> Iterator[CatalogImage]:
    """Yield the images of the window: all, or M of them from whole shards in a seeded order, to read few shards."""
    if not recent:
        return
    settings = workspace.settings
    shards = existing_shards(workspace.out_paths, workspace.meta.features_id, group)
    left = len(recent) if settings.reference_count is None else settings.reference_count
    for number in sorted(shards, key=lambda number: _seeded(settings.seed, number)):
        for image in shards[number].images:
            known = recent.get(image.image_id)
            if left and image.error is None and known is not None and known.version == image.version:
                left -= 1
                yield CatalogImage(image.image_id, image.uri, group, image.version, known.at)


def _seeded(seed: int, number: int) -> str:
    """Sort key that stays when shards are added, so that consecutive nights have nearly the same references."""
    return hashlib.sha256(f"{seed}-{number}".encode()).hexdigest()
