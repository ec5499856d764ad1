"""Decide which images of a run are anomalous: by the rule of its settings, or by a new rule for a complete run.

A threshold changes no score, so it is not part of a run's identity: the same command with another threshold finds the
complete run and only rewrites its column `is_anomalous`. Without a rule verdicts give the thresholds of those groups of
which good and defective images are known; the column is null in the others.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Self

import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from musc_ray.core.threshold import contamination_threshold, is_anomalous, suggest_threshold
from musc_ray.features.group_names import MAX_NAMED
from musc_ray.scoring.labelled import thresholds_by_labels
from musc_ray.settings.model import Settings
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.manifest_records import GroupLabels
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

    @property
    def is_given(self) -> bool:
        """Whether there is a rule."""
        return self != ThresholdRule(None, None)

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
    """Apply a rule to a complete run, or what verdicts say where there is none; writes nothing if nothing changes.

    While files are rewritten, `thresholds` in run.json is null: if that is interrupted, the next command continues.

    Args:
        run_paths: of the run.
        run: its manifest.
        groups: names of the scored groups.
        rule: the new rule.

    Returns:
        The new manifest.
    """
    labelled = {} if rule.is_given else thresholds_by_labels(run_paths.out, run, groups)
    same = ThresholdRule.of(run.settings) == rule and run.labelled_thresholds == labelled
    if same and run.thresholds is not None:
        return run
    settings = run.settings.model_copy(update=asdict(rule))
    run = run.model_copy(update={"settings": settings, "thresholds": None})
    run.write(run_paths)
    run = _with_thresholds(run_paths, run, groups, thresholds_of(run_paths, groups, rule), labelled)
    run.write(run_paths)
    return run


def apply_verdicts(run_paths: RunPaths, run: RunManifest, groups: Sequence[str]) -> RunManifest:
    """Mark the images of a run that is just scored by what verdicts say, unless its settings have a rule.

    Args:
        run_paths: of the run.
        run: its manifest, which is not written yet.
        groups: names of the scored groups.

    Returns:
        The manifest to write.
    """
    if ThresholdRule.of(run.settings).is_given:
        return run
    labelled = thresholds_by_labels(run_paths.out, run, groups)
    return _with_thresholds(run_paths, run, groups, {}, labelled) if labelled else run


def labelled_notes(labelled: Mapping[str, GroupLabels]) -> list[str]:
    """Say which thresholds come from verdicts, and how many labelled images each rests on."""
    if not labelled:
        return []
    shown = [
        f"'{name}' {found.threshold:.4f} ({found.good:,} good, {found.defective:,} defective)"
        for name, found in list(labelled.items())[:MAX_NAMED]
    ]
    further = f" and {len(labelled) - MAX_NAMED:,} more groups" if len(labelled) > MAX_NAMED else ""
    return [f"Thresholds by verdicts, the best F1 on the judged images: group {', '.join(shown)}{further}."]


def _with_thresholds(
    run_paths: RunPaths,
    run: RunManifest,
    groups: Sequence[str],
    thresholds: Mapping[str, float],
    labelled: Mapping[str, GroupLabels],
) -> RunManifest:
    """Rewrite the files of scores for thresholds of a rule, or for those by labels; return the manifest to write."""
    thresholds = {**thresholds, **{group: found.threshold for group, found in labelled.items()}}
    parts = run_paths.parts_of(run_paths.scores, groups)
    files = [(path, thresholds.get(group), bool(labelled)) for group in groups for path in parts[group]]
    with ThreadPoolExecutor(MAX_FILES) as pool:
        for _ in pool.map(lambda file: _mark(run_paths.fs, *file), files):
            pass
    old = labelled_notes(run.labelled_thresholds)
    notes = (*(note for note in run.notes if note not in old), *labelled_notes(labelled))
    return run.model_copy(update={"thresholds": thresholds, "labelled_thresholds": dict(labelled), "notes": notes})


def _mark(fs: fsspec.AbstractFileSystem, path: str, threshold: float | None, nullable: bool) -> None:
    """Rewrite a file of scores with the column `is_anomalous`.

    Args:
        fs, path: of the file.
        threshold: of its group.
        nullable: whether other groups have a threshold, so that the column is null without one; else it is left out.
    """
    table = read_table(fs, path)
    if IS_ANOMALOUS.name in table.column_names:
        table = table.drop_columns([IS_ANOMALOUS.name])
    field = IS_ANOMALOUS.with_nullable(nullable)
    if threshold is not None:
        table = table.append_column(field, flags(is_anomalous(numbers(table, "score"), threshold)))
    elif nullable:
        table = table.append_column(field, pa.nulls(len(table), pa.bool_()))
    write_table(fs, path, table)
