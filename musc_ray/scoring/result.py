"""What a command shows of a complete run."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from musc_ray.features.context import RunContext
from musc_ray.scoring.thresholds import GroupThreshold, group_threshold
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.schemas import SIZE_AND_PEAK
from musc_ray.storage.scores import numbers, read_tables, with_size_and_peak

MAX_WORST_IMAGES = 10
"""Images shown, the most anomalous of all groups."""


@dataclass(frozen=True)
class RunResult:
    """A complete run: manifest, most anomalous images, thresholds, locations, whether it was computed now."""

    run: RunManifest
    worst: list[dict[str, Any]]
    thresholds: list[GroupThreshold]
    scores_path: str
    report_path: str
    computed: bool


def read_result(context: RunContext, run: RunManifest, computed: bool) -> RunResult:
    """Read what a command shows of a complete run.

    Args:
        context: the run.
        run: its manifest.
        computed: whether it was computed now.
    """
    run_paths = context.run_paths
    columns = ["image_id", "uri", "group", "score_raw", "score", "rank", "percentile", *SIZE_AND_PEAK.names]
    worst, thresholds = [], []
    for name, paths in run_paths.parts_of(run_paths.scores, run.scored(context.groups)).items():
        table = pa.concat_tables(map(with_size_and_peak, read_tables(run_paths.fs, paths, columns)))
        for row in np.flatnonzero(numbers(table, "rank") <= MAX_WORST_IMAGES).tolist():
            worst += table.slice(row, 1).to_pylist()
        threshold = (run.thresholds or {}).get(name)
        if threshold is not None or context.earlier is None:  # a night alone is too little to suggest one from
            thresholds.append(group_threshold(name, numbers(table, "score"), threshold))
    return RunResult(
        run=run,
        worst=sorted(worst, key=lambda row: (row["rank"], row["group"]))[:MAX_WORST_IMAGES],
        thresholds=thresholds,
        scores_path=run_paths.uri(run_paths.scores),
        report_path=run_paths.uri(f"{run_paths.report}/index.html"),
        computed=computed,
    )
