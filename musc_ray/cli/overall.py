"""Estimate how far a run is over all its stages, from what it wrote of those that have begun; to show with "about"."""

from collections.abc import Mapping, Sequence
from typing import Any

from musc_ray.storage.manifest import StartedManifest

PAIRS = 100.0
"""Pairs of images that score each other in the time in which one image is extracted."""

REDUCED, RANKED, REPORTED = 0.01, 0.002, 0.02
"""Work of an image in the last stages, in that of its extraction."""

REPEATS = 0.5
"""Work of the search for repeated defects, in that of mutual scoring."""


def overall(started: StartedManifest, stages: Sequence[Mapping[str, Any]]) -> tuple[float, float | None]:
    """Estimate the share of a run's work that is done, and the seconds left.

    A stage that is over took its time, one at work will take what it estimates itself, and the others as long for their
    work as these.

    Args:
        started: what the run does.
        stages: of its record (`Progress.record`), in the order in which they began.

    Returns:
        The share from 0 to 1; the seconds, None while no stage says how fast it is.
    """
    latest = {stage["name"]: stage for stage in stages}
    left: dict[str, float] = {}  # work, in images that are extracted
    timed_work = timed_seconds = seconds_left = 0.0
    work = _work(started)
    for name, amount in work.items():
        stage = latest.get(name)
        if stage is None:
            left[name] = amount
            continue
        done, fresh = _shares(stage)
        if _is_done(stage):
            timed_work, timed_seconds = timed_work + amount * fresh, timed_seconds + stage["seconds"]
            continue
        left[name] = amount * (1 - done)
        if (of_stage := stage.get("seconds_left")) is not None:
            timed_work += amount * (1 - done + fresh)
            timed_seconds += stage["seconds"] + of_stage
    remaining = sum(left.values())
    share = 1 - remaining / max(sum(work.values()), 1e-9)
    if not timed_work or not timed_seconds:
        return share, None
    for name, amount in left.items():
        of_stage = latest[name].get("seconds_left") if name in latest else None
        seconds_left += amount * timed_seconds / timed_work if of_stage is None else of_stage
    spent = (sum(work.values()) - remaining) * timed_seconds / timed_work
    return spent / (spent + seconds_left), seconds_left


def _is_done(stage: Mapping[str, Any]) -> bool:
    """Return whether a stage is over, and not because it failed or was stopped."""
    return bool(stage["ended"] and stage.get("outcome", "done") == "done")


def _shares(stage: Mapping[str, Any]) -> tuple[float, float]:
    """Return the share of a stage's units that is done, and that part of it which this command did."""
    if not stage["total"]:
        return float(_is_done(stage)), 0.0
    done = min(stage["done"] / stage["total"], 1.0)
    return done, max(done - stage.get("earlier", 0) / stage["total"], 0.0)


def _work(started: StartedManifest) -> dict[str, float]:
    """Return the work of each stage, in images that are extracted."""
    groups, settings = list(started.groups.values()), started.settings
    sizes, references = [group.images for group in groups], settings.reference_count
    meet_same = settings.crop_meeting == "same"
    pairs = 0.0
    for group in groups:
        met = min(group.images - 1, group.images if references is None else references)
        pairs += group.images * met / 2 * (1 + group.crops ** (1 if meet_same else 2))  # 0 ** 1 and 0 ** 2 are 0
    work = {"extract": float(sum(group.images * (1 + group.crops) for group in groups)), "mutual": pairs / PAIRS}
    if started.settings.repeated_defects:
        work["repeats"] = work["mutual"] * REPEATS
    return work | {
        "reduce": sum(sizes) * REDUCED,
        "rank": sum(sizes) * RANKED,
        "report": sum(sizes) * REPORTED,
    }
