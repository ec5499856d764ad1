"""Compute pixel metrics on the worker pool, in passes over the maps; only counts are held in memory.

1. Masks become regions; all pixels are counted into bins (`core/metrics/counting.py`).
2. Bins with pixels of masks are counted exactly, a window of them at a time, for a group and for each of its defects;
   the highest scores of good images are collected.
3. Each anomalous image's overlap (AUPIMO) follows from these.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from musc_ray.core.metrics.aupimo import NO_TAIL, Credits, NormalTail, lowest_tail_bin
from musc_ray.core.metrics.counting import EMPTY, BinCounts
from musc_ray.core.metrics.pixel_curve import Bins, PixelMetrics, Totals, plan_bins, totals_of
from musc_ray.evaluate.evaluator import FileCounts, LabelledFile, MaskReading, add_counts
from musc_ray.evaluate.layouts import GOOD
from musc_ray.evaluate.maps import MapFile
from musc_ray.evaluate.problems import Findings
from musc_ray.runtime.executor import Executor, Worker
from musc_ray.runtime.pool import Pool, References
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.worker import Role
from musc_ray.storage.paths import OutPaths

EVALUATOR = Role("musc_ray.evaluate.evaluator", "Evaluator")

WINDOW_BYTES = 2**26
"""Memory of the counts of a call. Larger windows mean fewer passes: scores of real images need 0.2 to 0.5 GB in all."""


@dataclass(frozen=True)
class GroupPixels:
    """A group and its files of labelled maps."""

    group: str
    files: list[LabelledFile]


@dataclass(frozen=True)
class WindowTask:
    """A window of the pixel scores of a group's images, those that are good or have one of some defects."""

    group: str
    defect: str
    files: list[MapFile]
    defects: frozenset[str]
    window: Bins
    totals: Totals


Key = tuple[str, str]
"""Group and defect; the defect is empty for all defects of a group."""


def evaluate_pixels(
    executor: Executor,
    out_paths: OutPaths,
    reading: MaskReading,
    groups: Sequence[GroupPixels],
    progress: Progress,
    findings: Findings,
) -> dict[Key, dict[str, float | None]]:
    """Compute the pixel columns of `MetricsRow` for each group, and for each of its defects with pixels of both kinds.

    Args:
        executor: runs the tasks.
        out_paths: paths of OUT.
        reading: how masks are read.
        groups: what to evaluate.
        progress: shows the stages.
        findings: what the reader must know is appended.
    """
    files = sum(len(group.files) for group in groups)
    with Pool(executor, EVALUATOR, files, out_paths.uri(out_paths.root), reading) as pool:
        counts = _count(pool, groups, progress)
        for name, found in counts.items():
            findings.problems += [replace(problem, group=name) for problem in found.problems]
        by_defect = {name: found.counts for name, found in counts.items()}
        metrics = _windows(pool, groups, by_defect, progress)
        overlaps = _overlaps(pool, groups, by_defect, progress, findings.notes)
    return {
        key: {
            "pixel_auroc": found.auroc,
            "pixel_ap": found.ap,
            "pixel_f1_max": found.f1_max,
            "pixel_threshold": found.threshold,
            "aupro": found.aupro,
            "aupimo": overlaps.get(key),
        }
        for key, found in metrics.items()
    }


def _count(pool: Pool, groups: Sequence[GroupPixels], progress: Progress) -> dict[str, FileCounts]:
    tasks = ((group.group, file) for group in groups for file in group.files)
    results: dict[str, FileCounts] = {group.group: FileCounts() for group in groups}
    with progress.stage("masks", total=sum(len(group.files) for group in groups), unit="files") as stage:
        for (name, _), result in pool.map(tasks, lambda worker, task: worker.call("prepare", task[1])):
            results[name] = add_counts([results[name], result])
            stage.advance()
    return results


def _subsets(counts: dict[str, BinCounts]) -> Iterator[tuple[str, frozenset[str], BinCounts]]:
    """Yield the whole group, then each of its defects with the good images."""
    good = counts.get(GOOD, EMPTY)
    yield "", frozenset(counts), sum(counts.values(), EMPTY)
    for defect in sorted(set(counts) - {GOOD}):
        yield defect, frozenset((GOOD, defect)), good + counts[defect]


def _windows(
    pool: Pool, groups: Sequence[GroupPixels], counts: dict[str, dict[str, BinCounts]], progress: Progress
) -> dict[Key, PixelMetrics]:
    results: dict[Key, PixelMetrics] = {}
    tasks: list[WindowTask] = []
    for group in groups:
        files = [labelled.file for labelled in group.files]
        for defect, defects, found in _subsets(counts[group.group]):
            totals = totals_of(found)
            if totals.negatives and totals.positives:
                results[group.group, defect], windows = plan_bins(found, WINDOW_BYTES)
                tasks += [WindowTask(group.group, defect, files, defects, window, totals) for window in windows]
    with progress.stage("curves", total=len(tasks), unit="windows") as stage:
        for task, result in pool.map(iter(tasks), _call_window):
            results[task.group, task.defect] += result
            stage.advance()
    return results


def _call_window(worker: Worker, task: WindowTask) -> References:
    return worker.call("window", task.files, task.defects, task.window, task.totals)


def _overlaps(
    pool: Pool,
    groups: Sequence[GroupPixels],
    counts: dict[str, dict[str, BinCounts]],
    progress: Progress,
    notes: list[str],
) -> dict[Key, float]:
    """Compute AUPIMO by group and defect: the mean over images."""
    good = {name: found[GOOD] for name, found in counts.items() if GOOD in found and len(found) > 1}
    tails: dict[str, NormalTail] = dict.fromkeys(good, NO_TAIL)
    sums: dict[Key, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    files = [(group.group, file.file) for group in groups if group.group in good for file in group.files]
    with progress.stage("overlaps", total=2 * len(files), unit="files") as stage:
        lowest = {name: lowest_tail_bin(found) for name, found in good.items()}
        for (name, _), tail in pool.map(
            iter(files), lambda worker, task: worker.call("tail", task[1], lowest[task[0]])
        ):
            tails[name] += tail
            stage.advance()
        credits_ = {name: Credits(tail, good[name].good) for name, tail in tails.items()}
        notes += [
            f"Group '{name}': the good images have too few pixels, or scores, for AUPIMO."
            for name, found in credits_.items()
            if not found.usable
        ]
        stored = {name: pool.executor.put(found) for name, found in credits_.items() if found.usable}
        files = [task for task in files if task[0] in stored]
        for (name, _), sums_of_file in pool.map(
            iter(files), lambda worker, task: worker.call("overlaps", task[1], stored[task[0]])
        ):
            for defect, (total, images) in sums_of_file.items():
                for key in ((name, defect), (name, "")):
                    sums[key] = (sums[key][0] + total, sums[key][1] + images)
            stage.advance()
    return {key: total / images for key, (total, images) in sums.items()}
