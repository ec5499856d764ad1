"""Describe a run: what it is going to do, and what it did (storage/manifest.py has the records)."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from musc_ray import __version__
from musc_ray.core.drift import is_drift
from musc_ray.errors import MuscRayError
from musc_ray.features.context import RunContext
from musc_ray.scoring.ranking_worker import GroupFigures
from musc_ray.scoring.ring import GroupImages
from musc_ray.storage.manifest import (
    SCHEMA_VERSION,
    Counts,
    DefectCount,
    GroupNight,
    Resolved,
    RunManifest,
    StartedGroup,
    StartedManifest,
)

PACKAGES = ("faiss-cpu", "numpy", "open-clip-torch", "pyarrow", "ray", "timm", "torch")


def started_record(context: RunContext) -> StartedManifest:
    """Describe what there is to do, by which `status` measures how far a run is."""
    return StartedManifest(
        schema_version=SCHEMA_VERSION,
        run_id=context.run_id,
        identity=context.identity,
        started_at=datetime.now(UTC),
        features_id=context.meta.features_id,
        layers=context.meta.layers,
        groups={
            name: StartedGroup(images=group.images, shards=tuple(sorted(group.all)))
            for name, group in context.groups.items()
        },
        settings=context.settings,
    )


def check_resumable(context: RunContext) -> None:
    """Refuse to resume a named run with other images, settings or arithmetic: its bands would be mixed with others.

    Raises:
        MuscRayError: the run of this name was started as another one.
    """
    started = StartedManifest.read(context.run_paths)
    if started is not None and started.identity not in (None, context.identity):
        raise MuscRayError(
            f"Run {context.run_id} was started with other images, settings or hardware, and is not complete: give "
            f"another run_id, or start it again with --overwrite."
        )


def run_record(
    context: RunContext,
    groups: Sequence[GroupImages],
    scored_at: datetime,
    stages: Mapping[str, Mapping[str, Any]],
    failed_groups: Mapping[str, str],
    failed_images: int,
    metrics: Mapping[str, float],
    notes: Sequence[str],
    figures: Mapping[str, GroupFigures],
) -> RunManifest:
    """Describe a run that is scored: resolved settings, versions, counts, times per stage, thresholds."""
    meta = context.meta
    of_groups = {group.group: figures[group.group].threshold for group in groups}
    repeated = stages["repeats"]["defects"] if "repeats" in stages else None
    return RunManifest(
        schema_version=SCHEMA_VERSION,
        run_id=context.run_id,
        features_id=meta.features_id,
        scored_at=scored_at,
        settings=context.settings,
        resolved=Resolved(
            backbone=meta.backbone,
            weights_sha256=meta.weights_sha256,
            image_size=meta.image_size,
            grid=meta.grid,
            layers=meta.layers,
            channels=meta.channels,
            class_channels=meta.class_channels,
            device=context.arithmetic.device,
            precision=context.arithmetic.precision_for(max(group.window.images for group in groups)),
            model_precision=context.arithmetic.model_precision,
        ),
        counts=Counts(
            images=context.images,
            scored=sum(group.published for group in groups),
            failed=failed_images,
            groups=len(context.groups),
            failed_groups=len(failed_groups),
            shards=sum(len(group.ring) for group in groups),
        ),
        failed_groups=dict(failed_groups),
        metrics=dict(metrics),
        notes=tuple(notes),
        stages={
            name: {figure: value for figure, value in stage.items() if figure != "defects"}
            for name, stage in stages.items()
        },
        versions={
            "musc-ray": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        source_snapshot=context.source_snapshot,
        repeated_defects=None
        if repeated is None
        else {name: tuple(DefectCount(**row) for row in rows) for name, rows in repeated.items()},
        waiting=dict(context.waiting),
        thresholds={name: threshold for name, threshold in of_groups.items() if threshold is not None},
        night=None if context.earlier is None else _night(context, groups, figures),
    )


def _night(
    context: RunContext, groups: Sequence[GroupImages], figures: Mapping[str, GroupFigures]
) -> dict[str, GroupNight]:
    """What a night scored against what, and how far its raw scores lie from those of its window."""
    content = {}
    for group in groups:
        new, value = group.images - len(group.earlier), figures[group.group].drift
        warns = value is not None and is_drift(value, new, context.settings.drift_warning)
        rounded = None if value is None else round(value, 4)
        content[group.group] = GroupNight(new=new, window=len(group.earlier), drift=rounded, drift_warning=warns)
    return content
