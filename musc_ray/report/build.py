"""Write the report of a run, a static site of all its images (see musc_ray/report): the driver.

The driver holds one group's table without patch maps at a time; workers read originals and patch maps and write them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.report.contents import GroupReport, RunReport, SharedDefect
from musc_ray.report.image_table import CHUNK_ROWS, DETAIL_ROWS, Lookup
from musc_ray.report.labels import ReportLabels
from musc_ray.report.pages import group_files, group_row, run_files, static_files
from musc_ray.report.pictures import SHEET_COLUMNS
from musc_ray.report.site_writer import DefectTask, DetailsTask, RowsTask, detail_files
from musc_ray.report.verdicts import verdict_columns, verdict_counts
from musc_ray.runtime.executor import Executor, Reference, Worker, open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.pool import Pool, References
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.stage import Stage
from musc_ray.runtime.worker import Role
from musc_ray.scoring.thresholds import ThresholdRule, apply_rule, group_threshold
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from musc_ray.settings.values import settings_affecting, settings_dict
from musc_ray.storage.complete_runs import complete_run
from musc_ray.storage.filesystem import remove_tree, write_text
from musc_ray.storage.manifest import RunManifest, StartedManifest
from musc_ray.storage.paths import OutPaths, RunPaths
from musc_ray.storage.schemas import DEFECTS, ERRORS, SIZE_AND_PEAK
from musc_ray.storage.scores import map_scale, read_tables, with_size_and_peak
from musc_ray.storage.verdicts import Verdict, latest_verdicts

SITE_WRITER = Role("musc_ray.report.site_writer", "SiteWriter")

MAX_DEFECT_MEMBERS = 100
"""Images that the page names for each repeated defect."""

COLUMNS = ("image_id", "uri", "score", "score_raw", "rank", "percentile", *SIZE_AND_PEAK.names)


def report_again(given: Settings, progress: Progress) -> str:
    """Write the report of a complete run again, and return its location.

    A threshold or contamination that is given, or where the run has none what verdicts say, is applied to the scores
    first, as `run` does.

    Args:
        given: with out; run_id (None takes the run that was scored last), and of what changes a report those that are
            set: the others are the run's.
        progress: shows the stage.

    Raises:
        SettingsError: no out, or a contamination for a nightly run.
        MuscRayError: there is no such run.
    """
    if given.out is None:
        raise SettingsError("A report needs the out of a run: `musc-ray report OUT`.")
    out_paths = OutPaths.at(given.out)
    run = complete_run(out_paths, given.run_id)
    if given.model_fields_set & {"threshold", "contamination"}:
        run = _with_rule(out_paths.run(run.run_id), run, ThresholdRule.of(given))
    elif not ThresholdRule.of(run.settings).is_given:
        run = _with_rule(out_paths.run(run.run_id), run, ThresholdRule.of(run.settings))
    changeable = settings_affecting("report", "runtime")
    changed = {name: getattr(given, name) for name in changeable if name in given.model_fields_set}
    settings = load_settings(None, settings_dict(run.settings) | {"out": None, "address": given.address} | changed)
    with open_executor(ExecutorOptions.of(settings, device="cpu"), progress) as executor:
        return out_paths.uri(write_report(out_paths, run, executor, settings, progress))


def _with_rule(run_paths: RunPaths, run: RunManifest, rule: ThresholdRule) -> RunManifest:
    """Apply a rule to a complete run.

    Raises:
        SettingsError: it would need the scores of a night's window, which are not kept.
    """
    if run.night is not None and rule.contamination is not None:
        raise SettingsError(
            f"Run {run.run_id} is a nightly run, whose contamination is a share of its window, and the scores of "
            "the window are not kept: give a threshold."
        )
    started = StartedManifest.read(run_paths)
    return apply_rule(run_paths, run, run.scored(started.groups if started else ()), rule)


def write_report(
    out_paths: OutPaths,
    run: RunManifest,
    executor: Executor,
    settings: Settings,
    progress: Progress,
    labels: Mapping[str, int] | None = None,
) -> str:
    """Write a run's report, replacing an older one.

    Args:
        out_paths: paths of OUT.
        run: the content of run.json.
        executor: runs the tasks.
        settings: how many pictures to show.
        progress: shows the stage.
        labels: by uri, 1 = defective; shown where the run has not been evaluated.

    Returns:
        Path of the first page, which is written last.
    """
    run_paths = out_paths.run(run.run_id)
    run_id, folder = run_paths.run_id, run_paths.report
    started = StartedManifest.read(run_paths)
    if started is None:
        raise MuscRayError(f"Run {run_id} lacks its started.json: run it again with --overwrite.")
    names = sorted(run.scored(started.groups))
    remove_tree(out_paths.fs, folder)
    known = ReportLabels.read(run_paths, labels or {})
    tasks = run.counts.scored // CHUNK_ROWS + len(names)
    arguments = (out_paths.uri(out_paths.root), run_id, settings.image_limits)
    with (
        progress.stage("report", total=run.counts.scored, unit="images") as stage,
        Pool(executor, SITE_WRITER, tasks, *arguments) as pool,
    ):
        verdicts = latest_verdicts(out_paths)
        report = RunReport.of(run, settings, verdict_counts(verdicts))
        site = _Site(out_paths, run, report, settings, known, verdicts)
        for path, text in static_files():
            write_text(out_paths.fs, f"{folder}/{path}", text)
        site.write_images(pool, names, stage)
        errors = read_tables(out_paths.fs, out_paths.table_files(run_paths.errors), ERRORS.names)
        rows = pa.concat_tables(errors).to_pylist() if errors else []
        for path, text in run_files(report, site.rows, rows, known.metrics_beside(names)):
            write_text(out_paths.fs, f"{folder}/{path}", text)
    return f"{folder}/index.html"


SiteTask = RowsTask | DetailsTask | DefectTask


class _Site:
    """Writes the groups of a site one after the other.

    Attributes:
        rows: rows of the list of groups, one for each group begun so far.
        files: the files of each table, by its folder and group, from one listing.
    """

    def __init__(
        self,
        out_paths: OutPaths,
        run: RunManifest,
        report: RunReport,
        settings: Settings,
        labels: ReportLabels,
        verdicts: Mapping[str, Verdict],
    ) -> None:
        self.out_paths, self.run, self.report, self.settings, self.labels = out_paths, run, report, settings, labels
        self.verdicts = verdicts
        self.rows: list[dict[str, Any]] = []
        self.files: dict[str, dict[str, list[str]]] = {}

    def write_images(self, pool: Pool, names: Sequence[str], stage: Stage) -> None:
        """Write the pages and data of all groups."""
        unreadable = 0
        run_paths = self.out_paths.run(self.run.run_id)
        for table in (run_paths.scores, run_paths.neighbours, run_paths.defects):
            self.files[table] = run_paths.parts_of(table, names)
        tasks = (
            task for number, name in enumerate(names, start=1) for task in self._group(pool.executor, number, name)
        )
        for (task, _), result in pool.map(tasks, _call):
            if isinstance(task, RowsTask):
                stage.advance(len(task.table))
                unreadable += result
                if unreadable:
                    stage.note(f"{unreadable:,} pictures cannot be read")

    def _group(self, executor: Executor, number: int, name: str) -> Iterator[tuple[SiteTask, Sequence[Reference]]]:
        """Write what is known of a whole group; yields tasks for its images, and references that they take."""
        out_paths, run_paths = self.out_paths, self.out_paths.run(self.run.run_id)
        paths = self.files[run_paths.scores][name]
        parts = [with_size_and_peak(part) for part in read_tables(out_paths.fs, paths, COLUMNS)]
        firsts = detail_files([len(part) for part in parts])
        table = _by_rank(parts, firsts)
        labels = self.labels.of_images(table)
        table = table.append_column("label", pa.array(labels.names, pa.string()))
        scale = map_scale(out_paths.fs, paths, float(pc.max(table["score_raw"]).as_py()))
        defects, pictures_of_defects = self._defects(number, name, table)
        group = self._report(number, name, table, labels.values, scale, defects)
        self.rows.append(group_row(group))
        for path, text in group_files(self.report, group):
            write_text(out_paths.fs, f"{run_paths.report}/{path}", text)
        yield from ((task, ()) for task in pictures_of_defects)
        pictures = self.settings.report_images
        thumbnails = max(pictures, self.settings.report_thumbnails)
        layout = self.run.crops[name].layout if name in self.run.crops else None
        for chunk, start in enumerate(range(0, len(table), CHUNK_ROWS)):
            rows = table.slice(start, CHUNK_ROWS).combine_chunks()
            small, large = (min(max(count - start, 0), len(rows)) for count in (thumbnails, pictures))
            yield RowsTask(number, chunk, rows, small, large, self.run.intensity.get(name), layout), ()
        lookup = executor.put(Lookup.of(table["image_id"].to_pylist(), table["rank"].to_numpy()))
        similar = {PurePosixPath(path).name: path for path in self.files[run_paths.neighbours][name]}
        if self.run.night is not None and not self.run.settings.rescore_window:
            similar = {}  # most of them are earlier images, which got no scores
        for path, first in zip(paths, firsts, strict=True):
            neighbours = similar.get(PurePosixPath(path).name)
            yield DetailsTask(number, path, neighbours, first, scale[1]), (lookup,)

    def _report(
        self,
        number: int,
        name: str,
        table: pa.Table,
        labels: np.ndarray | None,
        scale: tuple[float, float],
        defects: list[SharedDefect] | None,
    ) -> GroupReport:
        scores, raw = table["score"].to_numpy(), table["score_raw"].to_numpy()
        if not (np.isfinite(scores).all() and np.isfinite(raw).all()):
            raise MuscRayError(f"Group {name!r} has scores that are not finite numbers; score the run again.")
        given = (self.run.thresholds or {}).get(name)
        threshold = group_threshold(name, scores, given)
        return GroupReport(
            number=number,
            name=name,
            scores=scores,
            labels=labels,
            label_names=sorted(set(table["label"].to_pylist()) - {""}) if labels is not None else [],
            raw_range=(float(raw.min()), float(raw.max())),
            scale=scale,
            grid=self.run.grid_of(name),
            threshold=threshold.threshold,
            threshold_is_set=given is not None,
            metrics=self.labels.metrics(name),
            defects=defects,
            verdicts=verdict_columns(table, self.verdicts),
            threshold_labels=self.run.labelled_thresholds.get(name),
        )

    def _defects(self, number: int, name: str, table: pa.Table) -> tuple[list[SharedDefect] | None, list[DefectTask]]:
        """The repeated defects of a group, whose table is in the order of the ranks, and their pictures to be made."""
        if self.run.repeated_defects is None:
            return None, []
        run_paths = self.out_paths.run(self.run.run_id)
        parts = read_tables(self.out_paths.fs, self.files[run_paths.defects][name], DEFECTS.names)
        if not parts:
            return [], []
        rows = pa.concat_tables(parts)
        ranks = table["rank"].take(pc.index_in(rows["image_id"], table["image_id"].combine_chunks()))
        rows = rows.append_column("rank", ranks)
        rows = rows.take(pc.sort_indices(rows, [("defect_group", "ascending"), ("rank", "ascending")]))
        found, tasks = [], []
        for defect in pc.unique(rows["defect_group"]).to_pylist():
            own = rows.filter(pc.equal(rows["defect_group"], defect))
            worst = own.slice(0, MAX_DEFECT_MEMBERS).to_pylist()
            shown = worst[:SHEET_COLUMNS]
            members = [(row["rank"], PurePosixPath(row["uri"]).name) for row in worst]
            found.append(SharedDefect(defect, len(own), len(shown), members))
            tasks.append(
                DefectTask(
                    number,
                    defect,
                    [row["uri"] for row in shown],
                    [row["patches"] for row in shown],
                    self.run.grid_of(name),
                    self.run.intensity.get(name),
                )
            )
        return found, tasks


def _call(worker: Worker, task: tuple[SiteTask, Sequence[Reference]]) -> References:
    methods = {DefectTask: "defect", RowsTask: "rows", DetailsTask: "details"}
    return worker.call(methods[type(task[0])], task[0], *task[1])


def _by_rank(parts: Sequence[pa.Table], firsts: Sequence[int]) -> pa.Table:
    """Sort a group's scores by rank; each row gets the number of its file of details."""
    numbers = [first + np.arange(len(part)) // DETAIL_ROWS for part, first in zip(parts, firsts, strict=True)]
    table = pa.concat_tables(parts).append_column("detail", pa.array(np.concatenate(numbers), pa.int32()))
    return table.take(pc.sort_indices(table["rank"]))
