"""The parts of a run's manifest; `manifest` has the whole."""

from typing import Any

from pydantic import BaseModel, ConfigDict

from musc_ray.core.crops import CropLayout


class Record(BaseModel):
    """Part of a manifest: immutable; fields of versions to come are kept apart by `schema_version`."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    def as_json(self) -> dict[str, Any]:
        """Return JSON-ready values."""
        return self.model_dump(mode="json")


class Decision(Record):
    """What was settled for a group by a sample of its images, or by a rule for groups of few.

    Attributes:
        reason: why.
        images: images of the sample, 0 where none was looked at.
        grown: whether this run settled it anew, otherwise than before, since the group is no longer one of few images.
    """

    reason: str
    images: int = 0
    grown: bool = False

    @property
    def of_few(self) -> bool:
        """Whether no sample was looked at."""
        return self.images == 0

    @property
    def decided(self) -> object:
        """What scores depend on."""
        raise NotImplementedError


class Resolved(Record):
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


class Counts(Record):
    """Numbers of what a run met: `listed` is the sum of scored, failed, skipped, known, waiting and known_good.

    Attributes:
        images: images of the run's groups, readable or not.
        scored: images with scores; of a night that rescores its window, those of the window too.
        failed: rows of the errors table.
        listed: all that the source, and that of known good images, listed; 0 in runs older than this count.
        skipped: rows of the table `skipped`.
        known: images that a night leaves out, since earlier runs scored them.
        waiting: new images that a night leaves for a later one.
        known_good: images that persons vouch for, which are not scored, those of groups that are not scored included.
        groups, failed_groups, shards: of the run.
    """

    images: int
    scored: int
    failed: int
    listed: int = 0
    skipped: int = 0
    known: int = 0
    waiting: int = 0
    known_good: int = 0
    groups: int = 0
    failed_groups: int = 0
    shards: int = 0


class GroupNight(Record):
    """A group of a nightly run.

    Attributes:
        new: images that were scored.
        window: earlier images that they were scored against.
        drift: distance of the new raw scores from the window's, in robust standard deviations; None with too few.
        drift_warning: whether that is much, and beyond chance.
        outside: share of the energy of the new images outside the basis of compressed features; None without one.
        outside_warning: whether that is much more than of the images that the basis was found from.
    """

    new: int
    window: int
    drift: float | None = None
    drift_warning: bool = False
    outside: float | None = None
    outside_warning: bool = False


class GroupLabels(Record):
    """What a group's threshold by verdicts rests on.

    Attributes:
        threshold: of `score`, the best F1 on the labelled images.
        good, defective: labelled images.
    """

    threshold: float
    good: int
    defective: int


class GroupCompression(Record):
    """How the features of a group are compressed.

    Attributes:
        channels: of a stored token, K.
        dtype: of stored tokens: float16 or int8.
        basis_sha256: of the directions that they are projections on.
        sample: images that the directions were found from.
        energy: share of the sample's energy that they keep, by layer.
        outside: share of the energy of the images of this run, without a night's window, that they do not keep, by
            layer.
        bytes, full_bytes: of the tokens of the run's images as they are stored, and as they would be uncompressed.
    """

    channels: int
    dtype: str
    basis_sha256: str
    sample: int
    energy: tuple[float, ...]
    outside: tuple[float, ...]
    bytes: int
    full_bytes: int

    @property
    def left_out(self) -> float:
        """Share of the sample's energy that the directions do not keep, mean over layers."""
        return 1 - sum(self.energy) / len(self.energy)

    @property
    def left_outside(self) -> float | None:
        """Share of the energy of the run's images that the directions do not keep, or None."""
        return sum(self.outside) / len(self.outside) if self.outside else None


class GroupCrops(Record):
    """How the images of a group are cut into crops.

    Attributes:
        rows, columns: numbers of crops.
        overlap: share of a crop's side that it has in common with the next.
        image_size: (H, W) of the model's input of a crop, in pixels.
        grid: (h, w) of the patch maps, which are stitched from those of the crops.
    """

    rows: int
    columns: int
    overlap: float
    image_size: tuple[int, int]
    grid: tuple[int, int]

    @property
    def layout(self) -> CropLayout:
        """Return where the crops lie."""
        return CropLayout(self.rows, self.columns, self.overlap)


class DefectCount(Record):
    """A repeated defect: its number in the group, how many images have it, and how many of their patches."""

    defect_group: int
    images: int
    patches: int


class GroupJudged(Record):
    """What was known of a group's images before they were scored.

    Attributes:
        known_good: images that persons vouch for, which all others were compared with.
        defective: images that persons found defective, which were scored, and no others compared with.
        digest: of the ids of both, by which later runs tell whether anything has changed.
    """

    known_good: int = 0
    defective: int = 0
    digest: str
