"""Build the manifests of a run: what it will do, and what it did (`storage/manifest.py` has the models)."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from musc_ray import __version__
from musc_ray.core.compression_limits import MIN_IMAGES
from musc_ray.core.drift import is_drift
from musc_ray.errors import MuscRayError
from musc_ray.features.context import RunContext
from musc_ray.features.intensity import stated
from musc_ray.features.listing_notes import listing_notes
from musc_ray.features.outside import is_outside
from musc_ray.scoring.crop_references import chosen_crop_references
from musc_ray.scoring.kept import chosen_foreground, chosen_kept
from musc_ray.scoring.kept_notes import kept_notes
from musc_ray.scoring.matching import chosen_matching
from musc_ray.scoring.notes import (
    crop_notes,
    grown_notes,
    judged_notes,
    outside_notes,
    run_notes,
    settled_anew_notes,
    shown_notes,
)
from musc_ray.scoring.run_counts import run_counts
from musc_ray.scoring.scored_groups import ScoredGroups
from musc_ray.scoring.shown_maps import chosen_shown_maps
from musc_ray.storage.layer_columns import layer_bytes
from musc_ray.storage.manifest import (
    SCHEMA_VERSION,
    RunManifest,
    StartedGroup,
    StartedManifest,
)
from musc_ray.storage.manifest_records import (
    DefectCount,
    GroupCompression,
    GroupCrops,
    GroupJudged,
    GroupNight,
    Resolved,
)

PACKAGES = ("faiss-cpu", "numpy", "open-clip-torch", "pyarrow", "ray", "timm", "torch")


def started_manifest(context: RunContext) -> StartedManifest:
    """Describe what a run will do, by which `status` measures its progress."""
    return StartedManifest(
        schema_version=SCHEMA_VERSION,
        run_id=context.run_id,
        identity=context.identity,
        started_at=datetime.now(UTC),
        features_id=context.meta.features_id,
        layers=context.meta.layers,
        groups={
            name: StartedGroup(
                images=group.images,
                shards=tuple(sorted(group.all)),
                crops=context.shape_of(name).places - 1,
                bands=_banded(context, name),
            )
            for name, group in context.groups.items()
        },
        settings=context.settings,
    )


def check_same_run(context: RunContext) -> None:
    """Refuse a named run that was started with other images, settings or arithmetic.

    Its bands would be mixed with others if it is resumed, and its scores taken for what they are not if it is complete.

    Raises:
        MuscRayError: the run of this name was started as another one.
    """
    started = StartedManifest.read(context.run_paths)
    if started is not None and started.identity not in (None, context.identity):
        raise MuscRayError(
            f"Run {context.run_id} was started with other images, settings or hardware: give another run_id, or start "
            f"it again with --overwrite."
        )


def run_manifest(
    context: RunContext,
    scored: ScoredGroups,
    scored_at: datetime,
    stages: Mapping[str, Mapping[str, Any]],
    errors: Sequence[Mapping[str, str]],
    metrics: Mapping[str, float],
) -> RunManifest:
    """Describe a scored run: resolved settings, versions, counts, times per stage, thresholds.

    Args:
        context: the run.
        scored: its groups.
        scored_at: time in every row.
        stages: figures of the stages.
        errors: rows of the errors table.
        metrics: by name, if labels are known.
    """
    night, compression = _night(context, scored), _compression(context, scored)
    images = {group.group: group.images for group in scored.groups}
    return RunManifest(
        schema_version=SCHEMA_VERSION,
        run_id=context.run_id,
        features_id=context.meta.features_id,
        scored_at=scored_at,
        settings=context.settings,
        resolved=_resolved(context, max(images, key=images.__getitem__), images),
        counts=run_counts(context, scored, errors),
        failed_groups=scored.failed,
        metrics=dict(metrics),
        notes=_notes(context, scored, stages, night, compression),
        stages=_figures(stages),
        versions=_versions(),
        skipped=context.catalog.skipped_by_reason,
        source_snapshot=context.catalog.snapshot,
        repeated_defects=_defect_counts(stages),
        waiting=dict(context.waiting),
        thresholds=_thresholds(scored),
        raw_ranges={group.group: scored.figures[group.group].raw_range for group in scored.groups},
        night=night,
        intensity=stated(context.intensity),
        image_sizes=dict(context.image_sizes),
        compression=compression,
        crops=_crops(context),
        matching=chosen_matching(context),
        kept=chosen_kept(context),
        crop_references=chosen_crop_references(context),
        shown_maps=chosen_shown_maps(context),
        judged=_judged(context, scored),
    )


def _notes(
    context: RunContext,
    scored: ScoredGroups,
    stages: Mapping[str, Mapping[str, Any]],
    night: Mapping[str, GroupNight] | None,
    compression: Mapping[str, GroupCompression],
) -> tuple[str, ...]:
    """List the notes on the images, the stages and what was decided."""
    alone = {group.group: group.images for group in scored.groups if not group.known_good}
    notes = run_notes(scored.failed, stages, night or {}, context.intensity, alone, chosen_matching(context))
    judged = judged_notes(_judged(context, scored), context.roles.known_good)
    outside = outside_notes(night, compression)
    return (*listing_notes(context), *notes, *judged, *outside, *_decided_notes(context, scored))


def _thresholds(scored: ScoredGroups) -> dict[str, float]:
    """Return the threshold of each group that has one."""
    found = {group.group: scored.figures[group.group].threshold for group in scored.groups}
    return {name: threshold for name, threshold in found.items() if threshold is not None}


def _figures(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the figures of the stages, without what has a field of its own."""
    return {
        name: {figure: value for figure, value in stage.items() if figure != "defects"}
        for name, stage in stages.items()
    }


