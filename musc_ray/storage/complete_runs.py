"""The complete runs of an OUT, in the order in which they were scored."""

import logging
from datetime import datetime, timedelta

from musc_ray.errors import MuscRayError
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.paths import OutPaths

logger = logging.getLogger(__name__)


def complete_run(out_paths: OutPaths, run_id: str | None) -> RunManifest:
    """Read the manifest of a run, or of the one that was scored last.

    Raises:
        MuscRayError: no such run, or it is not complete.
    """
    out = out_paths.uri(out_paths.root)
    if run_id is not None:
        run = RunManifest.read(out_paths.run(run_id))
        if run is None:
            raise MuscRayError(f"There is no complete run {run_id} in {out}: see `musc-ray status {out}`.")
        return run
    runs = complete_runs(out_paths)
    if not runs:
        raise MuscRayError(f"There is no complete run in {out}: start one with `musc-ray run SOURCE {out}`.")
    return runs[-1]


def complete_runs(out_paths: OutPaths) -> list[RunManifest]:
    """Read the manifests of all complete runs, the one scored last at the end."""
    out_paths.fs.invalidate_cache(out_paths.runs)
    found = (RunManifest.read(out_paths.run(run_id)) for run_id in out_paths.run_ids())
    return sorted((run for run in found if run is not None), key=lambda run: run.scored_at)


def time_after_all(out_paths: OutPaths, now: datetime) -> datetime:
    """Return the time of a new run: now, or just after the run that was scored last, where a clock was or is wrong.

    Which images are new, which scores of an image are current and whose settings a nightly run continues with all
    follow from the order of runs.
    """
    runs = complete_runs(out_paths)
    if not runs or runs[-1].scored_at < now:
        return now
    last = runs[-1]
    logger.warning(
        "It is %s here, but run %s was scored at %s: check this machine's clock.", now, last.run_id, last.scored_at
    )
    return last.scored_at + timedelta(microseconds=1)
