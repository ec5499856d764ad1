"""Contents of the report: a run and a group as plain data, which the driver fills from the tables of a run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from musc_ray.settings.model import Settings
from musc_ray.settings.values import settings_dict
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.manifest_records import GroupLabels

NO_LABEL = 255


@dataclass(frozen=True)
class SharedDefect:
    """A repeated defect of a group.

    Attributes:
        number: `defect_group` of the scores table.
        images: number of images that have it.
        pictured: number of them in its picture, the worst first.
        members: ranks and names of the worst images.
    """

    number: int
    images: int
    pictured: int
    members: Sequence[tuple[int, str]]


@dataclass(frozen=True, eq=False)
class GroupReport:
    """One group of N images.

    Attributes:
        number: from 1, in the order of the names; names its files.
        scores: (N,) float32, by rank.
        labels: (N,) uint8, by rank: 1 = anomalous, 0 = normal, NO_LABEL; None where no image has one.
        label_names: the words in the column of labels.
        raw_range: smallest and largest raw score.
        scale: ends, in patch scores, of the scale that all its heat maps share.
        grid: patches of a map, (h, w).
        threshold: images with at least this score are held.
        threshold_is_set: whether the run's settings give it; otherwise it is a suggestion.
        metrics: rows of the metrics table, the one of all defects first.
        defects: its repeated defects; None where the run did not look for them.
        verdicts: what was said of its images, see `verdict_columns`.
        threshold_labels: what the threshold rests on, where verdicts give it.
    """

    number: int
    name: str
    scores: npt.NDArray[np.float32]
    labels: npt.NDArray[np.uint8] | None
    label_names: Sequence[str]
    raw_range: tuple[float, float]
    scale: tuple[float, float]
    grid: tuple[int, int]
    threshold: float
    threshold_is_set: bool
    metrics: Sequence[Mapping[str, Any]]
    defects: Sequence[SharedDefect] | None = None
    verdicts: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    threshold_labels: GroupLabels | None = None

    @property
    def images(self) -> int:
        """Number of images, N."""
        return len(self.scores)

    @property
    def held(self) -> int:
        """Number of images at or above the threshold, compared in float64 as a database does."""
        return int((self.scores.astype(np.float64) >= self.threshold).sum())


@dataclass(frozen=True, eq=False)
class RunReport:
    """A whole run.

    Attributes:
        created_at: with a time zone.
        rescoring, k_list: settings of these names.
        pictures: number of the worst images of a group that have a larger picture.
        metrics: image AUROC by name; empty without labels.
        stage_seconds: in the order the stages ran.
        error_total: rows of the errors table.
        skipped: number of rows of the table `skipped` by reason.
        notes: fallbacks and warnings that the reader must see.
        verdicts: stored verdicts of the OUT by word; empty without any.
    """

    run_id: str
    source: str
    created_at: datetime
    rescoring: str
    k_list: Sequence[int]
    pictures: int
    settings: Mapping[str, object]
    counts: Mapping[str, int]
    stage_seconds: Mapping[str, float]
    versions: Mapping[str, str]
    error_total: int
    notes: Sequence[str]
    metrics: Mapping[str, float]
    skipped: Mapping[str, int] = field(default_factory=dict)
    verdicts: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, run: RunManifest, settings: Settings, verdicts: Mapping[str, int]) -> Self:
        """Return what a report says of a run, with the settings of the report and the stored verdicts."""
        return cls(
            run_id=run.run_id,
            source=str(run.settings.source),
            created_at=run.scored_at,
            rescoring=run.settings.rescoring,
            k_list=run.settings.k_list,
            pictures=settings.report_images,
            settings={**settings_dict(run.settings), "resolved": run.resolved.model_dump(mode="json")},
            counts=run.counts.model_dump(),
            stage_seconds={name: stage["seconds"] for name, stage in run.stages.items()},
            versions=run.versions,
            error_total=run.counts.failed,
            skipped=run.skipped,
            notes=run.notes,
            metrics=run.metrics,
            verdicts=verdicts,
        )
