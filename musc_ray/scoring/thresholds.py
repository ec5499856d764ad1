"""Decide which images of a run are anomalous: by the rule of its settings, or by a new rule for a complete run.

A threshold changes no score, so it is not part of a run's identity: the same command with another threshold finds the
complete run and only rewrites its column `is_anomalous`.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Self

import fsspec
import numpy as np
import numpy.typing as npt

from musc_ray.core.threshold import contamination_threshold, is_anomalous, suggest_threshold
from musc_ray.settings.model import Settings
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.schemas import IS_ANOMALOUS
from musc_ray.storage.scores import flags, numbers, read_scores

SUGGESTED_STEPS = 10_000
"""Steps per unit of score of a suggested threshold: four digits, as scores are printed."""

MAX_FILES = 8
"""Files of scores rewritten concurrently, each held in memory."""


@dataclass(frozen=True)
class ThresholdRule:
    """The settings of the same names; no rule if both are None."""

    threshold: float | None
    contamination: float | None

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """Return the rule that settings give."""
        return cls(settings.threshold, settings.contamination)

    def threshold_of(self, scores: npt.NDArray[np.float32]) -> float | None:
        """Compute the threshold for a group's scores (N,); None without a rule."""
        if self.contamination is not None:
            return contamination_threshold(scores, self.contamination)
        return self.threshold


@dataclass(frozen=True)
class GroupThreshold:
    """A group's threshold, given or suggested, and the number of its images that reach it."""

    group: str
    threshold: float
    anomalous: int
    images: int
    suggested: bool


def group_threshold(group: str, scores: npt.NDArray[np.float32], given: float | None) -> GroupThreshold:
    """Return the given threshold, or the suggestion for scores (N,), rounded up to four digits."""
    threshold = math.ceil(suggest_threshold(scores) * SUGGESTED_STEPS) / SUGGESTED_STEPS if given is None else given
    return GroupThreshold(group, threshold, int(is_anomalous(scores, threshold).sum()), len(scores), given is None)


def thresholds_of(run_paths: RunPaths, groups: Sequence[str], rule: ThresholdRule) -> dict[str, float]:
    """Compute the threshold of each group from its written scores; empty without a rule."""
    thresholds = {}
    for group, paths in run_paths.parts_of(run_paths.scores, groups).items():
        threshold = rule.threshold_of(numbers(read_scores(run_paths.fs, paths, ["score"]), "score"))
        if threshold is not None:
            thresholds[group] = threshold
    return thresholds


def apply_rule(run_paths: RunPaths, run: RunManifest, groups: Sequence[str], rule: ThresholdRule) -> RunManifest:
    """Apply a rule, or none, to a complete run; writes nothing if the run has these thresholds.

    While files are rewritten, `thresholds` in run.json is null: if that is interrupted, the next command continues.

    Args:
        run_paths: of the run.
        run: its manifest.
        groups: names of the scored groups.
        rule: the new rule.

    Returns:
        The new manifest.
    """
    if ThresholdRule.of(run.settings) == rule and run.thresholds is not None:
        return run
    settings = run.settings.model_copy(update=asdict(rule))
    run = run.model_copy(update={"settings": settings, "thresholds": None})
    run.write(run_paths)
    thresholds = thresholds_of(run_paths, groups, rule)
    parts = run_paths.parts_of(run_paths.scores, groups)
    files = [(path, thresholds.get(group)) for group in groups for path in parts[group]]
    with ThreadPoolExecutor(MAX_FILES) as pool:
        for _ in pool.map(lambda file: _mark(run_paths.fs, *file), files):
            pass
    run = run.model_copy(update={"thresholds": thresholds})
    run.write(run_paths)
    return run


def _mark(fs: fsspec.AbstractFileSystem, path: str, threshold: float | None) -> None:
    """Rewrite a file of scores with the column `is_anomalous`; without it if there is no threshold."""
    table = read_table(fs, path)
    if IS_ANOMALOUS.name in table.column_names:
        table = table.drop_columns([IS_ANOMALOUS.name])
    if threshold is not None:
        table = table.append_column(IS_ANOMALOUS, flags(is_anomalous(numbers(table, "score"), threshold)))
    write_table(fs, path, table)