def _versions() -> dict[str, str]:
    """Return the versions of what made a result."""
    packages = {package: version(package) for package in PACKAGES}
    return {"musc-ray": __version__, "python": platform.python_version(), **packages}


def _resolved(context: RunContext, largest: str, images: Mapping[str, int]) -> Resolved:
    """Describe what `auto` and defaults resolved to; the precision is that of the largest group."""
    compressed = context.meta_of(largest).basis_sha256 is not None
    alike = len(set(context.image_sizes.values())) == 1
    meta = context.meta
    height, width = next(iter(context.image_sizes.values())) if alike else meta.image_size
    return Resolved(
        backbone=meta.backbone,
        weights_sha256=meta.weights_sha256,
        image_size=(height, width),
        grid=(height // context.patch, width // context.patch),
        layers=meta.layers,
        channels=context.meta.channels,
        class_channels=meta.class_channels,
        device=context.arithmetic.device,
        precision=context.arithmetic.precision_for(images[largest], compressed),
        model_precision=context.arithmetic.model_precision,
    )


def _banded(context: RunContext, group: str) -> tuple[int, ...] | None:
    """Return the shards with images that score each other; None where no image of a group is judged."""
    judged = context.roles.known_good.get(group, frozenset()) | context.roles.defective.get(group, frozenset())
    if not judged:
        return None
    shards = context.groups[group].all
    return tuple(sorted(number for number in shards if any(i.image_id not in judged for i in shards[number])))


def _judged(context: RunContext, scored: ScoredGroups) -> dict[str, GroupJudged]:
    """Describe the scored groups with known good or defective images."""
    roles, found = context.roles, {}
    for group in scored.groups:
        if group.group in roles.digests:
            good = roles.known_good.get(group.group, frozenset())
            found[group.group] = GroupJudged(
                known_good=group.known,
                defective=sum(image_id not in good for shard in group.aside for image_id in shard.ids),
                digest=roles.digests[group.group],
            )
    return found


def _crops(context: RunContext) -> dict[str, GroupCrops]:
    """Describe the groups whose images are cut."""
    return {
        name: GroupCrops(
            **asdict(crops.layout), image_size=crops.size, grid=crops.layout.map_grid(context.meta_of(name).grid)
        )
        for name, crops in context.crops.items()
    }


def _defect_counts(stages: Mapping[str, Mapping[str, Any]]) -> dict[str, tuple[DefectCount, ...]] | None:
    """Convert the repeated defects of each group; None where they were not looked for."""
    if "repeats" not in stages:
        return None
    return {name: tuple(DefectCount(**row) for row in rows) for name, rows in stages["repeats"]["defects"].items()}


def _night(context: RunContext, scored: ScoredGroups) -> dict[str, GroupNight] | None:
    """Describe the groups of a night: numbers of images, and drift of the raw scores; None in a run on an archive."""
    if context.earlier is None:
        return None
    content = {}
    for group in scored.groups:
        new, value = group.scored - len(group.earlier), scored.figures[group.group].drift
        warns = value is not None and is_drift(value, new, context.settings.drift_warning)
        rounded = None if value is None else round(value, 4)
        decided, outside = context.compression.get(group.group), context.groups[group.group].outside.mean
        content[group.group] = GroupNight(
            new=new,
            window=len(group.earlier),
            drift=rounded,
            drift_warning=warns,
            outside=None if outside is None else round(outside, 6),
            outside_warning=decided is not None and is_outside(outside, decided.outside),
        )
    return content


def _decided_notes(context: RunContext, scored: ScoredGroups) -> list[str]:
    """Say which crops meet and what is not scored; name groups that were too small for `compress: auto` once."""
    left = {name for name, decided in context.compression.items() if decided.sha256 is None}
    grown = [group.group for group in scored.groups if group.group in left and group.images >= MIN_IMAGES]
    meetings, shown = chosen_crop_references(context), chosen_shown_maps(context)
    anew = settled_anew_notes(
        {
            "patches are matched": chosen_matching(context),
            "crops are compared": meetings,
            "maps are made": shown,
            "the foreground is found": chosen_foreground(context),
        }
    )
    return crop_notes(meetings) + shown_notes(shown) + kept_notes(chosen_kept(context)) + anew + grown_notes(grown)


def _compression(context: RunContext, scored: ScoredGroups) -> dict[str, GroupCompression]:
    """Describe the groups whose features are compressed."""
    content = {}
    for group in scored.groups:
        decided, meta = context.compression.get(group.group), context.meta_of(group.group)
        if decided is None or decided.sha256 is None or meta.original_channels is None:
            continue
        tokens = group.images * len(meta.layers)
        content[group.group] = GroupCompression(
            channels=meta.channels,
            dtype=meta.dtype,
            basis_sha256=decided.sha256,
            sample=decided.sample,
            energy=tuple(round(share, 6) for share in decided.energy),
            outside=tuple(round(share, 6) for share in context.groups[group.group].outside.by_layer),
            bytes=tokens * sum(layer_bytes(meta.dtype, True, patches, meta.channels) for patches in meta.row_patches),
            full_bytes=tokens * layer_bytes("float16", False, sum(meta.row_patches), meta.original_channels),
        )
    return content
