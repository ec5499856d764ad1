"""A whole run: images -> catalog -> extract -> mutual -> reduce -> publish -> report -> lake.

Every stage takes up what an earlier, interrupted run of the same settings on the same images left behind.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.core.metrics.image import image_auroc
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.features.context import RunContext, forget_features, open_context
from musc_ray.features.extraction import ExtractStats, ShardTask, extract
from musc_ray.features.repair import MOST_REPAIRS, added, error_rows, repair_features
from musc_ray.lake.publish import check_lake, publish_complete
from musc_ray.planning.cost import SUGGESTED_REFERENCES, pending_bytes
from musc_ray.report.build import write_report
from musc_ray.runtime.cluster import ClusterOptions, ray_cluster
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.telemetry import RunMetrics
from musc_ray.scoring.driver import score_groups
from musc_ray.scoring.ranking_worker import GroupFigures
from musc_ray.scoring.record import check_resumable, run_record, started_record
from musc_ray.scoring.ring import GroupImages
from musc_ray.scoring.thresholds import GroupThreshold, ThresholdRule, apply_rule, group_threshold
from musc_ray.settings.credentials import redacted
from musc_ray.settings.model import Settings
from musc_ray.sources.catalog import to_table
from musc_ray.storage.filesystem import remove_tree, write_json
from musc_ray.storage.garbage import check_kept
from musc_ray.storage.manifest import GroupNight, RunManifest, time_after_all
from musc_ray.storage.parquet import write_table
from musc_ray.storage.schemas import ERRORS
from musc_ray.storage.scores import read_scores
from musc_ray.storage.shards import BrokenShardError

WORST_IMAGES = 10
Stages = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class RunResult:
    """What a command has to show: run.json, the worst images, thresholds, where things lie, whether it was computed."""

    run: RunManifest
    worst: list[dict[str, Any]]
    thresholds: list[GroupThreshold]
    scores_path: str
    report_path: str
    computed: bool


def extract_archive(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Extract what is missing of an archive's features, and stop there; a run on it then begins with scoring.

    Returns:
        Figures of the stage.

    Raises:
        MuscRayError: the job cannot go on; what is done stays, and the same command takes it up.
    """
    context, stages = _listed_archive(settings, progress)
    with ray_cluster(ClusterOptions.of(settings)), progress.watched(RunMetrics(context.run_id)):
        errors = _extract(context, progress, stages)
    _check_errors(context, errors, "A run lists them all")
    return {**stages["extract"], "failed": len(errors)}


def run_archive(
    settings: Settings, progress: Progress, labels: Mapping[str, int] | None = None, extracted: bool = False
) -> RunResult:
    """Score an archive.

    Args:
        settings: with source and out.
        progress: shows the stages.
        labels: by uri, 1 = defective: compared with the scores when given, never used for scoring.
        extracted: refuse images that have no features yet.

    Raises:
        MuscRayError: the job cannot go on; what is done stays, and the same command takes it up.
    """
    context, stages = _listed_archive(settings, progress)
    missing = sum(len(images) for group in context.groups.values() for images in group.missing.values())
    if extracted and missing:
        raise MuscRayError(
            f"{missing:,} of {context.images:,} images have no features of this backbone, image size and layers yet: "
            f"extract them with `musc-ray extract`, or use `musc-ray run`."
        )
    return score_archive(context, stages, progress, labels)


def _listed_archive(settings: Settings, progress: Progress) -> tuple[RunContext, Stages]:
    """The catalog stage, and its figures."""
    for name in ("since", "window", "rescore_window"):
        if getattr(settings, name):
            raise SettingsError(f"{name} is for images that come later: use `musc-ray rescore OUT`.")
    with progress.stage("catalog", total=None, unit="images") as stage:
        context = open_context(settings)
        stage.advance(context.images)
    return context, {"catalog": {"seconds": stage.seconds, "images": context.images}}


