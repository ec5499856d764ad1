"""A whole run: catalog -> extract -> score (mutual, repeats, reduce, publish) -> report -> lake, from top to bottom.

Every stage resumes what an earlier, interrupted run of the same settings on the same images has done.
"""

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any

from musc_ray.errors import MuscRayError, SettingsError, reason_of
from musc_ray.evaluate.run_metrics import image_aurocs
from musc_ray.features.context import RunContext, open_context
from musc_ray.features.errors_table import check_errors, group_errors, listing_errors, write_errors
from musc_ray.features.listing_notes import listing_notes
from musc_ray.features.missing import extract_missing
from musc_ray.features.repair import check_bases
from musc_ray.features.workspace import check_start, open_out, start_workers
from musc_ray.lake.publish import check_lake, publish_complete
from musc_ray.planning.pending import check_pending
from musc_ray.report.build import write_report
from musc_ray.runtime.executor import Executor, open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.driver import Stages
from musc_ray.scoring.result import RunResult, read_result
from musc_ray.scoring.run_manifest import check_same_run, run_manifest, started_manifest
from musc_ray.scoring.scored_groups import scorable_groups, score_all
from musc_ray.scoring.thresholds import ThresholdRule, apply_rule, apply_verdicts
from musc_ray.settings.credentials import redacted
from musc_ray.settings.model import Settings
from musc_ray.sources.catalog import skipped_table, to_table
from musc_ray.storage.complete_runs import time_after_all
from musc_ray.storage.failure import Failure
from musc_ray.storage.feature_shards import forget_features
from musc_ray.storage.filesystem import remove_tree, write_json
from musc_ray.storage.garbage import check_kept
from musc_ray.storage.lease import lease
from musc_ray.storage.listing import names_in
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.retry import StorageError

logger = logging.getLogger(__name__)


def run_archive(
    settings: Settings, progress: Progress, labels: Mapping[str, int] | None = None, extracted: bool = False
) -> RunResult:
    """Score an archive.

    Args:
        settings: with source and out.
        progress: shows the stages.
        labels: by uri, 1 = defective: compared with the scores if given, never used for scoring.
        extracted: refuse images that have no features yet.

    Raises:
        MuscRayError: the job cannot continue; what is done stays, and the same command resumes it.
    """
    _check_start(settings, progress)
    with open_executor(ExecutorOptions.of(settings), progress) as executor:
        context, stages = _list_images(settings, executor, progress)
        if extracted:
            _check_extracted(context)
        return score_archive(context, executor, stages, progress, labels)


def score_archive(
    context: RunContext,
    executor: Executor,
    stages: Stages,
    progress: Progress,
    labels: Mapping[str, int] | None = None,
) -> RunResult:
    """Run the stages after the catalog.

    Args:
        context: the run and its images.
        executor: runs the tasks.
        stages: figures of the stages so far; those of others are added.
        progress, labels: as for `run_archive`.

    Raises:
        MuscRayError: as `run_archive`; or another command is at work on the run.
    """
    settings, run_paths = context.settings, context.run_paths
    complete = RunManifest.read(run_paths)
    if complete is not None and not settings.overwrite:
        return _reuse(context, complete)
    _check_before_work(context)
    with _lease(context, progress):
        complete = RunManifest.read(run_paths)
        if complete is not None and not settings.overwrite:  # another command has completed it meanwhile
            return _reuse(context, complete)
        with progress.phase("writing the list of images"):
            _begin(context, progress)
        with _recorded_failure(run_paths):
            run = _compute(context, executor, stages, progress, labels or {})
        run.write(run_paths)
        with progress.phase("removing intermediate results"):
            _clean_up(context)
        with progress.phase("publishing the run"):
            publish_complete(context.out_paths, settings.lake, context.run_id)
        with progress.phase("reading the scores"):
            return read_result(context, run, computed=True)


def _lease(context: RunContext, progress: Progress) -> AbstractContextManager[None]:
    """Hold the lease of a run, so that no other command does the same work beside this one.

    Raises:
        MuscRayError: another command is at work.
    """
    advice = f"`musc-ray status {context.settings.out}` shows how far it is; wait for its end, or stop it"
    return lease(context.out_paths.fs, context.run_paths.lease, f"Run {context.run_id}", progress.phase, advice)


def _compute(
    context: RunContext, executor: Executor, stages: Stages, progress: Progress, labels: Mapping[str, int]
) -> RunManifest:
    """Extract, score and write the report; return the manifest, which is not written yet."""
    settings, run_paths = context.settings, context.run_paths
    errors = listing_errors(context.catalog.unreadable)
    write_errors(context, errors)
    check_errors(context, errors)
    executor.start(context.arithmetic.device)
    with progress.watched(executor.watch(context.run_id)):
        errors += extract_missing(context, executor, progress, stages)
        write_errors(context, errors)
        check_errors(context, errors)
        check_bases(context)
        scored_at = time_after_all(context.out_paths, datetime.now(UTC))
        scored = score_all(context, executor, errors, scored_at, progress, stages)
        if scored.failed:
            errors += group_errors(context, scored.failed, errors)
            write_errors(context, errors)
        metrics = image_aurocs(run_paths, [group.group for group in scored.groups], labels)
        run = run_manifest(context, scored, scored_at, stages, errors, metrics)
        run = apply_verdicts(run_paths, run, [group.group for group in scored.groups])
        started = time.monotonic()
        write_report(context.out_paths, run, executor, settings, progress, labels)
    stages = {**run.stages, "report": {"seconds": time.monotonic() - started}}
    resolved = run.resolved.model_copy(update={"executor": executor.name})
    return run.model_copy(update={"stages": stages, "resolved": resolved})


