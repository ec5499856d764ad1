"""Score the new images of a source against a window of earlier ones, as a run of its own."""

import logging
from dataclasses import replace
from datetime import UTC, datetime

from musc_ray.backbones.names import resolve_backbone
from musc_ray.errors import SettingsError
from musc_ray.features.context import RunContext, context_of, with_judged
from musc_ray.features.known_good import judged_images
from musc_ray.features.workspace import Workspace, check_start, open_out, start_workers
from musc_ray.nightly.history import known_images, seen_snapshot
from musc_ray.nightly.selection import Night, select_night
from musc_ray.pipeline import score_archive
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.result import RunResult
from musc_ray.settings.loading import load_settings
from musc_ray.settings.method import CHOSEN
from musc_ray.settings.model import Settings
from musc_ray.settings.values import settings_affecting, settings_dict
from musc_ray.sources.catalog import list_images
from musc_ray.storage.complete_runs import complete_run
from musc_ray.storage.lease import lease
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.paths import OutPaths

OF_ONE_RUN = settings_affecting("run", "runtime")
"""Settings that a nightly run does not inherit from the last run: they concern that run alone, or its machine."""

ALL_NEW = (
    "No earlier run has features of this backbone, method, image size, layers, crops, compress, refit and model "
    "precision: all images of the source count as new."
)
"""Note of a night that shares no features with the runs before."""

logger = logging.getLogger(__name__)


def night_settings(given: Settings) -> Settings:
    """Fill the settings of a nightly run: those not given are inherited from the last complete run of OUT.

    The precision of the backbone is inherited as resolved: the features of earlier images are of it, whatever the
    hardware of the night. So is what the method chose, unless another method or backbone is given.

    Raises:
        SettingsError: no out.
        MuscRayError: OUT holds no complete run.
    """
    if given.out is None:
        raise SettingsError("A nightly run needs the out of an earlier run, as in `musc-ray rescore OUT`.")
    return inherited(complete_run(OutPaths.at(given.out), None), given)


def inherited(last: RunManifest, given: Settings) -> Settings:
    """Fill the settings of a run that continues an earlier one: see `night_settings`."""
    kept = {name: value for name, value in settings_dict(last.settings).items() if name not in OF_ONE_RUN}
    if last.resolved.model_precision is not None:
        kept["model_precision"] = last.resolved.model_precision
    changed = {name: getattr(given, name) for name in given.model_fields_set}
    if changed.get("matching", kept["matching"]) != kept["matching"]:
        kept["radius"] = None  # it was that of the other matching
    backbones = {resolve_backbone(str(values["backbone"])).canonical for values in (kept, kept | changed)}
    if len(backbones) > 1 or changed.get("method", kept["method"]) != kept["method"]:
        kept = {name: value for name, value in kept.items() if name not in (*CHOSEN, "layers")}
    else:
        kept["layers"] = last.resolved.layers
    return load_settings(None, kept | changed)


def rescore_new(settings: Settings, progress: Progress) -> tuple[RunResult | None, dict[str, int]]:
    """Score the new images of the source; an OUT has one nightly run at a time.

    New images are scored with the other new images of their group and the window: the scores are those of a run on just
    these images. Features that a failed nightly run has extracted are used; its images are still new.

    Args:
        settings: with source and out; see `selection.select_night`.
        progress: shows the stages.

    Returns:
        The result, None if there was nothing to score; and the number of new images that wait for more, by group.

    Raises:
        SettingsError: settings that do not fit a nightly run.
        MuscRayError: another nightly run holds the lease; or what `run_archive` raises.
    """
    source, out = settings.source, settings.out
    if source is None or out is None:
        raise SettingsError("A nightly run needs a source and an out.")
    if not settings.keep_features:
        raise SettingsError("A nightly run compares with the features of earlier images: set keep_features to true.")
    with progress.phase("looking at source and OUT"):
        check_start(settings)
    out_paths = OutPaths.at(out)
    running = open_executor(ExecutorOptions.of(settings), progress)
    only_one = lease(out_paths.fs, out_paths.night_lease, "A nightly run", progress.phase)
    with running as executor, only_one:
        workspace = open_out(settings, executor)
        start_workers(workspace, executor)
        with progress.stage("catalog", total=None, unit="images") as stage:
            context, night = _context_of_night(workspace, source)
            stage.advance(context.images)
        for group, images in night.waiting.items():
            logger.warning("Group '%s' has %d image: it waits for more of its kind.", group, images)
        if not night.images:
            return None, night.waiting
        stages = {"catalog": {"seconds": stage.seconds, "images": context.images}}
        return score_archive(context, executor, stages, progress), night.waiting


def _context_of_night(workspace: Workspace, source: str) -> tuple[RunContext, Night]:
    """List the source, and choose what of it is new and what it is compared with."""
    settings, out_paths, features_id = workspace.settings, workspace.out_paths, workspace.meta.features_id
    after = None if settings.since else seen_snapshot(out_paths, features_id, settings)
    catalog = list_images(source, settings.group_by, after, settings.column)
    known = known_images(out_paths, features_id)
    judged = judged_images(settings, out_paths, catalog.groups, whole=False)
    night = select_night(workspace, catalog.groups, known, datetime.now(UTC).date(), judged)
    context = context_of(workspace, night.images, judged, night.earlier)
    notes = night.notes if known else (*night.notes, ALL_NEW)
    for note in notes:
        logger.warning("%s", note)
    catalog = with_judged(catalog, judged)
    catalog = replace(catalog, notes=(*catalog.notes, *notes))
    return replace(context, catalog=catalog, waiting=night.waiting), night
