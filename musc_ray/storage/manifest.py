"""What a run writes about itself: `started.json` before its work, `run.json` (the manifest) when it is complete."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from musc_ray.errors import MuscRayError
from musc_ray.settings.model import Settings
from musc_ray.storage.filesystem import read_json, write_json
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
    "night",
    "intensity",
    "image_sizes",
)
"""Fields of run.json that only some runs have."""


class _Record(BaseModel):
    """Part of a manifest: immutable; fields of versions to come are kept apart by `schema_version`."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Resolved(_Record):
    """What `auto` and defaults meant.

    Attributes:
        backbone: its full name.
        weights_sha256: of the weights that were used.
        image_size: (H, W) of the model's input in pixels; where groups differ (`RunManifest.image_sizes`), of the
            square that has as many patches.
        grid: (h, w) patches of it.
        layers: blocks, from 0.
        channels: C of a token.
        class_channels: of a class token.
        device: `cpu` or `cuda`; None in runs of schema version 0.
        precision: arithmetic of mutual scoring; None in runs of schema version 0.
        model_precision: arithmetic of the backbone; None in runs of schema version 0.
        executor: `process` or `ray`; None in runs of before there were two.
    """

    backbone: str
    weights_sha256: str
    image_size: tuple[int, int]
    grid: tuple[int, int]
    layers: tuple[int, ...]
    channels: int
    class_channels: int
    device: str | None = None
    precision: str | None = None
    model_precision: str | None = None
    executor: str | None = None


class Counts(_Record):
    """Numbers of what a run met: `listed` is the sum of scored, failed, skipped, known and waiting.

    Attributes:
        images: images of the run's groups, readable or not.
        scored: images with scores; of a night that rescores its window, those of the window too.
        failed: rows of the errors table.
        listed: all that the source listed; 0 in runs older than this count.
        skipped: rows of the table `skipped`.
        known: images that a night leaves out, since earlier runs scored them.
        waiting: new images that a night leaves for a later one.
        groups, failed_groups, shards: of the run.
    """

    images: int
    scored: int
    failed: int
    listed: int = 0
    skipped: int = 0
    known: int = 0
    waiting: int = 0
    groups: int = 0
    failed_groups: int = 0
    shards: int = 0


class GroupNight(_Record):
    """A group of a nightly run.

    Attributes:
        new: images that were scored.
        window: earlier images that they were scored against.
        drift: distance of the new raw scores from the window's, in robust standard deviations; None with too few.
        drift_warning: whether that is much, and beyond chance.
    """

    new: int
    window: int
    drift: float | None = None
    drift_warning: bool = False


class DefectCount(_Record):
    """A repeated defect: its number in the group, how many images have it, and how many of their patches."""

    defect_group: int
    images: int
    patches: int


class _Manifest(_Record):
    """What both files of a run say: who it is, its features, and its settings."""

    schema_version: int = 0
    run_id: str
    features_id: str
    settings: Settings

    @field_validator("settings", mode="before")
    @classmethod
    def _drop_unknown(cls, value: object) -> object:
        """Drop settings that this version does not know; runs older than the setting `method` are the paper's."""
        if isinstance(value, dict):
            return {"method": "paper"} | {name: given for name, given in value.items() if name in Settings.model_fields}
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
        night: by group; None in a run on a whole archive.
        intensity: the values that are shown black and white, of each group with images of more than 8 bits.
        image_sizes: (H, W) of the model's input by group, where it follows the shape of the group's images.
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
    night: dict[str, GroupNight] | None = None
    intensity: dict[str, tuple[float, float]] = Field(default_factory=dict)
    image_sizes: dict[str, tuple[int, int]] = Field(default_factory=dict)

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
        """Return the (H, W) of the model's input of a group, in pixels."""
        return self.image_sizes.get(group, self.resolved.image_size)

    def grid_of(self, group: str) -> tuple[int, int]:
        """Return the (h, w) patches of a group's images."""
        height, width = self.image_size_of(group)
        patch = self.resolved.image_size[0] // self.resolved.grid[0]
        return height // patch, width // patch

    def write(self, run_paths: RunPaths) -> None:
        """Write run.json, without what does not apply to the run; from then on the run is complete."""
        content = self.model_dump(mode="json")
        absent = {
            name
            for name in OPTIONAL
            if getattr(self, name) == RunManifest.model_fields[name].get_default(call_default_factory=True)
        }
        write_json(run_paths.fs, run_paths.run_json, {name: content[name] for name in content if name not in absent})


class StartedGroup(_Record):
    """What there is to do of a group: images, and the numbers of their shards."""

    images: int
    shards: tuple[int, ...] = ()


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
        """Write started.json."""
        write_json(run_paths.fs, run_paths.started_json, self.model_dump(mode="json"))
