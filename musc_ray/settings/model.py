"""Settings of a job: one model, from which ids, options of the command line and documents follow."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from musc_ray.core import DEFAULT_RADIUS
from musc_ray.settings.affects import affects
from musc_ray.settings.checks import (
    check_column,
    check_degrees,
    check_distinct,
    check_intensity,
    check_interval,
    check_out,
    check_run_id,
    check_text,
    check_together,
    check_weights,
)
from musc_ray.settings.lake import OptionalLake
from musc_ray.settings.limits import MAX_ERROR_FRACTION, MAX_IMAGE_MB, MAX_PIXELS, ImageLimits
from musc_ray.settings.method import CHOSEN
from musc_ray.settings.score_settings import ScoreSettings
from musc_ray.settings.types import (
    Count,
    Days,
    Device,
    ExecutorName,
    Flag,
    Fraction,
    ModelPrecision,
    Natural,
    OptionalCount,
    OptionalScore,
    OptionalShare,
    OptionalText,
    Positive,
    Precision,
    ReportImages,
    Since,
    Text,
)
from musc_ray.storage.requests import MAX_REQUESTS


class Settings(ScoreSettings):
    """All settings of a job. Immutable; an unknown key or a wrong type is an error."""

    group_by: Annotated[OptionalText, affects("source")] = Field(
        default=None, description="Path template such as {group}/** or regular expression with (?P<group>...)."
    )
    column: Annotated[OptionalText, affects("source")] = Field(
        default=None,
        description="Column of a table that holds images or their URIs, or several as in uri=path,group=line; default: "
        "the usual names.",
    )
    shard_size: Annotated[Count, affects("extraction")] = Field(
        default=64, description="Images in a shard, the unit of extraction, storage and retry."
    )
    batch_size: Annotated[Count, affects("extraction")] = Field(
        default=8, description="Images that go through the backbone at once."
    )
    precision: Annotated[Precision, affects("scores")] = Field(
        default="auto",
        description="Arithmetic of mutual scoring; float32 is exact; auto: int8 where features are compressed, else "
        "as of the backbone.",
    )
    model_precision: Annotated[ModelPrecision, affects("features")] = Field(
        default="auto",
        description="Arithmetic of the backbone; auto: float16 on a GPU, bfloat16 on CPUs that have it, else float32.",
    )
    keep_features: Annotated[Flag, affects("output")] = Field(
        default=True, description="Keep the features after scoring: later runs share them."
    )
    max_error_fraction: Annotated[Fraction, affects("source")] = Field(
        default=MAX_ERROR_FRACTION,
        description="Share of unreadable images above which a run fails; at 0.05, 10 of fewer than 200 images pass.",
    )
    max_pixels: Annotated[Count, affects("source", "report", "evaluate")] = Field(
        default=MAX_PIXELS, description="Larger images are errors and are not decoded."
    )
    max_image_mb: Annotated[Count, affects("source", "report", "evaluate")] = Field(
        default=MAX_IMAGE_MB,
        description="Larger image files, and row groups of tables of images, are errors and are not read, in MiB.",
    )
    max_requests: Annotated[Count, affects("runtime")] = Field(
        default=MAX_REQUESTS,
        description="Concurrent reads of the storage by each process (driver or worker).",
    )
    seed: Annotated[Natural, affects("scores")] = Field(default=0, description="Seed of the choice of references.")
    device: Annotated[Device, affects("runtime")] = Field(
        default="auto", description="Where to compute; auto is a GPU if there is one."
    )
    executor: Annotated[ExecutorName, affects("runtime")] = Field(
        default="auto",
        description="What runs the tasks: this process or Ray; auto is Ray for an address, several workers or GPUs, "
        "or many CPUs.",
    )
    address: Annotated[OptionalText, affects("runtime")] = Field(
        default=None, description="Ray cluster address; default: this machine."
    )
    workers: Annotated[OptionalCount, affects("runtime")] = Field(
        default=None, description="Workers of a stage; default: as many as fit."
    )
    threads: Annotated[OptionalCount, affects("runtime")] = Field(
        default=None, description="CPU threads of a worker; default: a fair share."
    )
    cache_mb: Annotated[Count, affects("scoring")] = Field(
        default=1024, description="Prepared shards that a scoring worker caches, in MiB."
    )
    max_worker_gb: Annotated[OptionalCount, affects("runtime")] = Field(
        default=None,
        description="Memory of a CPU worker, in GB, beside what the command itself takes; what does not fit is done in "
        "smaller parts. Default: Ray's limit; without Ray, none.",
    )
    max_pending_gb: Annotated[Count, affects("scoring")] = Field(
        default=100, description="Unfinished distances that may wait in Ray's object store and its spill space, in GB."
    )
    run_id: Annotated[OptionalText, affects("run")] = Field(
        default=None, description="Name of the run; default: made from settings and images."
    )
    overwrite: Annotated[Flag, affects("run")] = Field(default=False, description="Compute again what is already done.")
    threshold: Annotated[OptionalScore, affects("report")] = Field(
        default=None, description="Images with at least this score are anomalous: column is_anomalous."
    )
    contamination: Annotated[OptionalShare, affects("report")] = Field(
        default=None, description="Share of each group that is anomalous, in place of a threshold: column is_anomalous."
    )
    since: Annotated[Since, affects("night", "run")] = Field(
        default=None, description="Night: score what changed on or after this day; default: what is new."
    )
    window: Annotated[Days, affects("night")] = Field(
        default=None, description="Night: earlier images of this many days, such as 30d; default: all."
    )
    rescore_window: Annotated[Flag, affects("night")] = Field(
        default=False, description="Night: give the window's images new scores, too."
    )
    drift_warning: Annotated[Positive, affects("night")] = Field(
        default=1.0, description="Night: warn when raw scores moved by this many robust standard deviations."
    )
    labels: Annotated[Text, affects("evaluate")] = Field(
        default="auto",
        description="Labels to evaluate with: auto, verdicts, a dataset's layout, or a CSV of uri,label,mask.",
    )
    pixels: Annotated[Literal["model", "original"], affects("evaluate")] = Field(
        default="model", description="Where masks and maps are compared: the model's input size, or the mask's own."
    )
    subsets: Annotated[Count, affects("benchmark")] = Field(
        default=1, description="Parts of each category in a benchmark; each part is scored by itself."
    )
    report_images: Annotated[ReportImages, affects("report")] = Field(
        default=24, description="Worst images of a group that the report shows large, 0 to 1000."
    )
    report_thumbnails: Annotated[Natural, affects("report")] = Field(
        default=100_000, description="Worst images of a group whose originals the report reads for a thumbnail."
    )
    lake: Annotated[OptionalLake, affects("publish")] = Field(
        default=None,
        description="Iceberg tables that runs are published to: table, and optionally catalog, warehouse, maps.",
    )

    @property
    def image_limits(self) -> ImageLimits:
        """Return the limits of one image."""
        return ImageLimits(self.max_pixels, self.max_image_mb * 2**20)

    @property
    def distance_bytes(self) -> int:
        """Return the bytes of a stored distance: float32 where exact arithmetic is asked for, else float16."""
        return 4 if self.precision == "float32" else 2

    _text = field_validator(
        "source",
        "out",
        "backbone",
        "weights",
        "ignore",
        "known_good",
        "group_by",
        "column",
        "address",
        "run_id",
        "labels",
    )(check_text)
    _column = field_validator("column")(check_column)
    _out = field_validator("out")(check_out)
    _weights = field_validator("weights")(check_weights)
    _run_id = field_validator("run_id")(check_run_id)
    _distinct = field_validator("degrees", "layers", "k_list")(check_distinct)
    _degrees = field_validator("degrees")(check_degrees)
    _intensity = field_validator("intensity")(check_intensity)
    _interval = field_validator("interval")(check_interval)

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Let null, the default in the list of settings, mean what the method chooses."""
        return {name: value for name, value in values.items() if value is not None or name not in CHOSEN}

    @model_validator(mode="after")
    def _chosen_by_method(self) -> Self:
        """Fill what is not given, and the radius; it stays out of `model_fields_set`."""
        for name in CHOSEN:
            if getattr(self, name) is None:
                self.__dict__[name] = getattr(self.constants, name)
        if self.matching == "near" and self.radius is None:
            self.__dict__["radius"] = DEFAULT_RADIUS
        return self

    @model_validator(mode="after")
    def _possible_together(self) -> Self:
        check_together(self)
        return self
