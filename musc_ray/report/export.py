"""Scores -> heat maps: patch maps as files of the original images' sizes, a file of scores at a time."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.exceptions import RayTaskError

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.report.heatmap_files import Format, Scale, encode, heatmap_name, upsample
from musc_ray.runtime.cluster import ray_cluster, use_threads
from musc_ray.runtime.progress import Progress
from musc_ray.settings.credentials import credentials_sentence, has_credentials
from musc_ray.settings.limits import ImageLimits
from musc_ray.settings.messages import shown
from musc_ray.settings.model import Settings
from musc_ray.sources.decoding import decode_original
from musc_ray.sources.overlap import lists_out
from musc_ray.sources.reading import read_image
from musc_ray.storage.filesystem import absolute, atomic_file, check_writable, open_filesystem
from musc_ray.storage.manifest import RunManifest, StartedManifest, complete_run
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import OutPaths, escape_group
from musc_ray.storage.scores import map_scale, read_tables

TASKS_A_CPU = 2
"""One running, one waiting; a task holds one image at a time."""


@dataclass(frozen=True)
class HeatmapsOptions:
    """What to write: the format, over the original or not, how many of the worst (None: all), what is there anew."""

    file_format: Format
    overlay: bool = False
    top: int | None = None
    overwrite: bool = False

    @property
    def extension(self) -> str:
        """Of the file names; an overlay never passes for a heat map alone."""
        return f"overlay.{self.file_format}" if self.overlay else self.file_format


@dataclass(frozen=True)
class HeatmapsTask:
    """A file of a group's scores, the folder for its heat maps, both as URIs, and the group's scale."""

    scores: str
    folder: str
    scale: Scale
    limits: ImageLimits
    images: int


@dataclass(frozen=True)
class HeatmapsResult:
    """Files written and already there, originals that could not be read and the first of them, and where files lie."""

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
        settings: with out; run_id (the complete run that was scored last without it), address and workers of Ray.
        options: what to write.
        progress: shows how far it is.
        to: folder or URI; None for the run's own.
        group: None for all.

    Raises:
        SettingsError: an overlay that is no png, no such group, a target among the source's images.
        MuscRayError: no complete run, a target that cannot be written, or not one original that can be read.
    """
    if options.overlay and options.file_format != "png":
        raise SettingsError(f"--overlay makes pictures, not {options.file_format}: use --format png.")
    if to is not None and has_credentials(to):
        raise SettingsError(credentials_sentence("--to"))
    if settings.out is None:
        raise SettingsError("Heat maps need the out of a run: `musc-ray heatmaps OUT --format png`.")
    layout = OutPaths.at(settings.out)
    run = complete_run(layout, settings.run_id)
    folder = layout.uri(layout.run(run.run_id).heatmaps) if to is None else absolute(to)
    if to is not None and lists_out(run.settings.source or "", folder):
        raise SettingsError(f"--to {shown(to)} lies among the images of the source: choose another folder.")
    groups = _groups(layout, run, group)
    check_writable(*open_filesystem(folder))
    tasks = [task for name in groups for task in _group_tasks(layout, run, name, folder, options.top)]
    counts: Counter[str] = Counter()
    first = ""
    images = sum(task.images for task in tasks)
    with ray_cluster(settings), progress.stage("heatmaps", total=images, unit="images") as stage:
        for done, unreadable in _in_parallel(tasks, options):
            counts.update(done)
            first = first or unreadable
            stage.advance(done.total())
    if counts["unreadable"] == images:
        raise MuscRayError(f"None of the {images:,} originals can be read, the first is {first}")
    return HeatmapsResult(counts["written"], counts["skipped"], counts["unreadable"], first, folder)


def _groups(layout: OutPaths, run: RunManifest, only: str | None) -> list[str]:
    """The groups that the run scored, or the one that is asked for."""
    started = StartedManifest.read(layout.run(run.run_id))
    names = [name for name in (started.groups if started else ()) if name not in run.failed_groups]
    if only is None:
        return names
    if only not in names:
        known = f"its groups are {', '.join(map(shown, names[:10]))}{', ...' if len(names) > 10 else ''}"
        raise SettingsError(f"Run {run.run_id} scored no group {shown(only)}: {known}.")
    return [only]


def _group_tasks(layout: OutPaths, run: RunManifest, group: str, folder: str, top: int | None) -> list[HeatmapsTask]:
    """A task a file of scores that holds images to write."""
    run_paths = layout.run(run.run_id)
    paths = run_paths.parts(run_paths.scores, group)
    tables = read_tables(layout.fs, paths, ["score_raw", "rank"])
    largest = float(pc.max(pa.concat_tables(tables)["score_raw"]).as_py())
    scale = map_scale(run_paths, group, largest)
    wanted = [len(table) if top is None else pc.sum(pc.less_equal(table["rank"], top)).as_py() for table in tables]
    target, limits = f"{folder}/group={escape_group(group)}", run.settings.image_limits
    return [
        HeatmapsTask(layout.uri(path), target, scale, limits, images)
        for path, images in zip(paths, wanted, strict=True)
        if images
    ]


def _in_parallel(tasks: Sequence[HeatmapsTask], options: HeatmapsOptions) -> Iterator[tuple[Counter[str], str]]:
    """Do the tasks on the cluster, few of them in flight; yields what each did."""
    remote = ray.remote(num_cpus=1)(write_heatmaps)
    most = TASKS_A_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
    waiting = iter(tasks)
    running: list[Any] = []
    while True:
        while len(running) < most and (task := next(waiting, None)) is not None:
            running.append(remote.remote(task, options))
        if not running:
            return
        (done,), running = ray.wait(running, num_returns=1)
        try:
            yield ray.get(done)
        except RayTaskError as error:
            if isinstance(error.cause, OSError):
                raise MuscRayError(f"Cannot write heat maps to {tasks[0].folder}: {error.cause}") from error
            raise


def write_heatmaps(task: HeatmapsTask, options: HeatmapsOptions) -> tuple[Counter[str], str]:
    """Write the heat maps of one file of scores; on a worker.

    Returns:
        How many were written, skipped and unreadable; and the first unreadable original and why, or "".
    """
    use_threads(1)
    table = read_table(*open_filesystem(task.scores), ["image_id", "uri", "rank", "grid_h", "grid_w", "patch_map"])
    if options.top is not None:
        table = table.filter(pc.less_equal(table["rank"], options.top))
    fs, folder = open_filesystem(task.folder)
    counts: Counter[str] = Counter()
    first = ""
    for row in range(len(table)):
        image = {name: table[name][row] for name in table.column_names}
        uri = image["uri"].as_py()
        path = f"{folder}/{heatmap_name(uri, image['image_id'].as_py(), options.extension)}"
        if not options.overwrite and fs.exists(path):
            counts["skipped"] += 1
            continue
        try:
            picture = decode_original(read_image(uri, task.limits.bytes), task.limits.pixels)
        except (MuscRayError, MemoryError, OSError) as error:
            counts["unreadable"] += 1
            first = first or f"{uri}: {error}"
            continue
        grid = (image["grid_h"].as_py(), image["grid_w"].as_py())
        values = upsample(image["patch_map"].values.to_numpy().reshape(grid), picture.size)
        with atomic_file(fs, path) as partial:
            partial.write_bytes(encode(values, options.file_format, task.scale, picture if options.overlay else None))
        counts["written"] += 1
    return counts, first
