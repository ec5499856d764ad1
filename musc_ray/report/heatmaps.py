"""Export heat maps of a complete run: the driver, which gives each file of scores to a worker."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.report.heatmap_writer import HeatmapCounts, HeatmapsOptions, HeatmapsTask
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.worker import Role
from musc_ray.settings.credentials import credentials_sentence, has_credentials
from musc_ray.settings.messages import shown
from musc_ray.settings.model import Settings
from musc_ray.sources.overlap import lists_out
from musc_ray.storage.complete_runs import complete_run
from musc_ray.storage.filesystem import absolute, check_writable, open_filesystem
from musc_ray.storage.manifest import RunManifest, StartedManifest
from musc_ray.storage.paths import OutPaths, RunPaths, escape_group
from musc_ray.storage.scores import map_scale, read_tables

HEATMAP_WRITER = Role("musc_ray.report.heatmap_writer", "HeatmapWriter")


@dataclass(frozen=True)
class HeatmapsResult:
    """Files written and already there, unreadable originals and the first of them, and the folder of the heat maps."""

    written: int
    skipped: int
    unreadable: int
    first_unreadable: str
    folder: str


def export_heatmaps(
    settings: Settings,
    options: HeatmapsOptions,
    progress: Progress,
    to: str | None = None,
    group: str | None = None,
) -> HeatmapsResult:
    """Write the heat maps of a complete run.

    Args:
        settings: with out; run_id (default: the complete run that was scored last), address and workers.
        options: what to write.
        progress: shows the stage.
        to: folder or URI; None for the run's own.
        group: None for all.

    Raises:
        SettingsError: an overlay other than png, no such group, a target among the source's images.
        MuscRayError: no complete run, a target that cannot be written, or no original can be read.
        StorageError: the storage failed.
    """
    _check_options(options, to)
    if settings.out is None:
        raise SettingsError("Heat maps need the out of a run: `musc-ray heatmaps OUT --format png`.")
    out_paths = OutPaths.at(settings.out)
    run = complete_run(out_paths, settings.run_id)
    folder = out_paths.uri(out_paths.run(run.run_id).heatmaps) if to is None else absolute(to)
    if to is not None and lists_out(run.settings.source or "", folder):
        raise SettingsError(f"--to {shown(to)} is inside the source: choose a folder outside it.")
    groups = _groups(out_paths, run, group)
    check_writable(*open_filesystem(folder))
    tasks = list(_tasks(out_paths.run(run.run_id), run, groups, folder, options.top))
    counts, images = HeatmapCounts(), sum(task.images for task in tasks)
    with (
        open_executor(ExecutorOptions.of(settings, device="cpu"), progress) as executor,
        progress.stage("heatmaps", total=images, unit="images") as stage,
        Pool(executor, HEATMAP_WRITER, len(tasks), options, run.settings.image_limits) as pool,
    ):
        for _, done in pool.map(iter(tasks), lambda worker, task: worker.call("write", task)):
            counts += done
            stage.advance(done.images)
    if counts.unreadable == images:
        raise MuscRayError(f"None of the {images:,} originals can be read, the first is {counts.first_unreadable}")
    return HeatmapsResult(counts.written, counts.skipped, counts.unreadable, counts.first_unreadable, folder)


def _check_options(options: HeatmapsOptions, to: str | None) -> None:
    """Refuse options that contradict each other, and credentials."""
    if options.overlay and options.file_format != "png":
        raise SettingsError(f"--overlay makes pictures, not {options.file_format}: use --format png.")
    if to is not None and has_credentials(to):
        raise SettingsError(credentials_sentence("--to"))


def _groups(out_paths: OutPaths, run: RunManifest, only: str | None) -> list[str]:
    """Return the groups that the run scored, or the requested one alone."""
    started = StartedManifest.read(out_paths.run(run.run_id))
    names = run.scored(started.groups if started else ())
    if only is None:
        return names
    if only not in names:
        known = f"its groups are {', '.join(map(shown, names[:10]))}{', ...' if len(names) > 10 else ''}"
        raise SettingsError(f"Run {run.run_id} scored no group {shown(only)}: {known}.")
    return [only]


def _tasks(
    run_paths: RunPaths, run: RunManifest, groups: Sequence[str], folder: str, top: int | None
) -> Iterator[HeatmapsTask]:
    """Yield the tasks of some groups, whose files come from one listing."""
    for group, paths in run_paths.parts_of(run_paths.scores, groups).items():
        for task in _group_tasks(run_paths, paths, f"{folder}/group={escape_group(group)}", top):
            yield replace(task, intensity=run.intensity.get(group))


def _group_tasks(run_paths: RunPaths, paths: Sequence[str], target: str, top: int | None) -> list[HeatmapsTask]:
    """Make a task for each of a group's files of scores that holds images to write."""
    tables = read_tables(run_paths.fs, paths, ["score_raw", "rank"])
    largest = float(pc.max(pa.concat_tables(tables)["score_raw"]).as_py())
    scale = map_scale(run_paths.fs, paths, largest)
    wanted = [len(table) if top is None else pc.sum(pc.less_equal(table["rank"], top)).as_py() for table in tables]
    return [
        HeatmapsTask(run_paths.uri(path), target, scale, images)
        for path, images in zip(paths, wanted, strict=True)
        if images
    ]
