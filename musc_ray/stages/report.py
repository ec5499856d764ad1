"""Stage 6, scores -> report: collects what the first report page shows."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from musc_ray.errors import MuscRayError
from musc_ray.images import decode_original
from musc_ray.report import GroupReport, RunReport, WorstImage, render
from musc_ray.stages.ring import GroupImages
from musc_ray.storage.filesystem import write_text
from musc_ray.storage.image_bytes import read_image
from musc_ray.storage.layout import Layout
from musc_ray.storage.parquet import read_table

ERRORS_SHOWN = 200
LABELS = {None: None, 0: "good", 1: "defective"}


def write_report(
    layout: Layout,
    run: Mapping[str, Any],
    groups: Sequence[GroupImages],
    errors: Sequence[Mapping[str, str]],
    labels: Mapping[str, int],
) -> str:
    """Write a run's report page and return its path.

    Args:
        layout: where the run lies.
        run: the content of run.json.
        groups: the groups that were scored.
        errors: rows of the errors table.
        labels: by uri, 1 = defective: shown under the pictures.
    """
    settings: dict[str, Any] = run["settings"]
    report = RunReport(
        run_id=run["run_id"],
        source=str(settings["source"]),
        created_at=datetime.fromisoformat(run["scored_at"]),
        groups=[
            _group_report(layout, run["run_id"], group, settings["report_images"], settings["max_pixels"], labels)
            for group in groups
        ],
        settings={**settings, "resolved": run["resolved"]},
        counts=run["counts"],
        stage_seconds={name: stage["seconds"] for name, stage in run["stages"].items()},
        versions=run["versions"],
        errors=[dict(error) for error in errors[:ERRORS_SHOWN]],
        error_total=len(errors),
        notes=run["notes"],
        metrics=run["metrics"],
    )
    path = layout.report(run["run_id"])
    write_text(layout.fs, path, render(report, settings["report_images"]))
    return path


def read_scores(layout: Layout, run_id: str, group: str, columns: Sequence[str]) -> pa.Table:
    """Some columns of a group's scores, all its images."""
    folder = layout.scores(run_id, group)
    paths = sorted(path for path in layout.fs.ls(folder, detail=False) if path.endswith(".parquet"))
    return pa.concat_tables([read_table(layout.fs, path, columns) for path in paths])


def _group_report(
    layout: Layout, run_id: str, images: GroupImages, worst: int, max_pixels: int, labels: Mapping[str, int]
) -> GroupReport:
    table = read_scores(layout, run_id, images.group, ["score", "score_raw", "rank"])
    shown = [
        _worst_image(row, max_pixels, labels)
        for shard in sorted(images.shards)
        for row in _rows_up_to_rank(layout, run_id, images.group, shard, worst)
    ]
    low, high = _heat_map_scale(layout, run_id, images, shown)
    return GroupReport(
        name=images.group,
        scores=table["score"].to_numpy(),
        score_raw=table["score_raw"].to_numpy(),
        worst=sorted(shown, key=lambda image: image.rank),
        map_low=low,
        map_high=high,
    )


def _rows_up_to_rank(layout: Layout, run_id: str, group: str, shard: int, worst: int) -> list[dict[str, Any]]:
    """A shard's rows among the group's worst; patch maps are held for one shard at a time."""
    table = read_table(layout.fs, f"{layout.scores(run_id, group)}/part-{shard:05d}.parquet")
    rows: list[dict[str, Any]] = table.filter(pc.less_equal(table["rank"], worst)).to_pylist()
    return rows


def _worst_image(row: dict[str, Any], max_pixels: int, labels: Mapping[str, int]) -> WorstImage:
    return WorstImage(
        image_id=row["image_id"],
        uri=row["uri"],
        rank=row["rank"],
        score=row["score"],
        score_raw=row["score_raw"],
        percentile=row["percentile"],
        patch_map=np.array(row["patch_map"], np.float32).reshape(row["grid_h"], row["grid_w"]),
        picture=_picture(row["uri"], max_pixels),
        label=LABELS.get(labels.get(row["uri"])),
    )


def _picture(uri: str, max_pixels: int) -> Image.Image | None:
    """The original picture; None (shown as such) when it is gone or no longer readable."""
    try:
        return decode_original(read_image(uri), max_pixels)
    except (MuscRayError, OSError):
        return None


def _heat_map_scale(
    layout: Layout, run_id: str, images: GroupImages, shown: Sequence[WorstImage]
) -> tuple[float, float]:
    """One scale for a group's heat maps: from the normal level (median of a random shard) to the worst."""
    shard = min(images.shards)
    maps = read_table(layout.fs, f"{layout.scores(run_id, images.group)}/part-{shard:05d}.parquet", ["patch_map"])
    low = float(np.median(pc.list_flatten(maps["patch_map"]).to_numpy()))
    return low, max([low, *(float(image.patch_map.max()) for image in shown)])
