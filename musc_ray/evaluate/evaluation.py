"""Evaluate a complete run: labels -> image metrics, masks and maps -> pixel metrics -> tables.

It reads what a run wrote and writes only below `evaluation/`: scores cannot depend on labels.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import pyarrow as pa

from musc_ray.errors import ImageError, MuscRayError, SettingsError
from musc_ray.evaluate.evaluator import LabelledFile, MaskReading
from musc_ray.evaluate.labels import VERDICTS, Label, Labels, find_labels
from musc_ray.evaluate.layouts import GOOD
from musc_ray.evaluate.maps import MapFile
from musc_ray.evaluate.mask_pixels import (
    BLACK,
    Background,
    background_vote,
    colour_name,
    common_background,
    read_mask,
)
from musc_ray.evaluate.pixel_metrics import GroupPixels, evaluate_pixels
from musc_ray.evaluate.problems import NO_MASK, Findings, Problem, write_problems
from musc_ray.evaluate.table import MetricsRow, image_metrics, mean_row, write_metrics
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.settings.limits import ImageLimits
from musc_ray.settings.model import Settings
from musc_ray.sources.decoding import upright_size
from musc_ray.sources.decoding_memory import MAX_ORIGINALS_BYTES, DecodingMemory
from musc_ray.sources.reading import read_image
from musc_ray.storage.complete_runs import complete_run
from musc_ray.storage.filesystem import check_writable, remove_tree
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.paths import OutPaths, RunPaths
from musc_ray.storage.schemas import LABELS
from musc_ray.storage.verdicts import Verdict, changed_since, judged_versions, latest_verdicts

BACKGROUND_MASKS = 32
"""Masks, spread over the run, that tell what the background of all is."""

MASK_READERS = 8


@dataclass
class LabelledGroup:
    """The labelled images of a group, in the order of its files of scores."""

    ids: list[str] = field(default_factory=list)
    uris: list[str] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    raw_scores: list[float] = field(default_factory=list)
    files: dict[str, LabelledFile] = field(default_factory=dict)
    scored_in: set[str] = field(default_factory=set)
    """Groups of the run that the images were scored in: one, unless they are evaluated together."""


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` prints: rows of the metrics table, facts about the run, notes, and the folder of the tables."""

    run_id: str
    about: dict[str, Any]
    rows: list[MetricsRow]
    notes: list[str]
    folder: str


def evaluate_run(settings: Settings, progress: Progress, labels: Labels | None = None) -> Evaluation:
    """Compare a run's scores and maps with labels and masks.

    Args:
        settings: with out; run_id (default: the complete run that was scored last), labels and pixels.
        progress: shows the stages.
        labels: used instead of those that the setting names.

    Raises:
        SettingsError: no out, no labels, or the evaluate extra is not installed.
        MuscRayError: no complete run, NaN scores, or labels that cannot be used.
    """
    if find_spec("sklearn") is None or find_spec("scipy") is None:
        raise SettingsError("Evaluating needs the evaluate extra: run `pip install 'musc-ray[evaluate]'`.")
    if settings.out is None:
        raise SettingsError("Evaluating needs the out of a run: `musc-ray evaluate OUT`.")
    out_paths = OutPaths.at(settings.out)
    run = complete_run(out_paths, settings.run_id)
    run_paths = out_paths.run(run.run_id)
    check_writable(out_paths.fs, run_paths.evaluation)
    with progress.phase("reading scores and labels"):
        scores = _read_scores(run_paths, run)
        if labels is None:
            uris = [uri for table in scores.values() for uri in table["uri"].to_pylist()]
            said = _verdicts(out_paths, run_paths) if settings.labels in ("auto", VERDICTS) else ()
            labels = find_labels(settings.labels, uris, settings.image_limits, said)
        findings = Findings(problems=list(labels.problems))
        sizes = {name: run.map_size_of(name) for name, _ in scores} if settings.pixels == "model" else {}
        groups = _join(run_paths, scores, labels, sizes, findings)
        _write_labels(run_paths, groups)
    pixels = _pixels(settings, run, groups, labels, progress, findings)
    with progress.phase("computing the metrics of images"):
        rows = _rows(out_paths, run, groups, pixels, findings.notes)
    about = {
        "run": run_paths.run_id,
        "backbone": run.resolved.backbone,
        "image_size": _size_text(run, groups),
        "pixels": settings.pixels,
        "labels": labels.origin,
    }
    notes = findings.sentences()
    write_problems(run_paths, findings.problems)
    write_metrics(run_paths, rows, about, notes)
    return Evaluation(run_paths.run_id, about, rows, notes, out_paths.uri(run_paths.evaluation))


