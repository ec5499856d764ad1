"""Make the pages of the site from templates, and the data that they start from."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup

from musc_ray.report.colormap import colormap
from musc_ray.report.contents import GroupReport, RunReport
from musc_ray.report.data_scripts import data_script, packed, printable, rounded
from musc_ray.report.image_table import CHUNK_ROWS
from musc_ray.report.pictures import SHEET_COLUMNS, SHEET_IMAGES, THUMBNAIL_SIDE
from musc_ray.runtime.durations import format_duration

LIST_ROWS = 1000
"""Rows per file of the lists of groups and errors."""

METRIC_NAMES = {
    "image_auroc": "Image AUROC",
    "image_ap": "Image AP",
    "image_f1_max": "Image F1-max",
    "pixel_auroc": "Pixel AUROC",
    "pixel_ap": "Pixel AP",
    "pixel_f1_max": "Pixel F1-max",
    "aupro": "AUPRO",
    "aupimo": "AUPIMO",
}
"""Columns of the metrics table that are shown where they have values, and their headings."""


def static_files() -> Iterator[tuple[str, str]]:
    """Yield path and text of the style sheet and the scripts."""
    for file in sorted(files("musc_ray.report").joinpath("static").iterdir(), key=lambda file: file.name):
        yield f"static/{file.name}", file.read_text(encoding="utf-8")


def group_files(run: RunReport, group: GroupReport) -> Iterator[tuple[str, str]]:
    """Yield path and text of a group's page, its data, and all its scores."""
    number = group.number
    yield f"group-{number}.html", _page("group.html.j2", run=run, group=group, metrics=_metrics(group.metrics))
    about = {
        "number": number,
        "name": printable(group.name),
        "images": group.images,
        "chunkRows": CHUNK_ROWS,
        "sheet": {"images": SHEET_IMAGES, "columns": SHEET_COLUMNS, "side": THUMBNAIL_SIDE},
        "pictures": min(run.pictures, group.images),
        "rawRange": list(group.raw_range),
        "scale": list(group.scale),
        "grid": list(group.grid),
        "threshold": group.threshold,
        "thresholdIsSet": group.threshold_is_set,
        "labels": [printable(name) for name in group.label_names],
    }
    yield f"data/group-{number}/group.js", data_script(f"group-{number}/group", about)
    scores = {
        "score": packed(group.scores.astype(np.float32)),
        "label": None if group.labels is None else packed(group.labels.astype(np.uint8)),
    }
    yield f"data/group-{number}/scores.js", data_script(f"group-{number}/scores", scores)
    yield f"data/group-{number}/verdicts.js", data_script(f"group-{number}/verdicts", group.verdicts)


def group_row(group: GroupReport) -> dict[str, Any]:
    """Make a group's row of the list of groups."""
    every = [row for row in group.metrics if row["defect"] == ""]
    auroc = every[0].get("image_auroc") if every else None
    return {
        "number": group.number,
        "name": printable(group.name),
        "images": group.images,
        "highest": rounded(group.scores[:1])[0],
        "threshold": group.threshold,
        "held": group.held,
        "auroc": auroc if auroc is not None and math.isfinite(auroc) else None,
    }


def run_files(
    run: RunReport,
    groups: Sequence[Mapping[str, Any]],
    errors: Sequence[Mapping[str, str]],
    metrics: Sequence[Mapping[str, Any]] = (),
) -> Iterator[tuple[str, str]]:
    """Yield path and text of the lists of groups and errors, of the page of an image and, last, of the first page.

    Args:
        run: the run.
        groups: a `group_row` for each.
        errors: rows of the errors table.
        metrics: rows of the metrics table for groups evaluated together, and the mean.
    """
    colours = colormap(np.linspace(0.0, 1.0, 256))
    about = {"colours": packed(colours), "rescoring": run.rescoring, "kList": list(run.k_list)}
    yield "data/run.js", data_script("run", about)
    shown = [{name: printable(text) for name, text in error.items()} for error in errors]
    for kind, rows in (("groups", groups), ("errors", shown)):
        for start in range(0, len(rows), LIST_ROWS):
            part, key = rows[start : start + LIST_ROWS], f"{kind}-{start // LIST_ROWS:05d}"
            yield f"data/{key}.js", data_script(key, {name: [row[name] for row in part] for name in part[0]})
    yield "image.html", _page("image.html.j2", run=run)
    seconds = run.stage_seconds.values()
    yield (
        "index.html",
        _page(
            "index.html.j2",
            run=run,
            created_at=run.created_at.astimezone(UTC),
            group_total=len(groups),
            image_total=sum(group["images"] for group in groups),
            held_total=sum(group["held"] for group in groups),
            metrics=_metrics(metrics),
            with_auroc=any(group["auroc"] is not None for group in groups),
            list_rows=LIST_ROWS,
            total_seconds=sum(seconds),
            longest_stage=max(seconds, default=0.0),
            settings=flatten_settings(run.settings),
        ),
    )


def _page(template: str, **content: Any) -> str:
    import jinja2  # here: a complete run that is shown again has its pages

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("musc_ray.report"),
        autoescape=True,
        finalize=_printable,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"duration": format_duration, "metric": metric}
    return environment.get_template(template).render(**content)


def _printable(value: object) -> object:
    """Escape unprintable characters; Jinja calls this for each value."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _metrics(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Make a metrics table: names of the columns that hold values, and rows in their order."""
    known = [name for name in METRIC_NAMES if any(row.get(name) is not None for row in rows)]
    return {
        "names": [METRIC_NAMES[name] for name in known],
        "rows": [{"is_mean": False, **row, "values": [row.get(name) for name in known]} for row in rows],
    }


def metric(value: float | None) -> str:
    """Format a metric to three decimals; a dash where it is unknown (no masks) or undefined (a single class)."""
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "\N{EN DASH}"


def flatten_settings(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten settings to (dotted name, value) rows; values other than strings are written as JSON."""
    rows = []
    for name, value in settings.items():
        if isinstance(value, dict) and value:
            rows += flatten_settings(value, f"{prefix}{name}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            rows.append((f"{prefix}{name}", text))
    return rows
