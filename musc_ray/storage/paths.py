"""Every path below OUT, in one place."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import quote

import fsspec

from musc_ray.storage.filesystem import is_local, open_filesystem

NUMBERED = re.compile(r"/shard-(\d+)\.\w+\Z")

LONGEST_NAME = 180
"""Longer escaped group names are cut and made unique by a hash: file systems allow 255 bytes a name."""


def escape_group(group: str) -> str:
    """A group's name as one path segment: percent-encoded, so that `/`, `..`, spaces and newlines are harmless."""
    escaped = quote(group, safe="")
    if len(escaped) > LONGEST_NAME:
        escaped = f"{escaped[:LONGEST_NAME]}-{hashlib.sha256(group.encode()).hexdigest()[:16]}"
    return escaped


@dataclass(frozen=True)
class Layout:
    """Paths below an OUT folder or prefix on its filesystem."""

    fs: fsspec.AbstractFileSystem
    root: str

    @classmethod
    def at(cls, out: str) -> "Layout":
        """The layout of an OUT given as a path or URI."""
        return cls(*open_filesystem(out))

    def features(self, features_id: str, group: str) -> str:
        """Folder of a group's feature shards."""
        return f"{self.root}/features/{features_id}/group={escape_group(group)}"

    def written_shards(self, folder: str) -> dict[int, str]:
        """The files `shard-<n>.*` of a folder by number, from one listing; none where there is no folder."""
        if not self.fs.exists(folder):
            return {}
        self.fs.invalidate_cache(folder)
        found = ((NUMBERED.search(path), path) for path in sorted(self.fs.ls(folder, detail=False)))
        return {int(match[1]): path for match, path in found if match}

    def table_files(self, folder: str) -> list[str]:
        """The Parquet files of a folder; none where there is no folder."""
        if not self.fs.exists(folder):
            return []
        return sorted(path for path in self.fs.ls(folder, detail=False) if path.endswith(".parquet"))

    def shard(self, features_id: str, group: str, shard: int) -> str:
        """A feature shard."""
        return f"{self.features(features_id, group)}/shard-{shard:05d}.parquet"

    @property
    def night_lease(self) -> str:
        """Held by the nightly that is at work, so that there is one at a time."""
        return f"{self.root}/nightly-lease.json"

    @property
    def gc_lease(self) -> str:
        """Held while what no run needs is removed, so that no run begins meanwhile."""
        return f"{self.root}/gc-lease.json"

    @property
    def runs(self) -> str:
        """Folder of all runs."""
        return f"{self.root}/runs"

    def run_ids(self) -> list[str]:
        """The runs that have a folder, complete or not, sorted."""
        if not self.fs.exists(self.runs):
            return []
        return sorted(PurePosixPath(folder).name for folder in self.fs.ls(self.runs, detail=False))

    def run(self, run_id: str) -> str:
        """Folder of a run."""
        return f"{self.runs}/{run_id}"

    def run_json(self, run_id: str) -> str:
        """What a complete run did; written last."""
        return f"{self.run(run_id)}/run.json"

    def started_json(self, run_id: str) -> str:
        """What a run is going to do; written first, so that `status` can tell how far it is."""
        return f"{self.run(run_id)}/started.json"

    def progress_json(self, run_id: str) -> str:
        """How far the run's stages are; written now and then while it goes on."""
        return f"{self.run(run_id)}/progress.json"

    def catalog(self, run_id: str) -> str:
        """The run's images."""
        return f"{self.run(run_id)}/catalog.parquet"

    def scores(self, run_id: str, group: str) -> str:
        """Folder of a group's part of the scores table."""
        return f"{self.run(run_id)}/scores/group={escape_group(group)}"

    def score_files(self, run_id: str, group: str) -> list[str]:
        """The files of a group's part of the scores table."""
        return self.table_files(self.scores(run_id, group))

    def all_score_files(self, run_id: str) -> list[str]:
        """The files of a run's scores table, group by group."""
        return sorted(self.fs.glob(f"{self.run(run_id)}/scores/*/*.parquet"))

    @property
    def lake(self) -> str:
        """Folder of the Iceberg tables of an OUT whose settings name no other place for them."""
        return f"{self.root}/lake"

    def neighbours(self, run_id: str, group: str) -> str:
        """Folder of a group's most similar images, a file for each file of scores."""
        return f"{self.run(run_id)}/neighbours/group={escape_group(group)}"

    def errors(self, run_id: str) -> str:
        """Folder of the errors table."""
        return f"{self.run(run_id)}/errors"

    def work(self, run_id: str) -> str:
        """Folder of a run's intermediate results; removed when the run is complete."""
        return f"{self.run(run_id)}/work"

    def bands(self, run_id: str, group: str, layer: int) -> str:
        """Folder of a group's bands of one layer."""
        return f"{self.work(run_id)}/bands/group={escape_group(group)}/layer-{layer:02d}"

    def band(self, run_id: str, group: str, layer: int, shard: int) -> str:
        """Patch scores of one shard's images for one layer: the unit of resume of the mutual stage."""
        return f"{self.bands(run_id, group, layer)}/shard-{shard:05d}.npy"

    def nearest(self, run_id: str, group: str, layer: int, shard: int) -> str:
        """Nearest images of one shard's patches for one layer, where repeated defects are looked for."""
        return f"{self.repeats(run_id, group)}/nearest/layer-{layer:02d}/shard-{shard:05d}.npy"

    def far(self, run_id: str, group: str, layer: int, shard: int) -> str:
        """The distances that those of the nearest images are compared with."""
        return f"{self.repeats(run_id, group)}/far/layer-{layer:02d}/shard-{shard:05d}.npy"

    def repeats(self, run_id: str, group: str) -> str:
        """Folder of what is known of a group's repeated defects."""
        return f"{self.work(run_id)}/repeats/group={escape_group(group)}"

    def rescored_bands(self, run_id: str, group: str, layer: int) -> str:
        """Folder of a group's bands that were scored again without repeated defects."""
        return f"{self.repeats(run_id, group)}/bands/layer-{layer:02d}"

    def rescored_band(self, run_id: str, group: str, layer: int, shard: int) -> str:
        """One of them."""
        return f"{self.rescored_bands(run_id, group, layer)}/shard-{shard:05d}.npy"

    def defects(self, run_id: str, group: str) -> str:
        """Folder of a group's part of the table of repeated defects."""
        return f"{self.run(run_id)}/defects/group={escape_group(group)}"

    def maps(self, run_id: str, group: str, shard: int) -> str:
        """Patch maps and raw scores of one shard's images."""
        return f"{self.work(run_id)}/maps/group={escape_group(group)}/shard-{shard:05d}.parquet"

    def heatmaps(self, run_id: str) -> str:
        """Folder of exported heat maps, where no other is asked for."""
        return f"{self.run(run_id)}/heatmaps"

    def report(self, run_id: str) -> str:
        """Folder of the report, a static site whose first page is index.html."""
        return f"{self.run(run_id)}/report"

    def evaluation(self, run_id: str) -> str:
        """Folder of what labels say of a run: its metrics and the labels themselves."""
        return f"{self.run(run_id)}/evaluation"

    def uri(self, path: str) -> str:
        """A path of this layout as a user would type it: plain when local, with its protocol otherwise."""
        return path if is_local(self.fs) else str(self.fs.unstrip_protocol(path))
