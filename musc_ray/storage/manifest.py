"""What a run writes about itself: `started.json` before its work, `run.json` (the manifest) when it is complete."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Self

from pydantic import Field, ValidationError, field_validator

from musc_ray.errors import MuscRayError
from musc_ray.settings.model import Settings
from musc_ray.storage.filesystem import read_json, write_json
from musc_ray.storage.group_crop_references import GroupCropReferences
from musc_ray.storage.group_foreground import GroupKept
from musc_ray.storage.group_matching import GroupMatching
from musc_ray.storage.group_shown_maps import GroupShownMaps
from musc_ray.storage.manifest_records import (
    Counts,
    DefectCount,
    GroupCompression,
    GroupCrops,
    GroupJudged,
    GroupLabels,
    GroupNight,
    Record,
    Resolved,
)
from musc_ray.storage.paths import RunPaths

SCHEMA_VERSION = 1
"""Raised when the meaning of a field of a manifest, or the place of a table, changes; older runs are still read.

0: without the field; the tables lay in folders `group=<group>`."""

OPTIONAL = (
    "skipped",
    "source_snapshot",
    "repeated_defects",
    "waiting",
    "thresholds",
    "labelled_thresholds",
    "raw_ranges",
    "night",
    "intensity",
    "image_sizes",
    "compression",
    "matching",
    "kept",
    "crops",
    "crop_references",
    "shown_maps",
    "judged",
)
"""Fields of run.json that only some runs have."""


class _Manifest(Record):
    """What both files of a run say: who it is, its features, and its settings."""

    schema_version: int = 0
    run_id: str
    features_id: str
    settings: Settings

    @field_validator("settings", mode="before")
    @classmethod
    def _drop_unknown(cls, value: object) -> object:
        """Drop settings that this version does not know; say what older versions meant.

        Runs older than the setting `method` are the paper's. Before there was `compress` all features were float16,
        which is no choice that a night that compresses should inherit.
        """
        if isinstance(value, dict):
            known = {name: given for name, given in value.items() if name in Settings.model_fields}
            if "compress" not in known:
                known.pop("feature_dtype", None)
            return {"method": "paper"} | known
        return value

    @classmethod
    def _read(cls, run_paths: RunPaths, path: str) -> Self | None:
        """Read a manifest; None where the file is missing.

        Raises:
            MuscRayError: it is broken, or of a later version of musc_ray.
        """
        content = read_json(run_paths.fs, path)
        if content is None:
            return None
        version = content.get("schema_version", 0)
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise MuscRayError(
                f"{run_paths.uri(path)} has schema version {version}, this musc_ray reads up to {SCHEMA_VERSION}: "
                f"install the version that wrote it, or a later one."
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise MuscRayError(
                f"{run_paths.uri(path)} is not a manifest ({where}: {first['msg']}): delete the run and score it again."
            ) from None


class RunManifest(_Manifest):
    """The content of run.json.

    Attributes:
        scored_at: later than that of every earlier run of the OUT.
        failed_groups: why they have no scores, by group.
        metrics: by name, where labels were known; never used for scoring.
        notes: what a reader of the result must not miss.
        skipped: number of rows of the table `skipped` by reason.
        stages: figures of each stage, `seconds` among them.
        versions: of the packages that made the result.
        source_snapshot: of the Iceberg table that the images come from.
        repeated_defects: by group; None where they were not looked for.
        waiting: numbers of new images that a nightly run leaves for a later one, by group.
        thresholds: by group; empty without a rule, None while the scores table is being rewritten.
        labelled_thresholds: what those by verdicts rest on, by group, where no rule was given.
        raw_ranges: smallest and largest `score_raw` of each group, a night's window included: rescoring takes them for
            0 and 1.
        night: by group; None in a run on a whole archive.
        intensity: the values that are shown black and white, of each group with images of more than 8 bits.
        image_sizes: (H, W) of the model's input by group, where it follows the shape of the group's images.
        compression: of each group whose features are compressed.
        crops: of each group whose images are cut.
        matching: where patches look for their nearest, by group, where it was chosen by samples (`matching: auto`).
        kept: which patches were scored and compared with, by group, where masks or the foreground are asked for.
        crop_references: which crops were compared, by group, where samples chose it (`crop_references: auto`).
        shown_maps: whether maps are of whole images or of their crops, by group, where images are cut.
        judged: known good and defective images, of each group that has any.
    """

    scored_at: datetime
    resolved: Resolved
    counts: Counts
    failed_groups: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float] = Field(default_factory=dict)
    notes: tuple[str, ...] = ()
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)
    versions: dict[str, str] = Field(default_factory=dict)
    skipped: dict[str, int] = Field(default_factory=dict)
    source_snapshot: int | None = None
    repeated_defects: dict[str, tuple[DefectCount, ...]] | None = None
    waiting: dict[str, int] = Field(default_factory=dict)
    thresholds: dict[str, float] | None = Field(default_factory=dict)
    labelled_thresholds: dict[str, GroupLabels] = Field(default_factory=dict)
    raw_ranges: dict[str, tuple[float, float]] = Field(default_factory=dict)
    night: dict[str, GroupNight] | None = None
    intensity: dict[str, tuple[float, float]] = Field(default_factory=dict)
    image_sizes: dict[str, tuple[int, int]] = Field(default_factory=dict)
    compression: dict[str, GroupCompression] = Field(default_factory=dict)
    crops: dict[str, GroupCrops] = Field(default_factory=dict)
    matching: dict[str, GroupMatching] = Field(default_factory=dict)
    kept: dict[str, GroupKept] = Field(default_factory=dict)
    crop_references: dict[str, GroupCropReferences] = Field(default_factory=dict)
    shown_maps: dict[str, GroupShownMaps] = Field(default_factory=dict)
    judged: dict[str, GroupJudged] = Field(default_factory=dict)

    @classmethod
    def read(cls, run_paths: RunPaths) -> Self | None:
        """Read the manifest of a run; None where the run is not complete.

        Raises:
            MuscRayError: it is broken, or of a later version of musc_ray.
        """
        return cls._read(run_paths, run_paths.run_json)

    def scored(self, groups: Iterable[str]) -> list[str]:
        """Return those of some groups that have scores, in their order."""
        return [name for name in groups if name not in self.failed_groups]

    def image_size_of(self, group: str) -> tuple[int, int]:
        """Return the (H, W) of the model's input of a group's whole images, in pixels."""
        return self.image_sizes.get(group, self.resolved.image_size)

    def grid_of(self, group: str) -> tuple[int, int]:
        """Return the (h, w) of the patch maps of a group: patches of whole images, or those of their crops together."""
        if group in self.crops:
            return self.crops[group].grid
        height, width = self.image_size_of(group)
        return height // self.patch, width // self.patch

    def map_size_of(self, group: str) -> tuple[int, int]:
        """Return the (H, W) of a group's maps at the model's scale, in pixels: its input's, or all crops laid out."""
        if group not in self.crops:
            return self.image_size_of(group)
        h, w = self.crops[group].grid
        return h * self.patch, w * self.patch

    @property
    def patch(self) -> int:
        """Return the side of a patch in pixels of the model."""
        return self.resolved.image_size[0] // self.resolved.grid[0]

    def write(self, run_paths: RunPaths) -> None:
        """Write run.json, without what does not apply to the run; from then on the run is complete."""
        content = self.model_dump(mode="json")
        absent = {
            name
            for name in OPTIONAL
            if getattr(self, name) == RunManifest.model_fields[name].get_default(call_default_factory=True)
        }
        write_json(run_paths.fs, run_paths.run_json, {name: content[name] for name in content if name not in absent})


