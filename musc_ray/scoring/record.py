"""What a run writes about itself: started.json before its work, run.json when it is complete."""

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from musc_ray import __version__
from musc_ray.core.drift import is_drift
from musc_ray.features.context import RunContext
from musc_ray.scoring.ranker import GroupFigures
from musc_ray.scoring.ring import GroupImages
from musc_ray.settings.model import settings_dict

PACKAGES = ("faiss-cpu", "numpy", "open-clip-torch", "pyarrow", "ray", "timm", "torch")


def started_record(context: RunContext) -> dict[str, Any]:
    """The content of started.json: what there is to do, by which `status` measures how far a run is."""
    return {
        "run_id": context.run_id,
        "started_at": datetime.now(UTC).isoformat(),
        "features_id": context.meta.features_id,
        "layers": list(context.meta.layers),
        "groups": {
            name: {"images": group.images, "shards": sorted(group.all)} for name, group in context.groups.items()
        },
        "settings": settings_dict(context.settings),
    }


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
) -> dict[str, Any]:
    """The content of run.json: resolved settings, versions, counts, times per stage, thresholds if there are any."""
    meta = context.meta
    of_groups = {group.group: figures[group.group].threshold for group in groups}
    thresholds = {name: threshold for name, threshold in of_groups.items() if threshold is not None}
    return {
        "run_id": context.run_id,
        "features_id": meta.features_id,
        "scored_at": scored_at.isoformat(),
        "settings": settings_dict(context.settings),
        "resolved": {
            "backbone": meta.backbone,
            "weights_sha256": meta.weights_sha256,
            "image_size": list(meta.image_size),
            "grid": list(meta.grid),
            "layers": list(meta.layers),
            "channels": meta.channels,
            "class_channels": meta.class_channels,
        },
        "counts": {
            "images": context.images,
            "scored": sum(group.published for group in groups),
            "failed": failed_images,
            "groups": len(context.groups),
            "failed_groups": len(failed_groups),
            "shards": sum(len(group.ring) for group in groups),
        },
        "failed_groups": dict(failed_groups),
        "metrics": dict(metrics),
        "notes": list(notes),
        "stages": {
            name: {figure: value for figure, value in stage.items() if figure != "defects"}
            for name, stage in stages.items()
        },
        "versions": {
            "musc-ray": __version__,
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        **({"source_snapshot": context.source_snapshot} if context.source_snapshot is not None else {}),
        **({"repeated_defects": stages["repeats"]["defects"]} if "repeats" in stages else {}),
        **({"waiting": dict(context.waiting)} if context.waiting else {}),
        **({"thresholds": thresholds} if thresholds else {}),
        **({"night": _night(context, groups, figures)} if context.earlier is not None else {}),
    }


def _night(context: RunContext, groups: Sequence[GroupImages], figures: Mapping[str, GroupFigures]) -> dict[str, Any]:
    """What a night scored against what, and how far its raw scores lie from those of its window."""
    level = context.settings.drift_warning
    content: dict[str, Any] = {}
    for group in groups:
        new, value = group.images - len(group.earlier), figures[group.group].drift
        drifted: dict[str, Any] = {"drift": None, "drift_warning": False}
        if value is not None:
            drifted = {"drift": round(value, 4), "drift_warning": is_drift(value, new, level)}
        content[group.group] = {"new": new, "window": len(group.earlier), **drifted}
    return content