def score_archive(
    context: RunContext, stages: Stages, progress: Progress, labels: Mapping[str, int] | None = None
) -> RunResult:
    """The stages after the catalog, whose figures are given; `run_archive` tells the rest."""
    settings, layout, run_paths = context.settings, context.layout, context.run_paths
    complete = RunManifest.read(run_paths)
    if complete is not None and not settings.overwrite:
        scored = [name for name in context.groups if name not in complete.failed_groups]
        complete = _with_rule(context, complete, scored)
        publish_complete(layout, settings.lake, context.run_id)
        return _result(context, complete, computed=False)
    groups, _ = _scorable_groups(context, errors=())  # a hopeless job ends before its work
    _check_pending(context, groups)
    check_lake(layout, settings.lake)
    if settings.overwrite:
        remove_tree(layout.fs, run_paths.folder)
    check_resumable(context)
    write_table(layout.fs, run_paths.catalog, to_table({name: g.listed for name, g in context.groups.items()}))
    started_record(context).write(run_paths)
    check_kept(context)
    progress.record(lambda stages: write_json(layout.fs, run_paths.progress_json, stages))
    with ray_cluster(ClusterOptions.of(settings)), progress.watched(RunMetrics(context.run_id)):
        errors = _extract(context, progress, stages)
        _write_errors(context, errors)
        scored_at = time_after_all(layout, datetime.now(UTC))
        groups, failed_groups, figures, failures = _score(context, errors, scored_at, progress, stages)
        failed_groups |= {name: redacted(f"Group '{name}' failed: {error}") for name, error in failures.items()}
        groups = [group for group in groups if group.group not in failures]
        if not groups:
            raise MuscRayError(next(iter(failed_groups.values()))) from next(iter(failures.values()))
        metrics = _metrics(context, groups, labels or {})
        notes = _notes(failed_groups, stages)
        run = run_record(context, groups, scored_at, stages, failed_groups, len(errors), metrics, notes, figures)
        run = run.model_copy(update={"notes": (*run.notes, *_drift_notes(run.night or {}))})
        started = time.monotonic()
        write_report(layout, run, context.settings, progress, labels)
        stages["report"] = {"seconds": time.monotonic() - started}
        run = run.model_copy(update={"stages": {**run.stages, "report": stages["report"]}})
    run.write(run_paths)
    _clean_up(context)
    publish_complete(layout, settings.lake, context.run_id)
    return _result(context, run, computed=True)


def _with_rule(context: RunContext, complete: RunManifest, groups: Sequence[str]) -> RunManifest:
    """A complete run with the thresholds that are asked for now.

    Raises:
        SettingsError: they would need the scores of a night's window, which are not kept.
    """
    rule = ThresholdRule.of(context.settings)
    if context.earlier is not None and rule.contamination != complete.settings.contamination:
        raise SettingsError(
            f"Run {complete.run_id} is complete with contamination {complete.settings.contamination}: another "
            f"one needs --overwrite, since it is a share of the window, whose scores are not kept."
        )
    return apply_rule(context.run_paths, complete, groups, rule)


def _extract(context: RunContext, progress: Progress, stages: Stages) -> list[dict[str, str]]:
    """Extract what is missing; returns the rows of the errors table."""
    tasks = [
        ShardTask(name, shard, images)
        for name, group in context.groups.items()
        for shard, images in group.missing.items()
    ]
    stats = ExtractStats(failed=[(name, image) for name, group in context.groups.items() for image in group.failed])
    missing = sum(len(task.images) for task in tasks)
    with progress.stage("extract", total=context.images, unit="images") as stage:
        stage.already_done(max(0, context.images - missing))
        for shard in extract(context.settings, context.arithmetic, context.layout, context.meta, tasks):
            stats.add(shard)
            stage.count(bytes_written=shard.bytes_written, errors=len(shard.failed))
            stage.advance(shard.images)
    figures = {name: value for name, value in vars(stats).items() if name != "failed"}
    stages["extract"] = {"seconds": stage.seconds, **figures, "already_done": context.images - missing}
    return error_rows(stats.failed)


