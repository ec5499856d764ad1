"""A scored run without scoring, and its metrics by formulas written out, everything in memory."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from scipy import ndimage
from sklearn import metrics

from musc_ray.storage.paths import part_prefix
from musc_ray.storage.schemas import CATALOG, SCORES
from tests.helpers.manifests import run_record

CORNERS = np.ones((3, 3))


@dataclass(frozen=True)
class Scored:
    """An image of the generated run."""

    uri: str
    group: str
    score: float
    patch_map: np.ndarray


def write_run(
    out: Path,
    images: Sequence[Scored],
    image_size: tuple[int, int],
    run_id: str = "run-made",
    a_file: int = 4,
    **changed: Any,
):
    """Write the tables of a complete run, and its manifest with what is `changed` in it."""
    run = out / "runs" / run_id
    groups = sorted({image.group for image in images})
    now = datetime.now(UTC)
    for group in groups:
        folder = run / "scores"
        folder.mkdir(parents=True, exist_ok=True)
        of_group = [image for image in images if image.group == group]
        for number, start in enumerate(range(0, len(of_group), a_file)):
            some = of_group[start : start + a_file]
            grid = some[0].patch_map.shape
            columns = [
                [hashlib.sha256(image.uri.encode()).hexdigest()[:32] for image in some],
                [image.uri for image in some],
                [group] * len(some),
                [run_id] * len(some),
                [now] * len(some),
                *[np.array([image.score for image in some], np.float32)] * 2,
                np.full(len(some), 1, np.int32),
                np.full(len(some), 50.0, np.float32),
                *(np.full(len(some), side, np.int16) for side in grid),
                [image.patch_map.ravel().astype(np.float32) for image in some],
            ]
            pq.write_table(pa.table(columns, schema=SCORES), folder / f"{part_prefix(group)}{number:05d}.parquet")
    catalog = [{"image_id": "", "uri": image.uri, "group": image.group, "version": "", "shard": 0} for image in images]
    pq.write_table(pa.Table.from_pylist(catalog, CATALOG), run / "catalog.parquet")
    resolved = {"image_size": list(image_size), **changed.pop("resolved", {})}
    record = run_record(run_id, scored_at=now.isoformat(), resolved=resolved, **changed)
    (run / "run.json").write_text(json.dumps(record))


def write_image(path: Path, pixels: np.ndarray) -> str:
    """Write an 8-bit picture; returns its URI."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return f"file://{path}"


def upsample(patch_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear with aligned corners."""
    given = torch.from_numpy(patch_map.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(given, size=size, mode="bilinear", align_corners=True)[0, 0].numpy()


def f1_max(labels: np.ndarray, scores: np.ndarray) -> float:
    precision, recall, _ = metrics.precision_recall_curve(labels, scores)
    return float((2 * precision * recall / np.maximum(precision + recall, 1e-12)).max())


def pixel_metrics(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> dict[str, float]:
    """AUROC, AP and F1-max over all pixels by scikit-learn, AUPRO as written out."""
    labels = np.concatenate([mask.ravel() for mask in masks])
    scores = np.concatenate([values.ravel() for values in maps])
    return {
        "pixel_auroc": metrics.roc_auc_score(labels, scores),
        "pixel_ap": metrics.average_precision_score(labels, scores),
        "pixel_f1_max": f1_max(labels, scores),
        "aupro": aupro(maps, masks),
    }


def aupro(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], limit: float = 0.3) -> float:
    """The mean over regions of the share found, threshold by threshold, integrated up to the limit."""
    regions, outside = [], []
    for values, mask in zip(maps, masks, strict=True):
        numbered, count = ndimage.label(mask, CORNERS)
        regions += [np.sort(values[numbered == number]) for number in range(1, count + 1)]
        outside.append(values[~mask])
    background = np.sort(np.concatenate(outside))
    thresholds = np.unique(np.concatenate([background, *regions]))[::-1]

    def share(ordered: np.ndarray) -> np.ndarray:
        return 1 - np.searchsorted(ordered, thresholds, side="left") / len(ordered)

    fpr = np.append(0.0, share(background))
    overlap = np.append(0.0, np.mean([share(region) for region in regions], axis=0))
    at_limit = np.interp(limit, fpr, overlap)
    inside = fpr < limit
    return float(np.trapezoid(np.append(overlap[inside], at_limit), np.append(fpr[inside], limit)) / limit)


def aupimo(maps: Sequence[np.ndarray], masks: Sequence[np.ndarray], good: Sequence[bool]) -> np.ndarray:
    """AUPIMO of each anomalous image: its share found, by rate on a log axis, between the rates nearest to the bounds.

    At a rate between two that occur, the share lies between those at the thresholds just above and at the next score.
    """
    normals = [np.sort(values.ravel()) for values, is_good in zip(maps, good, strict=True) if is_good]
    thresholds = np.unique(np.concatenate(normals))[::-1][:2000]
    fpr = np.mean([1 - np.searchsorted(n, thresholds, side="left") / len(n) for n in normals], axis=0)
    first, last = (int(np.argmin(np.abs(fpr - bound))) for bound in (1e-5, 1e-4))
    results = []
    for values, mask, is_good in zip(maps, masks, good, strict=True):
        if not is_good and mask.any():
            area = 0.0
            for i in range(first + 1, last + 1):
                above, at = np.mean(values[mask] > thresholds[i]), np.mean(values[mask] >= thresholds[i])
                area += (above + at) / 2 * np.log(fpr[i] / fpr[i - 1])
            results.append(min(1.0, area / np.log(10)))
    return np.array(results)
