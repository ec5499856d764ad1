"""The complete runs of an OUT, by what they wrote last."""

from typing import Any

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import read_json
from musc_ray.storage.layout import Layout


def complete_run(layout: Layout, run_id: str | None) -> dict[str, Any]:
    """run.json of a run, or of the one that was scored last.

    Raises:
        MuscRayError: no such run, or it is not complete.
    """
    out = layout.uri(layout.root)
    if run_id is not None:
        run = read_json(layout.fs, layout.run_json(run_id))
        if run is None:
            raise MuscRayError(f"There is no complete run {run_id} in {out}: see `musc-ray status {out}`.")
        return run
    runs = complete_runs(layout)
    if not runs:
        raise MuscRayError(f"There is no complete run in {out}: start one with `musc-ray run SOURCE {out}`.")
    return runs[-1]


def complete_runs(layout: Layout) -> list[dict[str, Any]]:
    """run.json of all complete runs, the one scored last at the end."""
    layout.fs.invalidate_cache(layout.runs)
    found = (read_json(layout.fs, layout.run_json(run_id)) for run_id in layout.run_ids())
    return sorted((run for run in found if run is not None), key=lambda run: str(run["scored_at"]))
