"""What an OUT holds of a group: the run that scored it last, and the images whose features are its references."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.settings.messages import shown
from musc_ray.storage.complete_runs import complete_run, complete_runs
from musc_ray.storage.feature_shards import MAX_FOOTERS
from musc_ray.storage.manifest import RunManifest, StartedManifest
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import OutPaths, RunPaths
from musc_ray.storage.shards import FeaturesMeta, read_meta
from musc_ray.storage.verdicts import judged_versions, latest_verdicts

CHECKED = -1
"""Number of the shard that a checked image stands for on the ring: a later run would give it one of its own."""

MAX_NAMED = 10
"""Groups that an error names."""

Shards = Mapping[int, Sequence[str]]
"""Ids of images with features, by number of their shard, in the order of its rows."""

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class StoredGroup:
    """A group of an OUT.

    Attributes:
        run: that scored it.
        name: of the group.
        meta: what its shards have in common.
        mutual: images that score each other, and a checked image.
        known_good: images that persons vouch for: the nearest one bounds the average over the mutual ones.
        aside: images that persons found defective: they have scores, and are nobody's reference.
        uris: of all of them, by id.
    """

    out_paths: OutPaths
    run: RunManifest
    name: str
    meta: FeaturesMeta
    mutual: Shards
    known_good: Shards = field(default_factory=dict)
    aside: Shards = field(default_factory=dict)
    uris: Mapping[str, str] = field(default_factory=dict)

    @property
    def run_paths(self) -> RunPaths:
        """Return the paths of the run."""
        return self.out_paths.run(self.run.run_id)

    @property
    def images(self) -> int:
        """Count the mutual images."""
        return sum(map(len, self.mutual.values()))

    @property
    def scored(self) -> list[RingShard]:
        """Return the images that have scores, mutual ones first."""
        shards = (*self.mutual.items(), *self.aside.items())
        return [RingShard(number, 0, tuple(ids)) for number, ids in shards]

    def path(self, shard: int) -> str:
        """Return the path of a shard."""
        return self.out_paths.shard(self.run.features_id, self.name, shard)

    def references_of(self, image_id: str) -> dict[int, Flags]:
        """Tell which mutual images a checked image is scored against, by shard, (B,) bool each.

        Those of a run that holds the image, too: all others, or, with `references: M`, those in the window of the ring
        on which the image stands as a shard of its own. In a night all of its window count.
        """
        if any(image_id in ids for ids in self.aside.values()):
            return self._references_aside()
        others = {shard: [other for other in ids if other != image_id] for shard, ids in self.mutual.items()}
        kept = {shard: ids for shard, ids in others.items() if ids}
        ring = self._ring(kept | {CHECKED: [image_id]})
        own, found = ring.shards[CHECKED].positions, {}
        for shard, ids in self.mutual.items():
            flags = np.array([other != image_id for other in ids], np.bool_)
            if shard in kept:
                flags[flags] = ring.window.contains(own, ring.shards[shard].positions)[0]
            found[shard] = flags
        return found

    def _references_aside(self) -> dict[int, Flags]:
        """Return `references_of` an image that a person found defective: a run scores it against images of the ring."""
        from musc_ray.scoring.known_good_worker import reference_shards  # here: imports torch

        chosen = {i for shard in reference_shards(self._ring(self.mutual), self.run.settings.seed) for i in shard.ids}
        return {shard: np.array([i in chosen for i in ids], np.bool_) for shard, ids in self.mutual.items()}

    def _ring(self, shards: Shards) -> GroupImages:
        references = self.run.settings.reference_count if self.run.night is None else None
        return GroupImages.of(self.name, shards, self.meta.grid_of((0,)), references, self.run.settings.seed)


def scored_groups(out_paths: OutPaths, run_id: str | None) -> dict[str, RunManifest]:
    """Return the groups of an OUT, each with the run that scored it last, or with a run of this name.

    Raises:
        MuscRayError: there is no complete run, or not this one.
    """
    runs = [complete_run(out_paths, run_id)]  # an OUT without any is refused
    if run_id is None:
        runs = complete_runs(out_paths)
    found: dict[str, RunManifest] = {}
    for run in runs:
        started = StartedManifest.read(out_paths.run(run.run_id))
        found |= dict.fromkeys(run.scored(started.groups if started else ()), run)
    return found


def groups_there(runs: Mapping[str, RunManifest]) -> str:
    """Name the groups of an OUT, for an error."""
    more = ", ..." if len(runs) > MAX_NAMED else ""
    return f"the groups there are {', '.join(map(shown, sorted(runs)[:MAX_NAMED]))}{more}"


def run_of_group(runs: Mapping[str, RunManifest], group: str) -> RunManifest:
    """Return the run of a group.

    Raises:
        SettingsError: there is no such group; names those there are.
    """
    if group not in runs:
        raise SettingsError(f"No complete run has scored a group {shown(group)}: {groups_there(runs)}.")
    return runs[group]


def open_group(out_paths: OutPaths, run: RunManifest, name: str) -> StoredGroup:
    """Read what a run's features hold of a group: the footers of its shards.

    Verdicts count as they are now, whatever they were when the run began: a run that came now would heed them, too.

    Raises:
        BrokenShardError: a shard is broken.
        MuscRayError: the features are no longer there.
    """
    table = read_table(out_paths.fs, out_paths.run(run.run_id).catalog)
    rows = table.filter(pc.equal(table["group"], name))
    ids, uris, versions = (rows[column].to_pylist() for column in ("image_id", "uri", "version"))
    version_of, numbers = dict(zip(ids, versions, strict=True)), sorted(set(rows["shard"].to_pylist()))
    metas = _read_metas(out_paths, run, name, numbers)
    good, defective = _judged(out_paths, run, rows)
    mutual: dict[int, list[str]] = {}
    known_good: dict[int, list[str]] = {}
    aside: dict[int, list[str]] = {}
    for number, meta in zip(numbers, metas, strict=True):
        for image in meta.extracted:
            key = image.image_id
            if version_of.get(key) == image.version:
                role = known_good if key in good else aside if key in defective else mutual
                role.setdefault(number, []).append(key)
    if not mutual and (known_good or aside):
        raise MuscRayError(
            f"All images of group {shown(name)} of run {run.run_id} are known to be good or found defective, so that "
            "none is left to compare with: add images, or take verdicts back."
        )
    if not mutual:
        raise _no_features(out_paths, run, name)
    common = replace(metas[numbers.index(next(iter(mutual)))], images=[], one_picture=None)
    uri_of = dict(zip(ids, uris, strict=True))
    return StoredGroup(out_paths, run, name, common, mutual, known_good, aside, uri_of)


def _judged(out_paths: OutPaths, run: RunManifest, rows: pa.Table) -> tuple[set[str], set[str]]:
    """Return the ids of a group's known good images, and of those that are nobody's reference.

    Known good are those of the run's source of them, and those whose latest verdict is good.
    """
    ids, versions = rows["image_id"].to_pylist(), rows["version"].to_pylist()
    said = latest_verdicts(out_paths)
    judged = judged_versions(out_paths, {image_id: said[image_id] for image_id in ids if image_id in said})
    verdicts = {
        image_id: said[image_id].verdict
        for image_id, version in zip(ids, versions, strict=True)
        if version in judged.get(image_id, ())
    }
    good = {image_id for image_id in ids if verdicts.get(image_id) == "good"}
    defective = {image_id for image_id in ids if verdicts.get(image_id) == "defective"}
    if run.settings.known_good is not None and "known_good" in rows.column_names:
        flags = rows["known_good"].to_pylist()
        good |= {image_id for image_id, is_good in zip(ids, flags, strict=True) if is_good} - defective
    return good, set() if run.settings.repeated_defects else defective


def _read_metas(out_paths: OutPaths, run: RunManifest, name: str, numbers: Sequence[int]) -> list[FeaturesMeta]:
    def read(number: int) -> FeaturesMeta:
        return read_meta(out_paths.fs, out_paths.shard(run.features_id, name, number))

    try:
        with ThreadPoolExecutor(MAX_FOOTERS) as pool:
            return list(pool.map(read, numbers))
    except FileNotFoundError as error:
        raise _no_features(out_paths, run, name) from error


def _no_features(out_paths: OutPaths, run: RunManifest, name: str) -> MuscRayError:
    why, how = ("they were deleted", "") if run.settings.keep_features else ("keep_features is false", " and keep them")
    return MuscRayError(
        f"The features of group {shown(name)} of run {run.run_id} are no longer in {out_paths.uri(out_paths.root)} "
        f"({why}), so that nothing can be compared with them: run the same again with --overwrite{how}."
    )
