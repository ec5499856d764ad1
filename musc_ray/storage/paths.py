"""Every path below OUT, in one place."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

import fsspec

from musc_ray.storage.filesystem import is_local, open_filesystem
from musc_ray.storage.listing import names_in

NUMBERED = re.compile(r"/shard-(\d+)\.\w+\Z")

MAX_NAME_LENGTH = 180
"""Longer escaped group names are cut and made unique by a hash: file systems allow 255 bytes a name."""

MAX_SLUG_LENGTH = 40
OLD_GROUP = "group="

COMPRESSION, BASIS = "_compression.json", "_basis-"
"""Files beside a group's feature shards; readers of Parquet pass over names with `_`."""


def escape_group(group: str) -> str:
    """Return a group's name as one path segment: percent-encoded, so that `/`, `..` and newlines are harmless."""
    escaped = quote(group, safe="")
    if len(escaped) > MAX_NAME_LENGTH:
        escaped = f"{escaped[:MAX_NAME_LENGTH]}-{hashlib.sha256(group.encode()).hexdigest()[:16]}"
    return escaped


def part_prefix(group: str) -> str:
    """Return how the names of a group's files begin in the flat folder of a table.

    Without `=` and a leading `_` or `.`, which engines take for partitions and hidden files; the hash keeps `A` and `a`
    apart where file names ignore case.
    """
    slug = re.sub(r"[^A-Za-z0-9._-]+", "", group)[:MAX_SLUG_LENGTH]
    digest = hashlib.sha256(group.encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return "-".join(filter(None, ("part", slug, digest))) + "-"


@dataclass(frozen=True)
class OutPaths:
    """Paths below an OUT folder or prefix on its filesystem."""

    fs: fsspec.AbstractFileSystem
    root: str

    @classmethod
    def at(cls, out: str) -> "OutPaths":
        """Return the paths of an OUT given as a path or URI."""
        return cls(*open_filesystem(out))

    def uri(self, path: str) -> str:
        """Return a path as a user would type it: plain when local, with its protocol otherwise."""
        return path if is_local(self.fs) else str(self.fs.unstrip_protocol(path))

    def written_shards(self, folder: str) -> dict[int, str]:
        """List the files `shard-<n>.*` of a folder by number; empty where the folder is missing."""
        found = ((NUMBERED.search(path), path) for path in names_in(self.fs, folder))
        return {int(match[1]): path for match, path in found if match}

    def table_files(self, folder: str) -> list[str]:
        """List the Parquet files of a folder, sorted; empty where the folder is missing."""
        return [path for path in names_in(self.fs, folder) if path.endswith(".parquet")]

    def features(self, features_id: str, group: str) -> str:
        """Folder of a group's feature shards."""
        return f"{self.root}/features/{features_id}/group={escape_group(group)}"

    def shard(self, features_id: str, group: str, shard: int) -> str:
        """A feature shard."""
        return f"{self.features(features_id, group)}/shard-{shard:05d}.parquet"

    def intensity(self, features_id: str, group: str) -> str:
        """What a group's deep pixels are scaled from, found once; readers of Parquet pass over names with `_`."""
        return f"{self.features(features_id, group)}/_intensity.json"

    def image_size(self, features_id: str, group: str) -> str:
        """The image size of a group whose shape is kept, found once."""
        return f"{self.features(features_id, group)}/_image_size.json"

    def compression(self, features_id: str, group: str) -> str:
        """Whether a group's features are compressed, and with which basis; decided once."""
        return f"{self.features(features_id, group)}/{COMPRESSION}"

    def basis(self, features_id: str, group: str, sha256: str) -> str:
        """The directions that a group's features are compressed with."""
        return f"{self.features(features_id, group)}/{BASIS}{sha256[:16]}.npz"

    def settled(self, features_id: str, group: str, question: str, settings: str) -> str:
        """What a sample of a group said once, for the settings of a digest; see `scoring/by_sample.py`."""
        return f"{self.features(features_id, group)}/_{question}-{settings}.json"

    @property
    def night_lease(self) -> str:
        """Held by a nightly run, so that there is one at a time."""
        return f"{self.root}/nightly-lease.json"

    @property
    def gc_lease(self) -> str:
        """Held while unneeded files are removed, so that no run begins meanwhile."""
        return f"{self.root}/gc-lease.json"

    @property
    def lake(self) -> str:
        """Folder of the Iceberg tables of an OUT whose settings name no other place for them."""
        return f"{self.root}/lake"

    @property
    def runs(self) -> str:
        """Folder of all runs."""
        return f"{self.root}/runs"

    def run_ids(self) -> list[str]:
        """List the runs that have a folder, complete or not, sorted."""
        return [PurePosixPath(folder).name for folder in names_in(self.fs, self.runs)]

    def run(self, run_id: str) -> "RunPaths":
        """Return the paths of a run."""
        return RunPaths(self, run_id)


@dataclass(frozen=True)
class RunPaths:
    """Paths of one run below an OUT."""

    out: OutPaths
    run_id: str

    @property
    def fs(self) -> fsspec.AbstractFileSystem:
        """The filesystem of the OUT."""
        return self.out.fs

    def uri(self, path: str) -> str:
        """Return a path as a user would type it."""
        return self.out.uri(path)

    @property
    def folder(self) -> str:
        """All that the run writes."""
        return f"{self.out.runs}/{self.run_id}"

    @property
    def run_json(self) -> str:
        """What a complete run did (`RunManifest`); written last."""
        return f"{self.folder}/run.json"

    @property
    def started_json(self) -> str:
        """What a run will do (`StartedManifest`); written first, so that `status` can measure its progress."""
        return f"{self.folder}/started.json"

    @property
    def progress_json(self) -> str:
        """Progress of the run's stages; written now and then during the run."""
        return f"{self.folder}/progress.json"

    @property
    def lease(self) -> str:
        """Held by the command that computes the run, so that no other does the same work beside it."""
        return f"{self.folder}/lease.json"

    @property
    def catalog(self) -> str:
        """The run's images."""
        return f"{self.folder}/catalog.parquet"

    @property
    def scores(self) -> str:
        """Folder of the scores table, flat: the group is a column."""
        return f"{self.folder}/scores"

    @property
    def neighbours(self) -> str:
        """Folder of the table of most similar images; its files are named as those of the scores."""
        return f"{self.folder}/neighbours"

    @property
    def defects(self) -> str:
        """Folder of the table of repeated defects; its files are named as those of the scores."""
        return f"{self.folder}/defects"

    @property
    def errors(self) -> str:
        """Folder of the errors table."""
        return f"{self.folder}/errors"

    @property
    def skipped(self) -> str:
        """Folder of the table of what lay under SOURCE and was not taken for an image."""
        return f"{self.folder}/skipped"

    def settled(self, question: str) -> str:
        """What the run settled from samples, by group."""
        return f"{self.folder}/{question}.json"

    @property
    def failed_json(self) -> str:
        """Why the last attempt of a run that is not complete failed; removed when it begins again."""
        return f"{self.folder}/failed.json"

    def part(self, table: str, group: str, shard: int) -> str:
        """Return the file of one shard's images in the folder of a table, such as `self.scores`."""
        return f"{table}/{part_prefix(group)}{shard:05d}.parquet"

    def parts(self, table: str, group: str) -> list[str]:
        """List a group's files in the folder of a table, sorted."""
        return self.parts_of(table, [group])[group]

    def parts_of(self, table: str, groups: Sequence[str]) -> dict[str, list[str]]:
        """List the files of several groups in the folder of a table, from one listing."""
        found: dict[str, list[str]] = {}
        for path in self.all_parts(table):
            name, folder = PurePosixPath(path).name, PurePosixPath(path).parent.name
            key = f"{folder}/" if folder.startswith(OLD_GROUP) else f"{name.rpartition('-')[0]}-"
            found.setdefault(key, []).append(path)
        old = {group: found.get(f"{OLD_GROUP}{escape_group(group)}/", []) for group in groups}
        return {group: found.get(part_prefix(group), []) or old[group] for group in groups}

    def all_parts(self, table: str) -> list[str]:
        """List the files of a table, sorted; runs of schema version 0 have a folder a group."""
        found = names_in(self.fs, table)
        old = [path for path in found if PurePosixPath(path).name.startswith(OLD_GROUP)]
        flat = [path for path in found if path.endswith(".parquet") and path not in old]
        return flat + [path for folder in old for path in self.out.table_files(folder)]

    @property
    def work(self) -> str:
        """Folder of intermediate results; removed when the run is complete."""
        return f"{self.folder}/work"

    @property
    def bases_json(self) -> str:
        """Hashes of the bases that the run's bands were computed with, by group."""
        return f"{self.work}/bases.json"

    def bands(self, group: str, layer: int, patch_set: int = 0) -> str:
        """Folder of a group's bands of one layer and set of patches; those of set 0 hold the folders of the others."""
        of_set = f"/set-{patch_set:04d}" if patch_set else ""
        return f"{self.work}/bands/group={escape_group(group)}/layer-{layer:02d}{of_set}"

    def band(self, group: str, layer: int, shard: int, patch_set: int = 0) -> str:
        """Patch scores of one shard's images for one layer and set: the unit of resume of the mutual stage."""
        return f"{self.bands(group, layer, patch_set)}/shard-{shard:05d}.npy"

    def repeats(self, group: str) -> str:
        """Folder of what is known of a group's repeated defects."""
        return f"{self.work}/repeats/group={escape_group(group)}"

    def nearest(self, group: str, layer: int, shard: int) -> str:
        """Nearest images of one shard's patches for one layer, where repeated defects are looked for."""
        return f"{self.repeats(group)}/nearest/layer-{layer:02d}/shard-{shard:05d}.npy"

    def far(self, group: str, layer: int, shard: int) -> str:
        """The distances that those of the nearest images are compared with."""
        return f"{self.repeats(group)}/far/layer-{layer:02d}/shard-{shard:05d}.npy"

    def rescored_bands(self, group: str, layer: int) -> str:
        """Folder of a group's bands that were scored again without repeated defects."""
        return f"{self.repeats(group)}/bands/layer-{layer:02d}"

    def rescored_band(self, group: str, layer: int, shard: int) -> str:
        """One of these bands."""
        return f"{self.rescored_bands(group, layer)}/shard-{shard:05d}.npy"

    def maps(self, group: str, shard: int) -> str:
        """Patch maps and raw scores of one shard's images."""
        return f"{self.work}/maps/group={escape_group(group)}/shard-{shard:05d}.parquet"

    def set_maps(self, group: str, shard: int) -> str:
        """Maps of all places of one shard's images, where they are cut."""
        return f"{self.work}/set_maps/group={escape_group(group)}/shard-{shard:05d}.npy"

    def salient(self, group: str, shard: int) -> str:
        """Features of the most anomalous patches of one shard's images, where RsCon compares them."""
        return f"{self.work}/salient/group={escape_group(group)}/shard-{shard:05d}.npy"

    @property
    def heatmaps(self) -> str:
        """Folder of exported heat maps, where no other is asked for."""
        return f"{self.folder}/heatmaps"

    @property
    def report(self) -> str:
        """Folder of the report, a static site whose first page is index.html."""
        return f"{self.folder}/report"

    @property
    def evaluation(self) -> str:
        """Folder of a run's evaluation: its metrics and the labels they were computed with."""
        return f"{self.folder}/evaluation"