def _write_errors(context: RunContext, errors: Sequence[dict[str, str]]) -> None:
    """Write the errors table, and fail when there are too many."""
    layout, folder = context.layout, context.run_paths.errors
    write_table(layout.fs, f"{folder}/part-00000.parquet", pa.Table.from_pylist(list(errors), schema=ERRORS))
    _check_errors(context, errors, f"All are listed in {layout.uri(folder)}")


def _score(
    context: RunContext, errors: list[dict[str, str]], scored_at: datetime, progress: Progress, stages: Stages
) -> tuple[list[GroupImages], dict[str, str], dict[str, GroupFigures], dict[str, Exception]]:
    """Score all groups; where features turn out to be broken, these are extracted again, and the group scored again.

    Args:
        errors: rows of the errors table; images that fail then are added.

    Returns:
        The groups that can be scored, and why others cannot; figures of those that were, and why others were not.
    """
    groups, failed_groups = _scorable_groups(context, errors)
    figures, failures = score_groups(context, groups, scored_at, progress, stages)
    for _ in range(MOST_REPAIRS):
        broken = {name for name, error in failures.items() if isinstance(error, BrokenShardError)}
        if not broken:
            break
        repaired = repair_features(context, broken, errors, progress)
        stages["extract"]["repaired_shards"] = stages["extract"].get("repaired_shards", 0) + repaired.shards
        if repaired.failed:
            errors += error_rows(repaired.failed)
            _write_errors(context, errors)
            groups, failed_groups = _scorable_groups(context, errors)
        for name in broken:
            del failures[name]
        again = [group for group in groups if group.group in broken]
        if again:
            once: Stages = {}
            more, failed = score_groups(context, again, scored_at, progress, once)
            stages |= {name: added(stages[name], figures_of) for name, figures_of in once.items()}
            figures, failures = figures | more, failures | failed
    return groups, failed_groups, figures, failures


def _check_errors(context: RunContext, errors: Sequence[Mapping[str, str]], where: str) -> None:
    """Fail when too many images are broken.

    Raises:
        MuscRayError: how many, the first, and where all are listed.
    """
    allowed, images = context.settings.max_error_fraction, sum(group.images for group in context.groups.values())
    if len(errors) > allowed * images:
        raise MuscRayError(
            f"{len(errors)} of {images} images cannot be read, more than max_error_fraction {allowed} allows; "
            f"the first is {errors[0]['uri']}: {errors[0]['message']} {where}; mend them, or raise max_error_fraction."
        )


def _scorable_groups(
    context: RunContext, errors: Sequence[Mapping[str, str]]
) -> tuple[list[GroupImages], dict[str, str]]:
    """The groups with at least 2 readable images, and why the others cannot be scored."""
    broken = {(error["group"], error["uri"]) for error in errors}
    groups, failed = [], {}
    for name, listed in context.groups.items():
        readable = {
            shard: [image.image_id for image in images if (name, image.uri) not in broken]
            for shard, images in listed.all.items()
        }
        images = sum(map(len, readable.values()))
        earlier = len((context.earlier or {}).get(name, ()))
        if earlier and images == earlier:
            failed[name] = f"Group '{name}' has no new image that can be read: see the errors table."
        elif images >= 2:
            shards = {shard: ids for shard, ids in readable.items() if ids}
            groups.append(context.group_images(name, shards))
        else:
            failed[name] = (
                f"Group '{name}' has {images} readable image{'' if images == 1 else 's'}: at least 2 are "
                f"needed to score each other; add images, or use another group_by."
            )
    if not groups:
        raise MuscRayError(next(iter(failed.values())))
    return groups, failed


def _check_pending(context: RunContext, groups: Sequence[GroupImages]) -> None:
    """Refuse a group whose unfinished distances would not fit, rather than to sample references silently.

    Raises:
        SettingsError: names the group and the settings to use.
    """
    settings, (h, w) = context.settings, context.meta.grid
    for group in groups:
        pending = pending_bytes(group.window, h * w, settings.vectors, settings.distance_bytes)
        if pending > settings.max_pending_gb * 1e9:
            raise SettingsError(
                f"Group '{group.group}' has {group.images:,} images: with references {settings.references} up to "
                f"{pending / 1e9:,.0f} GB of unfinished distances would wait, more than max_pending_gb "
                f"{settings.max_pending_gb}; use --references {SUGGESTED_REFERENCES}, or raise max_pending_gb."
            )


