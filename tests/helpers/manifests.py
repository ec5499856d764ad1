"""Manifests of runs that no job made."""

from datetime import UTC, datetime
from typing import Any

from musc_ray.settings.loading import load_settings

SCORED_AT = datetime(2026, 3, 4, 12, tzinfo=UTC)


def run_record(run_id: str, **changed: Any) -> dict[str, Any]:
    """The content of a run.json, with what is `changed` in it; mappings are merged."""
    record: dict[str, Any] = {
        "schema_version": 1,
        "run_id": run_id,
        "features_id": "none",
        "scored_at": SCORED_AT.isoformat(),
        "settings": load_settings(None, {"source": "generated"}).model_dump(mode="json"),
        "resolved": {
            "backbone": "generated",
            "weights_sha256": "0" * 64,
            "image_size": [224, 224],
            "grid": [16, 16],
            "layers": [0, 1],
            "channels": 4,
            "class_channels": 4,
        },
        "counts": {"images": 0, "scored": 0, "failed": 0},
        "failed_groups": {},
        "metrics": {},
        "notes": [],
        "stages": {"extract": {"seconds": 90.0}, "mutual": {"seconds": 45.0}},
        "versions": {"musc-ray": "0.1.0"},
    }
    for name, value in changed.items():
        merge = isinstance(value, dict) and name in ("settings", "resolved", "counts")
        record[name] = {**record[name], **value} if merge else value
    return record


def started_record(run_id: str, groups: dict[str, int]) -> dict[str, Any]:
    """The content of a started.json: numbers of images by group."""
    return {
        "schema_version": 1,
        "run_id": run_id,
        "started_at": SCORED_AT.isoformat(),
        "features_id": "none",
        "layers": [0, 1],
        "groups": {name: {"images": images, "shards": [0]} for name, images in groups.items()},
        "settings": load_settings(None, {"source": "generated"}).model_dump(mode="json"),
    }
