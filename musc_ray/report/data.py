"""What the report page shows, as plain data that the caller fills from the tables of a run."""

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from PIL import Image


@dataclass(frozen=True, eq=False)
class WorstImage:
    """One of the most anomalous images of a group.

    `rank` is 1 for the most anomalous, `score` is after RsCIN, `score_raw` before it, `percentile` (0-100) is of
    `score`. `patch_map` is (h, w) float32, before upsampling, and covers the whole picture. `picture` is the original
    in RGB, or None when it can no longer be read.
    """

    image_id: str
    uri: str
    rank: int
    score: float
    score_raw: float
    percentile: float
    patch_map: np.ndarray
    picture: Image.Image | None
    label: str | None = None


@dataclass(frozen=True, eq=False)
class GroupReport:
    """One group: the scores of all its N images and its worst images.

    `scores` (after RsCIN) and `score_raw` are (N,) float32. `map_low` and `map_high` are the ends of the
    one scale, in patch scores of the whole group, that all its heat maps share.
    """

    name: str
    scores: np.ndarray
    score_raw: np.ndarray
    worst: list[WorstImage]
    map_low: float
    map_high: float


@dataclass(frozen=True, eq=False)
class RunReport:
    """A whole run.

    `errors` are rows of the errors table (`uri`, `group`, `stage`, `error`, `message`), maybe only the first of
    `error_total`. `notes` are fallbacks and warnings that the reader must see. `metrics` (image AUROC and the like)
    is empty where no labels are known. `stage_seconds` is in the order the stages ran. `created_at` has a time zone.
    """

    run_id: str
    source: str
    created_at: datetime
    groups: list[GroupReport]
    settings: dict[str, object]
    counts: dict[str, int]
    stage_seconds: dict[str, float]
    versions: dict[str, str]
    errors: list[dict[str, str]]
    error_total: int
    notes: list[str]
    metrics: dict[str, float]
