"""Thresholds by verdicts: what people said of images is compared with the scores that these images have.

An image that is known to be good is no longer scored, so that its score may be that of an earlier run. Of each judged
image the score of the run itself counts, else that of the latest complete run that has one and was made as this one:
the same features, settings that affect scores (but which images are known good) and decisions for its group. Rescoring
takes the smallest and the largest raw score of a group for 0 and 1 and averages, so that scores of one run become those
of another by the two ranges of raw scores.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.core.labelled_threshold import labelled_threshold
from musc_ray.core.threshold import suggest_threshold
from musc_ray.settings.values import identity_values
from musc_ray.storage.complete_runs import complete_runs
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.manifest_records import GroupLabels
from musc_ray.storage.paths import OutPaths, RunPaths
from musc_ray.storage.scores import numbers, read_scores
from musc_ray.storage.verdicts import Verdict, changed_since, judged_versions, latest_verdicts

Labels = Mapping[str, Mapping[str, bool]]
"""By group and image id: whether the image is defective."""


@dataclass(frozen=True, eq=False)
class LabelledScores:
    """The judged images of a group that have scores.

    Attributes:
        scores: (L,) as of one run.
        defective: (L,).
        suggested: the threshold that all scores of that run suggest.
    """

    scores: npt.NDArray[np.float64]
    defective: npt.NDArray[np.bool_]
    suggested: float = np.inf

    def threshold(self) -> GroupLabels | None:
        """Choose the threshold by the labels; None unless there are good and defective images."""
        defective = int(self.defective.sum())
        good = len(self.defective) - defective
        if not (good and defective):
            return None
        threshold = labelled_threshold(self.scores, self.defective, self.suggested)
        return GroupLabels(threshold=threshold, good=good, defective=defective)


def labels_of(verdicts: Mapping[str, Verdict]) -> dict[str, dict[str, bool]]:
    """Group what was said of images: those that are good or defective, by group."""
    labels: dict[str, dict[str, bool]] = {}
    for image_id, verdict in verdicts.items():
        if verdict.verdict != "unsure":
            labels.setdefault(verdict.group, {})[image_id] = verdict.verdict == "defective"
    return labels


def thresholds_by_labels(out_paths: OutPaths, run: RunManifest, groups: Sequence[str]) -> dict[str, GroupLabels]:
    """Compute the thresholds of those groups of a run of which good and defective images with scores are known.

    Args:
        out_paths: of the OUT.
        run: whose scores are written; its run.json need not be.
        groups: names of its scored groups.
    """
    labels = {
        group: of_images
        for group, of_images in labels_of(latest_verdicts(out_paths)).items()
        if group in groups and len(set(of_images.values())) == 2
    }
    found = {group: scores.threshold() for group, scores in labelled_scores(out_paths, run, labels).items()}
    return {group: found_threshold for group, found_threshold in found.items() if found_threshold is not None}


def labelled_scores(out_paths: OutPaths, run: RunManifest, labels: Labels) -> dict[str, LabelledScores]:
    """Read the scores of judged images, in terms of a run's scores; see the module.

    Args:
        out_paths: of the OUT.
        run: whose scores are written.
        labels: of groups that the run has scored.

    Returns:
        By group; a group without any score is left out.
    """
    missing = {group: set(of_images) for group, of_images in labels.items() if of_images}
    ranges: dict[str, tuple[float, float] | None] = {}
    suggested: dict[str, float] = {}
    found: dict[str, dict[str, float]] = {group: {} for group in missing}
    ids = {image_id for of_group in missing.values() for image_id in of_group}
    versions = judged_versions(out_paths, {i: said for i, said in latest_verdicts(out_paths).items() if i in ids})
    for other in _runs_to_ask(out_paths, run) if missing else ():
        changed = changed_since(out_paths, other.run_id, versions)
        asked = [group for group, ids in missing.items() if ids and _is_alike(run, other, group)]
        for group, table in _scores_of(out_paths.run(other.run_id), asked):
            own = _raw_range(other, group, table)
            if other.run_id == run.run_id:
                ranges[group] = own
                if run.night is None:  # a night alone is too little to suggest one from
                    suggested[group] = suggest_threshold(numbers(table, "score"))
            rows = table.filter(pc.is_in(table["image_id"], pa.array(sorted(missing[group] - changed), pa.string())))
            scores = _converted(numbers(rows, "score").astype(np.float64), own, ranges.get(group), other, run)
            if scores is not None:
                found[group] |= zip(rows["image_id"].to_pylist(), scores.tolist(), strict=True)
                missing[group] -= found[group].keys()
        if not any(missing.values()):
            break
    return {
        group: LabelledScores(
            np.array(list(scores.values()), np.float64),
            np.array([labels[group][image_id] for image_id in scores], bool),
            suggested.get(group, np.inf),
        )
        for group, scores in found.items()
        if scores
    }


def _runs_to_ask(out_paths: OutPaths, run: RunManifest) -> Iterator[RunManifest]:
    """Yield the run itself, then the others that are complete, the latest first."""
    yield run
    yield from (other for other in reversed(complete_runs(out_paths)) if other.run_id != run.run_id)


def _is_alike(run: RunManifest, other: RunManifest, group: str) -> bool:
    """Return whether scores of a group in two runs mean the same."""
    if other.run_id == run.run_id:
        return True
    if other.features_id != run.features_id or group in other.failed_groups:
        return False

    def made_by(manifest: RunManifest) -> object:
        decisions = (manifest.matching, manifest.crop_references, manifest.shown_maps)
        decided = [None if (found := by_group.get(group)) is None else found.decided for by_group in decisions]
        return identity_values(manifest.settings, "scores"), decided, manifest.crops.get(group)

    return made_by(run) == made_by(other)


def _scores_of(run_paths: RunPaths, groups: Sequence[str]) -> Iterator[tuple[str, pa.Table]]:
    """Read the scores of those groups that the run has files of."""
    for group, paths in run_paths.parts_of(run_paths.scores, groups).items() if groups else ():
        if paths:
            yield group, read_scores(run_paths.fs, paths, ["image_id", "score", "score_raw"])


def _raw_range(run: RunManifest, group: str, table: pa.Table) -> tuple[float, float] | None:
    """Return a group's smallest and largest raw score in a run; None of a night that does not say its window's."""
    if group in run.raw_ranges:
        return run.raw_ranges[group]
    if run.night is not None and not run.settings.rescore_window:
        return None
    raw = numbers(table, "score_raw")
    return float(raw.min()), float(raw.max())


def _converted(
    scores: npt.NDArray[np.float64],
    of_scores: tuple[float, float] | None,
    wanted: tuple[float, float] | None,
    other: RunManifest,
    run: RunManifest,
) -> npt.NDArray[np.float64] | None:
    """Convert scores of one run to those of another by their ranges of raw scores; None where these are unknown."""
    if other.run_id == run.run_id or run.settings.rescoring == "none":
        return scores
    if of_scores is None or wanted is None or wanted[1] <= wanted[0]:
        return None
    raw = of_scores[0] + scores * (of_scores[1] - of_scores[0])
    return (raw - wanted[0]) / (wanted[1] - wanted[0])
