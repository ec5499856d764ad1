"""Labels that a report shows: those of the run's evaluation, or those that the caller gives."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.report.contents import NO_LABEL
from musc_ray.storage.listing import exists
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import RunPaths

LABEL_NAMES = {0: "good", 1: "defective"}


@dataclass(frozen=True, eq=False)
class ImageLabels:
    """Labels of N images: `values` (N,) uint8, None if no image has one; `names`, "" for an image without one."""

    values: npt.NDArray[np.uint8] | None
    names: list[str]


@dataclass(frozen=True, eq=False)
class ReportLabels:
    """Labels of a run's images, and its metrics.

    Attributes:
        table: the table of labels; None where the run has not been evaluated.
        table_of_metrics: the table of metrics; None likewise.
        by_uri: labels to use without these tables, 1 = defective.
    """

    table: pa.Table | None
    table_of_metrics: pa.Table | None
    by_uri: Mapping[str, int]

    @classmethod
    def read(cls, run_paths: RunPaths, by_uri: Mapping[str, int]) -> "ReportLabels":
        """Read the tables of a run's evaluation, where they exist."""
        folder = run_paths.evaluation
        labels, metrics = (
            read_table(run_paths.fs, path, columns) if exists(run_paths.fs, path) else None
            for path, columns in (
                (f"{folder}/labels.parquet", ["image_id", "label", "defect"]),
                (f"{folder}/metrics.parquet", None),
            )
        )
        return cls(labels, metrics, by_uri)

    def of_images(self, images: pa.Table) -> ImageLabels:
        """Return the labels of the images of a table with columns image_id and uri, in its order."""
        known: dict[str, tuple[int, str]] = {}
        if self.table is not None:
            # by image: an evaluation may join images that were scored apart
            rows = self.table.filter(pc.is_in(self.table["image_id"], images["image_id"])).to_pylist()
            known = {row["image_id"]: (row["label"], row["defect"]) for row in rows}
            found = [known.get(image_id) for image_id in images["image_id"].to_pylist()]
        else:
            given = [self.by_uri.get(uri) for uri in images["uri"].to_pylist()] if self.by_uri else [None] * len(images)
            found = [None if label is None else (label, LABEL_NAMES[label]) for label in given]
        values = np.array([NO_LABEL if label is None else label[0] for label in found], np.uint8)
        names = ["" if label is None else label[1] for label in found]
        return ImageLabels(values if (values != NO_LABEL).any() else None, names)

    def metrics(self, group: str) -> list[dict[str, Any]]:
        """Return the group's rows of the metrics table, the one of all defects first."""
        return sorted(
            (row for row in self._rows() if row["group"] == group and not row["is_mean"]), key=lambda row: row["defect"]
        )

    def metrics_beside(self, groups: Sequence[str]) -> list[dict[str, Any]]:
        """Return the rows for all defects of groups that were evaluated together, and of the mean."""
        return [row for row in self._rows() if not row["defect"] and (row["is_mean"] or row["group"] not in groups)]

    def _rows(self) -> list[dict[str, Any]]:
        rows = [] if self.table_of_metrics is None else self.table_of_metrics.to_pylist()
        return [{"is_mean": False, **row} for row in rows]