def _verdicts(out_paths: OutPaths, run_paths: RunPaths) -> list[Verdict]:
    """Return what was said of the images as the run knows them; files that are other ones now are left out."""
    verdicts = latest_verdicts(out_paths)
    changed = changed_since(out_paths, run_paths.run_id, judged_versions(out_paths, verdicts))
    return [verdict for image_id, verdict in verdicts.items() if image_id not in changed]


def _pixels(
    settings: Settings,
    run: RunManifest,
    groups: dict[str, LabelledGroup],
    labels: Labels,
    progress: Progress,
    findings: Findings,
) -> dict[tuple[str, str], dict[str, float | None]]:
    """Compute pixel metrics by group and defect; none without masks."""
    masks = [label.mask for group in groups.values() for label in group.labels if label.label and label.mask]
    if not masks:
        findings.notes.append("There are no masks: pixel metrics cannot be computed.")
        findings.problems += [
            Problem("MaskMissing", uri, NO_MASK, name)
            for name, group in groups.items()
            for uri, label in zip(group.uris, group.labels, strict=True)
            if label.label
        ]
        return {}
    with progress.phase("finding the background of the masks"):
        background = _background(masks, settings.image_limits, findings)
    reading = MaskReading(labels.mask_level, settings.image_limits, background)
    out_paths = OutPaths.at(str(settings.out))
    work = [GroupPixels(name, list(group.files.values())) for name, group in groups.items()]
    try:
        with open_executor(ExecutorOptions.of(settings, device="cpu"), progress) as executor:
            return evaluate_pixels(executor, out_paths, reading, work, progress, findings)
    finally:
        remove_tree(out_paths.fs, f"{out_paths.run(run.run_id).evaluation}/regions")