def extract_archive(settings: Settings, progress: Progress) -> dict[str, Any]:
    """Extract the missing features of an archive, and stop; a run on it then starts with scoring.

    Returns:
        Figures of the stage, and notes on the images.

    Raises:
        MuscRayError: as `run_archive`.
    """
    _check_start(settings, progress)
    with open_executor(ExecutorOptions.of(settings), progress) as executor:
        context, stages = _list_images(settings, executor, progress)
        errors = listing_errors(context.catalog.unreadable)
        check_errors(context, errors, "A run lists them all.")
        executor.start(context.arithmetic.device)
        with progress.watched(executor.watch(context.run_id)):
            errors += extract_missing(context, executor, progress, stages)
        check_errors(context, errors, "A run lists them all.")
    counts = {"failed": len(errors), "skipped": len(context.catalog.skipped)}
    return {**stages["extract"], **counts, "notes": listing_notes(context)}


def _check_start(settings: Settings, progress: Progress) -> None:
    """Refuse a job that cannot work before Ray, a model or a download is started for it."""
    for name in ("since", "window", "rescore_window"):
        if getattr(settings, name):
            raise SettingsError(f"{name} is for images that come later: use `musc-ray rescore OUT`.")
    with progress.phase("looking at source and OUT"):
        check_start(settings)


def _list_images(settings: Settings, executor: Executor, progress: Progress) -> tuple[RunContext, Stages]:
    """Run the catalog stage; returns the run's context and the figures of the stage."""
    workspace = open_out(settings, executor)
    start_workers(workspace, executor)
    with progress.stage("catalog", total=None, unit="images") as stage:
        context = open_context(workspace)
        stage.advance(context.images)
    return context, {"catalog": {"seconds": stage.seconds, "images": context.images}}


def _check_extracted(context: RunContext) -> None:
    """Refuse images without features."""
    missing = sum(len(images) for group in context.groups.values() for images in group.missing.values())
    if missing:
        images = sum(group.images for group in context.groups.values())
        raise MuscRayError(
            f"{missing:,} of {images:,} images have no features of this backbone, method, image size, layers, "
            f"crops, compress, refit and model precision ({context.arithmetic.model_precision}) yet: extract them with "
            f"`musc-ray extract`, give the --model-precision that they were extracted in, or use `musc-ray run`."
        )


def _check_before_work(context: RunContext) -> None:
    """Refuse a job that cannot succeed."""
    groups, _ = scorable_groups(context, errors=())
    check_pending(context, groups)
    check_lake(context.out_paths, context.settings.lake)


def _begin(context: RunContext, progress: Progress) -> None:
    """Write the catalog and what the run will do; keep `progress.json` up to date from now on."""
    fs, run_paths = context.out_paths.fs, context.run_paths
    if context.settings.overwrite:
        _clear(run_paths)
    check_same_run(context)
    remove_tree(fs, run_paths.failed_json)
    shards = {name: group.listed for name, group in context.groups.items()}
    write_table(fs, run_paths.catalog, to_table(shards, context.roles.known_good))
    write_table(fs, f"{run_paths.skipped}/part-00000.parquet", skipped_table(context.catalog.skipped))
    started_manifest(context).write(run_paths)
    done = {name: group.done for name, group in context.groups.items()}
    check_kept(context.out_paths, context.meta.features_id, done)
    progress.record(lambda stages: write_json(fs, run_paths.progress_json, stages))


def _clear(run_paths: RunPaths) -> None:
    """Remove all that is known of a run, but for the lease that this command holds."""
    for path in names_in(run_paths.fs, run_paths.folder):
        if path != run_paths.lease:
            remove_tree(run_paths.fs, path)


@contextmanager
def _recorded_failure(run_paths: RunPaths) -> Iterator[None]:
    """Write down why a run fails, so that `status` can say it."""
    try:
        yield
    except Exception as error:
        reason = str(error) if isinstance(error, MuscRayError) else f"{type(error).__name__}: {reason_of(error)}"
        try:
            Failure(failed_at=datetime.now(UTC), message=redacted(reason)).write(run_paths)
        except (OSError, StorageError) as unwritten:
            logger.warning("The failure of the run cannot be written: %s.", reason_of(unwritten))
        raise


def _reuse(context: RunContext, complete: RunManifest) -> RunResult:
    """Return a complete run, with the thresholds that the settings ask for.

    Raises:
        SettingsError: the thresholds need the scores of a night's window, which are not kept.
        MuscRayError: it has the name of this run, but other images or settings.
    """
    check_same_run(context)
    rule = ThresholdRule.of(context.settings)
    if context.earlier is not None and rule.contamination != complete.settings.contamination:
        raise SettingsError(
            f"Run {complete.run_id} is complete with contamination {complete.settings.contamination}: another "
            f"one needs --overwrite, since it is a share of the window, whose scores are not kept."
        )
    complete = apply_rule(context.run_paths, complete, complete.scored(context.groups), rule)
    publish_complete(context.out_paths, context.settings.lake, context.run_id)
    return read_result(context, complete, computed=False)


def _clean_up(context: RunContext) -> None:
    """Remove intermediate results, and the features unless `keep_features` is set."""
    remove_tree(context.out_paths.fs, context.run_paths.work)
    if not context.settings.keep_features:
        for name, group in context.groups.items():
            ids = {image.image_id for images in group.all.values() for image in images}
            forget_features(context.out_paths, context.meta.features_id, name, ids | {i.image_id for i in group.failed})
