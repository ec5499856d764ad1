"""Read the progress of an OUT's runs from the files that they write."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from musc_ray.cli.overall import overall
from musc_ray.errors import MuscRayError
from musc_ray.storage.arrays import finished_bands
from musc_ray.storage.failure import Failure
from musc_ray.storage.filesystem import read_json
from musc_ray.storage.lease import Holder, holder
from musc_ray.storage.manifest import RunManifest, StartedManifest
from musc_ray.storage.paths import OutPaths, RunPaths

State = Literal["complete", "running", "failed", "stopped"]


@dataclass(frozen=True)
class RunStatus:
    """One run: complete, or how many shards and bands of how many are written.

    Attributes:
        stages: the state of each stage in a line, as of `updated_at`; empty before the first.
        failure: why the last attempt of a run that failed did.
        state: running, while a command holds its lease; of the others, stopped is one that no command works on.
        process, host, running_since: of the command that works on it.
        share: of the work over all stages that is done, estimated; None where nothing is known.
        seconds_left: estimated; None while too little is known, and where no command works on it.
        phases: what the command does beside its stages, such as loading a model, as of `updated_at`.
    """

    run_id: str
    started_at: str
    complete: bool
    images: int
    groups: int
    shards_done: int
    shards: int
    bands_done: int
    bands: int
    scored: int
    failed: int
    updated_at: str | None
    stages: list[str]
    skipped: int = 0
    listed: int = 0
    failure: str | None = None
    state: State = "stopped"
    process: int | None = None
    host: str | None = None
    running_since: str | None = None
    share: float | None = None
    seconds_left: float | None = None
    phases: list[str] = field(default_factory=list)


def read_status(out: str) -> list[RunStatus]:
    """The runs of an OUT, oldest first.

    Raises:
        MuscRayError: there is no run.
    """
    out_paths = OutPaths.at(out)
    runs = [status for run_id in out_paths.run_ids() if (status := _run_status(out_paths.run(run_id))) is not None]
    if not runs:
        raise MuscRayError(f"There is no run in {out}: start one with `musc-ray run SOURCE {out}`.")
    return sorted(runs, key=lambda run: run.started_at)


def _run_status(run_paths: RunPaths) -> RunStatus | None:
    started = StartedManifest.read(run_paths)
    if started is None:
        return None
    run = RunManifest.read(run_paths)
    progress = read_json(run_paths.fs, run_paths.progress_json) or {"updated_at": None, "stages": []}
    held = None if run is not None else holder(run_paths.fs, run_paths.lease)
    failure = None if run is not None or held is not None else Failure.read(run_paths)
    share, seconds_left = _how_far(started, run, progress["stages"])
    groups = started.groups
    shards = {(name, shard) for name, group in groups.items() for shard in group.shards}
    sets = _set_counts(run_paths, started)
    banded = {name: group.shards if group.bands is None else group.bands for name, group in groups.items()}
    bands = sum(len(set(numbers)) * sets[name] for name, numbers in banded.items()) * len(started.layers)
    if run is not None:
        shards_done, bands_done = len(shards), bands
    else:
        out_paths = run_paths.out
        shards_done = sum(
            len(out_paths.written_shards(out_paths.features(started.features_id, name)).keys() & set(group.shards))
            for name, group in groups.items()
        )
        bands_done = _bands_done(run_paths, started.layers, sets)
    return RunStatus(
        run_id=run_paths.run_id,
        started_at=started.started_at.isoformat(),
        complete=run is not None,
        images=sum(group.images for group in groups.values()),
        groups=len(groups),
        shards_done=shards_done,
        shards=len(shards),
        bands_done=bands_done,
        bands=bands,
        scored=run.counts.scored if run else 0,
        failed=run.counts.failed if run else 0,
        skipped=run.counts.skipped if run else 0,
        listed=run.counts.listed if run else 0,
        updated_at=progress["updated_at"],
        stages=[f"{stage['name']}: {stage['summary']}" for stage in progress["stages"]],
        failure=None if failure is None else failure.message,
        state=_state(run, held, failure),
        process=None if held is None else held.pid,
        host=None if held is None else held.host,
        running_since=None if held is None else held.since,
        share=share,
        seconds_left=None if held is None else seconds_left,
        phases=[] if held is None else progress.get("phases", []),
    )


def _set_counts(run_paths: RunPaths, started: StartedManifest) -> dict[str, int]:
    """Count the sets of patches of each group: the whole images, and of crops one, or one each where the same meet.

    Until a sample has said which meet, all do.
    """
    settings = started.settings
    given = settings.crop_meeting
    path = run_paths.settled("crop_references")
    chosen = read_json(run_paths.fs, path) or {} if given == "auto" and settings.crops != "none" else {}
    counts = {}
    for name, group in started.groups.items():
        meeting = chosen.get(name, {}).get("meeting", given)
        counts[name] = 1 + (group.crops if meeting == "same" else min(group.crops, 1))
    return counts


def _bands_done(run_paths: RunPaths, layers: Sequence[int], sets: Mapping[str, int]) -> int:
    """Count the bands that are written, of all groups, layers and sets."""
    numbered = [(name, patch_set) for name, count in sets.items() for patch_set in range(count)]
    return sum(
        len(finished_bands(run_paths, name, layer, patch_set)) for name, patch_set in numbered for layer in layers
    )


def _state(run: RunManifest | None, held: Holder | None, failure: Failure | None) -> State:
    if run is not None:
        return "complete"
    if held is not None:
        return "running"
    return "stopped" if failure is None else "failed"


def _how_far(
    started: StartedManifest, run: RunManifest | None, stages: list[dict[str, Any]]
) -> tuple[float | None, float | None]:
    """Return the share of a run that is done, and the seconds left, as far as they can be estimated."""
    if run is not None:
        return 1.0, None
    if not stages:
        return None, None
    share, seconds_left = overall(started, stages)
    return round(share, 4), None if seconds_left is None else round(seconds_left, 1)
