"""Read which images earlier runs of an OUT have scored; a nightly run scores the others."""

from dataclasses import dataclass
from datetime import datetime

from musc_ray.settings.model import Settings
from musc_ray.storage.complete_runs import complete_runs
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import OutPaths


@dataclass(frozen=True, slots=True)
class Known:
    """An image that a complete run has scored or found broken.

    Attributes:
        version: of its file at that time.
        at: when the file was changed; where the source did not say, when the image was first scored.
    """

    version: str
    at: datetime


def known_images(out_paths: OutPaths, features_id: str) -> dict[str, dict[str, Known]]:
    """Return the earlier images by group and id, each in its latest version.

    Images of groups that could not be scored stay new: they wait for more images of their group. So do images that
    were scored with other features, or that were only known to be good.
    """
    known: dict[str, dict[str, Known]] = {}
    for run in complete_runs(out_paths):
        if run.features_id != features_id:
            continue
        scored_at = run.scored_at
        for image in read_table(out_paths.fs, out_paths.run(run.run_id).catalog).to_pylist():
            if image["group"] in run.failed_groups or image.get("known_good"):
                continue
            group = known.setdefault(image["group"], {})
            before = group.get(image["image_id"])
            if before is None or before.version != image["version"]:
                group[image["image_id"]] = Known(image["version"], image.get("modified") or scored_at)
    return known


def seen_snapshot(out_paths: OutPaths, features_id: str, given: Settings) -> int | None:
    """Return the latest snapshot of an Iceberg source whose images are all known; None if no run saw a whole snapshot.

    Runs in which groups failed or waited, or that began at a day (`since`), leave images out and do not count.
    """
    for run in reversed(complete_runs(out_paths)):
        settings, snapshot = run.settings, run.source_snapshot
        same = run.features_id == features_id and all(
            getattr(settings, name) == getattr(given, name) for name in ("source", "group_by", "column")
        )
        if same and snapshot is not None and not (run.failed_groups or run.waiting or settings.since):
            return int(snapshot)
    return None
