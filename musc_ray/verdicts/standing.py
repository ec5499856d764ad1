"""Where the verdicts of an OUT stand: counts by group, and what thresholds are worth by them."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from musc_ray.core.labelled_threshold import Found, found_at
from musc_ray.scoring.labelled import LabelledScores, labelled_scores, labels_of
from musc_ray.scoring.thresholds import group_threshold
from musc_ray.storage.complete_runs import complete_run, complete_runs
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.manifest_records import GroupLabels
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.scores import numbers, read_scores
from musc_ray.storage.verdicts import latest_verdicts

ThresholdSource = Literal["given", "verdicts", "suggested"]


@dataclass(frozen=True)
class InForce:
    """The threshold of a group in a run: where it is from, and how it does on the judged images."""

    threshold: float
    source: ThresholdSource
    found: Found


@dataclass(frozen=True)
class GroupStanding:
    """What is known of a group.

    Attributes:
        group: its name.
        counts: images by the verdict that counts.
        run_id: the latest run that the judged images have scores in; None without one.
        scored: good and defective images with a score.
        in_force: the threshold of that run; None in a night without one.
        by_verdicts: the threshold by the labels; None unless good and defective images have scores.
    """

    group: str
    counts: Mapping[str, int]
    run_id: str | None = None
    scored: int = 0
    in_force: InForce | None = None
    by_verdicts: GroupLabels | None = None


@dataclass
class _Scored:
    """The scores of the judged images of groups, by group, and the runs that they are in terms of."""

    scores: dict[str, LabelledScores] = field(default_factory=dict)
    runs: dict[str, RunManifest] = field(default_factory=dict)


def standing(out_paths: OutPaths) -> list[GroupStanding]:
    """Compute where the verdicts of an OUT stand, by group in the order of names; empty without verdicts.

    Raises:
        MuscRayError: there is no complete run.
    """
    complete_run(out_paths, None)
    verdicts = latest_verdicts(out_paths)
    counts: dict[str, Counter[str]] = {}
    for verdict in verdicts.values():
        counts.setdefault(verdict.group, Counter())[verdict.verdict] += 1
    labels = labels_of(verdicts)
    found = _latest_scores(out_paths, labels)
    return [_of_group(out_paths, group, counts[group], found) for group in sorted(counts)]


def _latest_scores(out_paths: OutPaths, labels: Mapping[str, Mapping[str, bool]]) -> _Scored:
    """Find the latest run of each group that has scores for its judged images, and these scores."""
    result, missing = _Scored(), dict(labels)
    for run in reversed(complete_runs(out_paths)):
        if not missing:
            break
        run_paths = out_paths.run(run.run_id)
        has_scores = [group for group, paths in run_paths.parts_of(run_paths.scores, list(missing)).items() if paths]
        scores = labelled_scores(out_paths, run, {group: missing[group] for group in has_scores})
        result.scores |= scores
        result.runs |= dict.fromkeys(scores, run)
        missing = {group: of_images for group, of_images in missing.items() if group not in scores}
    return result


def _of_group(out_paths: OutPaths, group: str, counts: Mapping[str, int], scored: _Scored) -> GroupStanding:
    if group not in scored.scores:
        return GroupStanding(group, counts)
    run, labelled = scored.runs[group], scored.scores[group]
    return GroupStanding(
        group,
        counts,
        run.run_id,
        len(labelled.scores),
        _in_force(out_paths, run, group, labelled),
        labelled.threshold(),
    )


def _in_force(out_paths: OutPaths, run: RunManifest, group: str, labelled: LabelledScores) -> InForce | None:
    """Return the threshold that a run has for a group, or suggests; a night alone is too little to suggest one from."""
    given = (run.thresholds or {}).get(group)
    if given is None and run.night is not None:
        return None
    source: ThresholdSource = "verdicts" if group in run.labelled_thresholds else "given"
    if given is None:
        run_paths = out_paths.run(run.run_id)
        scores = numbers(read_scores(run_paths.fs, run_paths.parts(run_paths.scores, group), ["score"]), "score")
        given, source = group_threshold(group, scores, None).threshold, "suggested"
    return InForce(given, source, found_at(labelled.scores, labelled.defective, given))