def _background(masks: Sequence[str], limits: ImageLimits, findings: Findings) -> Background:
    """Find the background of the masks from some of them; it is noted where it is not black."""
    some, memory = masks[:: -(-len(masks) // BACKGROUND_MASKS)], DecodingMemory(MAX_ORIGINALS_BYTES)

    def vote(mask: str) -> Background | None:
        try:
            data = read_image(mask, limits.bytes)
            height, width = upright_size(data)
            with memory.of_pixels(height * width):
                return background_vote(read_mask(data, limits.pixels))
        except (ImageError, FileNotFoundError):
            return None  # named when it is read for its regions

    with ThreadPoolExecutor(MASK_READERS) as readers:
        background = common_background(readers.map(vote, some))
    if background != BLACK:
        findings.notes.append(
            f"The background of the masks is {colour_name(background)}, not black: it surrounds and fills most of the "
            f"{len(some):,} that were looked at."
        )
    return background


def _read_scores(run_paths: RunPaths, run: RunManifest) -> dict[tuple[str, str], pa.Table]:
    """Read the scores of images, without maps, by group and file."""
    catalog = read_table(run_paths.fs, run_paths.catalog, ["group"])
    columns = ["image_id", "uri", "score", "score_raw"]
    scores = {}
    names = run.scored(sorted(set(catalog["group"].to_pylist())))
    for name, paths in run_paths.parts_of(run_paths.scores, names).items():
        for path in paths:
            scores[name, path] = table = read_table(run_paths.fs, path, columns)
            if np.isnan(table["score"].to_numpy()).any():
                raise MuscRayError(f"The scores of group '{name}' hold NaN: score the run again with --overwrite.")
    return scores


def _size_text(run: RunManifest, groups: Mapping[str, LabelledGroup]) -> str:
    """Return the image size that the groups share, as in 224x224; those of all, from few to many pixels, if several.

    Of images that are cut it is the size of all crops laid out, at which they are compared.
    """
    scored_in = {name for group in groups.values() for name in group.scored_in}
    sizes = sorted({run.map_size_of(name) for name in scored_in}, key=lambda size: (size[0] * size[1], size))
    return ", ".join(f"{height}x{width}" for height, width in sizes)


def _join(
    run_paths: RunPaths,
    scores: dict[tuple[str, str], pa.Table],
    labels: Labels,
    sizes: Mapping[str, tuple[int, int]],
    findings: Findings,
) -> dict[str, LabelledGroup]:
    """Join scores and labels: labelled images by the group they are evaluated in.

    Args:
        run_paths: of the run.
        scores: by group and file.
        labels: by URI.
        sizes: (H, W) by group at which masks are compared; empty for each mask's own.
        findings: images without a label are added.
    """
    groups: dict[str, LabelledGroup] = defaultdict(LabelledGroup)
    for number, ((scored_in, path), table) in enumerate(scores.items()):
        columns = (table[name].to_pylist() for name in ("image_id", "uri", "score", "score_raw"))
        in_file: dict[str, dict[int, tuple[str, Label]]] = defaultdict(dict)
        for row, (image_id, uri, score, raw) in enumerate(zip(*columns, strict=True)):
            label = labels.by_uri.get(uri)
            if label is None:
                kind = "ScoredMask" if uri in labels.masks else "NoLabel"
                findings.problems.append(Problem(kind, uri, f"The labels are {labels.origin}.", scored_in))
                continue
            name = label.group or scored_in
            group = groups[name]
            group.ids.append(image_id)
            group.uris.append(uri)
            group.labels.append(label)
            group.scores.append(score)
            group.raw_scores.append(raw)
            group.scored_in.add(scored_in)
            in_file[name][row] = (uri, label)
        for part, (name, images) in enumerate(in_file.items()):
            regions = f"{run_paths.evaluation}/regions/{number:06d}-{part}.parquet"
            groups[name].files[path] = LabelledFile(MapFile(path, regions), images, sizes.get(scored_in))
    if not groups:
        raise MuscRayError(
            f"None of the scored images has a label in {labels.origin}: compare its URIs with the scores'."
        )
    return dict(sorted(groups.items()))


def _write_labels(run_paths: RunPaths, groups: dict[str, LabelledGroup]) -> None:
    columns = [
        [image_id for group in groups.values() for image_id in group.ids],
        [uri for group in groups.values() for uri in group.uris],
        [name for name, group in groups.items() for _ in group.ids],
        pa.array([label.label for group in groups.values() for label in group.labels], pa.int8()),
        [label.defect for group in groups.values() for label in group.labels],
        [label.mask for group in groups.values() for label in group.labels],
    ]
    write_table(run_paths.fs, f"{run_paths.evaluation}/labels.parquet", pa.table(columns, schema=LABELS))


def _rows(
    out_paths: OutPaths,
    run: RunManifest,
    groups: dict[str, LabelledGroup],
    pixels: dict[tuple[str, str], dict[str, float | None]],
    notes: list[str],
) -> list[MetricsRow]:
    """Compute a row for each group, followed by its defects, and the mean."""
    rows = []
    for name, group in groups.items():
        labels = np.array([label.label for label in group.labels], np.int8)
        defects = np.array([label.defect for label in group.labels])
        scores = np.array(group.scores, np.float32)
        if len(group.scored_in) > 1 and run.settings.rescoring != "none":
            from musc_ray.evaluate.pooled import pooled_scores  # FAISS, which nothing else here needs

            scores = pooled_scores(
                out_paths, run, sorted(group.scored_in), group.ids, np.array(group.raw_scores, np.float32)
            )
            notes.append(
                f"Group '{name}' was scored in {len(group.scored_in)} parts; their images are rescored together."
            )
        if len(np.unique(labels)) < 2:
            kind = "anomalous" if labels[0] else "good"
            notes.append(f"Group '{name}' has {kind} images alone: no metric can be computed.")
        for defect in ("", *sorted(set(defects) - {GOOD})):
            chosen = np.isin(defects, (GOOD, defect)) if defect else np.ones(len(labels), bool)
            metrics: dict[str, Any] = {
                **image_metrics(labels[chosen], scores[chosen]),
                **pixels.get((name, defect), {}),
            }
            rows.append(MetricsRow(name, defect, int(chosen.sum()), int(labels[chosen].sum()), **metrics))
    return [*rows, mean_row([row for row in rows if not row.defect])]
