"""Write the table of metrics: a row for each group, each defect, and the mean; as Parquet, CSV and Markdown."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from musc_ray.core.metrics.image import average_precision, f1_max, image_auroc
from musc_ray.storage.filesystem import write_text
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.schemas import METRICS

MEAN = "mean"

SHOWN = {
    "image_auroc": "AUROC-cls",
    "image_f1_max": "F1-cls",
    "image_ap": "AP-cls",
    "pixel_auroc": "AUROC-segm",
    "pixel_f1_max": "F1-segm",
    "pixel_ap": "AP-segm",
    "aupro": "PRO-segm",
    "aupimo": "AUPIMO",
}
"""Columns in the order and with the names of the paper's tables (cls: images, segm: pixels); AUPIMO is not in them."""


@dataclass(frozen=True)
class MetricsRow:
    """A row of the metrics table (see `storage.schemas.METRICS`); None where a metric cannot be computed."""

    group: str
    defect: str
    images: int
    anomalous: int
    image_auroc: float | None = None
    image_ap: float | None = None
    image_f1_max: float | None = None
    image_threshold: float | None = None
    pixel_auroc: float | None = None
    pixel_ap: float | None = None
    pixel_f1_max: float | None = None
    pixel_threshold: float | None = None
    aupro: float | None = None
    aupimo: float | None = None
    is_mean: bool = False


def image_metrics(labels: npt.NDArray[np.int8], scores: npt.NDArray[np.float32]) -> dict[str, float]:
    """Compute the image-level columns; empty where all images are good or all are anomalous."""
    if len(np.unique(labels)) < 2:
        return {}
    best, threshold = f1_max(labels, scores)
    return {
        "image_auroc": image_auroc(labels, scores),
        "image_ap": average_precision(labels, scores),
        "image_f1_max": best,
        "image_threshold": threshold,
    }


def mean_row(rows: Sequence[MetricsRow]) -> MetricsRow:
    """Average each metric over the groups that have it; thresholds have no mean."""
    means = {}
    for name in SHOWN:
        values = [value for row in rows if (value := getattr(row, name)) is not None]
        means[name] = float(np.mean(values)) if values else None
    return MetricsRow(
        MEAN, "", sum(row.images for row in rows), sum(row.anomalous for row in rows), is_mean=True, **means
    )


def write_metrics(
    run_paths: RunPaths, rows: Sequence[MetricsRow], about: Mapping[str, Any], notes: Sequence[str]
) -> None:
    """Write metrics.parquet, metrics.csv and metrics.md; metadata and Markdown also hold `about` and the notes."""
    folder = run_paths.evaluation
    metadata = {"musc_ray": json.dumps({**about, "notes": list(notes)})}
    table = pa.Table.from_pylist([asdict(row) for row in rows], schema=METRICS.with_metadata(metadata))
    write_table(run_paths.fs, f"{folder}/metrics.parquet", table)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, METRICS.names)
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(run_paths.fs, f"{folder}/metrics.csv", text.getvalue())
    write_text(run_paths.fs, f"{folder}/metrics.md", _markdown(rows, about, notes))


def shown_row(row: MetricsRow) -> list[str]:
    """Format a row: group, defect, images, anomalous images, metrics in percent; a dash for a missing metric."""
    metrics = [getattr(row, name) for name in SHOWN]
    shown = ["–" if value is None else f"{100 * value:.2f}" for value in metrics]  # noqa: RUF001, a dash
    return [row.group, row.defect or "all", str(row.images), str(row.anomalous), *shown]


def _markdown(rows: Sequence[MetricsRow], about: Mapping[str, Any], notes: Sequence[str]) -> str:
    head = ["group", "defect", "images", "anomalous", *SHOWN.values()]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for row in rows:
        cells = [_escaped(cell) for cell in shown_row(row)]
        if row.is_mean:
            cells = [f"**{cell}**" for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    facts = [f"{_escaped(name)}: {_escaped(str(value))}" for name, value in about.items()]
    lines += ["", "Metrics in percent. " + ", ".join(facts) + "."]
    lines += ["", *(f"- {_escaped(note)}" for note in notes)] if notes else []
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    """Escape Markdown and HTML in the text of a table cell."""
    for sign in "\\|*_`[]":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())