class StartedGroup(Record):
    """What there is to do of a group.

    Attributes:
        images: to be scored, or compared with.
        shards: their numbers.
        crops: of an image.
        bands: numbers of the shards that get bands; None for all.
    """

    images: int
    shards: tuple[int, ...] = ()
    crops: int = 0
    bands: tuple[int, ...] | None = None


class StartedManifest(_Manifest):
    """The content of started.json: what a run will do, by which `status` measures its progress.

    Attributes:
        identity: the id that images, settings and arithmetic give the run, whatever its name; None in runs of schema
            version 0.
    """

    identity: str | None = None
    started_at: datetime
    layers: tuple[int, ...]
    groups: dict[str, StartedGroup]

    @classmethod
    def read(cls, run_paths: RunPaths) -> Self | None:
        """Read started.json of a run; None where it is missing.

        Raises:
            MuscRayError: it is broken, or of a later version of musc_ray.
        """
        return cls._read(run_paths, run_paths.started_json)

    def write(self, run_paths: RunPaths) -> None:
        """Write started.json; of groups without crops and known good images as earlier versions did."""
        content = self.model_dump(mode="json")
        for group in content["groups"].values():
            if not group["crops"]:
                del group["crops"]
            if group["bands"] is None:
                del group["bands"]
        write_json(run_paths.fs, run_paths.started_json, content)