def _metrics(context: RunContext, groups: Sequence[GroupImages], labels: Mapping[str, int]) -> dict[str, float]:
    """Image AUROC of each group whose images all have labels of both kinds."""
    metrics = {}
    for group in groups if labels else ():
        table = read_scores(context.run_paths, group.group, ["uri", "score"])
        known = [labels.get(uri, -1) for uri in table["uri"].to_pylist()]
        if set(known) == {0, 1}:
            name = "image AUROC" if len(groups) == 1 else f"image AUROC {group.group}"
            metrics[name] = image_auroc(known, table["score"].to_numpy())
    return metrics


def _notes(failed_groups: Mapping[str, str], stages: Stages) -> list[str]:
    """What a reader of the result must not miss."""
    error = stages["mutual"]["largest_summary_error"]
    summary = [f"Interval averages of many references came from summaries: each is off by {error:.1e} at most."]
    lost = stages["extract"]["lost_workers"] + stages["mutual"]["lost_workers"]
    deaths = [f"{lost} worker{'' if lost == 1 else 's'} died; what they were doing was done again."]
    shrunk = stages["mutual"]["shrunk_blocks"]
    repaired = stages["extract"].get("repaired_shards", 0)
    mended = [f"{repaired} shard{'' if repaired == 1 else 's'} of features were broken, and extracted again."]
    small = [f"{shrunk} blocks of tiles ran out of memory and were done again with fewer shards: lower cache_mb."]
    halved = stages["extract"]["halved_batches"]
    too_large = [f"{halved} batches ran out of memory and were halved: lower batch_size."] if halved else []
    return [
        *failed_groups.values(),
        *too_large,
        *(small if shrunk else []),
        *(summary if error else []),
        *(deaths if lost else []),
        *(mended if repaired else []),
    ]


def _drift_notes(night: Mapping[str, GroupNight]) -> list[str]:
    """What a reader must know of groups whose new images look unlike those they were scored against."""
    return [
        f"Group '{name}' drifts: the raw scores of its {group.new} new images lie {group.drift:+.1f} robust "
        f"standard deviations from those of its window; look at light, lens, material and camera."
        for name, group in night.items()
        if group.drift_warning
    ]


def _clean_up(context: RunContext) -> None:
    """Remove intermediate results, and the features unless they are to be kept."""
    remove_tree(context.layout.fs, context.run_paths.work)
    if not context.settings.keep_features:
        for name, group in context.groups.items():
            ids = {image.image_id for images in group.all.values() for image in images}
            forget_features(context.layout, context.meta.features_id, name, ids | {i.image_id for i in group.failed})


def _result(context: RunContext, run: RunManifest, computed: bool) -> RunResult:
    run_paths = context.run_paths
    columns = ["image_id", "uri", "group", "score_raw", "score", "rank", "percentile"]
    worst, thresholds = [], []
    for name in context.groups:
        if name not in run.failed_groups:
            table = read_scores(run_paths, name, columns)
            worst += table.filter(pc.less_equal(table["rank"], WORST_IMAGES)).to_pylist()
            threshold = (run.thresholds or {}).get(name)
            if threshold is not None or context.earlier is None:  # a night alone is too little to suggest one from
                thresholds.append(group_threshold(name, table["score"].to_numpy(), threshold))
    return RunResult(
        run=run,
        worst=sorted(worst, key=lambda row: (row["rank"], row["group"]))[:WORST_IMAGES],
        thresholds=thresholds,
        scores_path=run_paths.uri(run_paths.scores),
        report_path=run_paths.uri(f"{run_paths.report}/index.html"),
        computed=computed,
    )
