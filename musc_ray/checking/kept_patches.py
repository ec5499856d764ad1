"""Which patches of checked images and of their references are kept, where masks or the foreground leave some out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from musc_ray.checking.query import Query
from musc_ray.checking.stored_group import CHECKED, StoredGroup
from musc_ray.core.kept_patches import KeptPatches
from musc_ray.errors import MuscRayError
from musc_ray.features.ignored import group_masks
from musc_ray.features.layer_reader import LayerReader
from musc_ray.scoring.by_sample import settled_in
from musc_ray.scoring.kept import FOREGROUND, masked_patches
from musc_ray.scoring.kept_flags import KeptTask
from musc_ray.scoring.kept_reader import flags_of_set
from musc_ray.scoring.kept_worker import flags_of, stored_flags
from musc_ray.scoring.patch_sets import PatchSet
from musc_ray.scoring.ring import RingShard
from musc_ray.storage.kept_table import KeptFlags
from musc_ray.storage.manifest import StartedManifest


@dataclass(frozen=True)
class GroupFlags:
    """The kept patches of a group's images by id, of those that are checked, and why others cannot be.

    Attributes:
        used: places where any of them keeps a patch.
    """

    stored: Mapping[str, KeptFlags]
    checked: Mapping[str, KeptFlags]
    failed: Mapping[str, str]
    used: KeptFlags

    def of(self, ids: Sequence[str], patch_set: PatchSet, checked: bool = False) -> KeptPatches | None:
        """Return the kept patches of some images, a row for each of their places; None where all are kept."""
        flags = self.checked if checked else self.stored
        rows = [flags_of_set(flags[image_id], patch_set) for image_id in ids]
        used = flags_of_set(self.used, patch_set).any(axis=0)
        return KeptPatches.of(np.concatenate(rows), np.asarray(used))


def find_flags(group: StoredGroup, query: Query, reader: LayerReader) -> GroupFlags | None:
    """Find the kept patches of a group's images, as its run did; None where all are kept.

    Raises:
        SettingsError: the masks are no longer there.
    """
    task = _task(group)
    if task is None:
        return None
    stored: dict[str, KeptFlags] = {}
    for shards in (group.mutual, group.known_good):
        for number, ids in shards.items():
            stored |= stored_flags(reader, replace(task, shard=RingShard(number, 0, ids)))[0]
    tokens = None if task.foreground is None else query.tokens(reader, group, task.foreground.layer)
    checked: dict[str, KeptFlags] = {}
    failed: dict[str, str] = {}
    for at, image in enumerate(query.images):
        meta, own = replace(group.meta, images=[image]), None if tokens is None else tokens[at : at + 1]
        of_image = replace(task, shard=RingShard(CHECKED, 0, (image.image_id,)))
        try:
            checked |= flags_of(of_image, meta, own, reader.is_compressed(group.name))[0]
        except MuscRayError as error:
            failed[image.image_id] = f"It cannot be scored: {error}."
    everyone = [*stored.values(), *checked.values()]
    whole, crops = (np.asarray(np.any([flags[side] for flags in everyone], axis=0)) for side in (0, 1))
    return GroupFlags(stored, checked, failed, (whole, crops))


def _task(group: StoredGroup) -> KeptTask | None:
    """Return what decides of the group's patches, of no images yet; None where all are kept."""
    settings = group.run.settings
    masks, found = {}, None
    if settings.ignore is not None:
        started = StartedManifest.read(group.run_paths)
        names = started.groups if started else (group.name,)
        of_group = group_masks(settings, dict.fromkeys(names, ())).get(group.name)
        masks = {} if of_group is None else masked_patches(of_group, group.meta)
    if settings.foreground == "auto":
        answer = settled_in(group.run_paths, FOREGROUND).get(group.name)
        found = None if answer is None else answer.found
    return KeptTask(group.name, RingShard(CHECKED, 0, ()), masks, found) if masks or found is not None else None
