"""The complete runs of an OUT, by what they wrote last."""

import logging
from datetime import datetime, timedelta
from typing import Any

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import read_json
from musc_ray.storage.paths import OutPaths

logger = logging.getLogger(__name__)


def complete_run(layout: OutPaths, run_id: str | None) -> dict[str, Any]:
    """run.json of a run, or of the one that was scored last.

    Raises:
        MuscRayError: no such run, or it is not complete.
    """
    out = layout.uri(layout.root)
    if run_id is not None:
        run = read_json(layout.fs, layout.run(run_id).run_json)
        if run is None:
            raise MuscRayError(f"There is no complete run {run_id} in {out}: see `musc-ray status {out}`.")
        return run
    runs = complete_runs(layout)
    if not runs:
        raise MuscRayError(f"There is no complete run in {out}: start one with `musc-ray run SOURCE {out}`.")
    return runs[-1]


def complete_runs(layout: OutPaths) -> list[dict[str, Any]]:
    """run.json of all complete runs, the one scored last at the end."""
    layout.fs.invalidate_cache(layout.runs)
    found = (read_json(layout.fs, layout.run(run_id).run_json) for run_id in layout.run_ids())
    return sorted((run for run in found if run is not None), key=lambda run: str(run["scored_at"]))


def time_after_all(layout: OutPaths, now: datetime) -> datetime:
    """The time of a new run: now, or just after the run that was scored last, where a clock was wrong then or is now.

    What is new, which scores of an image are current and whose settings a night takes over all go by the order of runs.
    """
    runs = complete_runs(layout)
    last = datetime.fromisoformat(runs[-1]["scored_at"]) if runs else None
    if last is None or last < now:
        return now
    logger.warning(
        "It is %s here, but run %s was scored at %s: check this machine's clock.", now, runs[-1]["run_id"], last
    )
    return last + timedelta(microseconds=1)
