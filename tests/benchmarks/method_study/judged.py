"""`method: tuned` against `paper` in whole runs of the product: metrics of `musc-ray evaluate`, and seconds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from method_study.figures import Figures, mean_of_sets, row_of
from method_study.image_sets import DATA, JUDGED, ImageSet, all_mono_cells, available
from method_study.scored import Study
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.evaluate.evaluation import evaluate_run
from musc_ray.pipeline import run_archive
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings

METHODS = ("paper", "tuned")
COLUMNS = ("image_auroc", "image_ap", "pixel_ap", "aupro")
PIXELS = ("model", "original")
"""Where masks and maps meet: at the input of the model, which differs between the methods, or at the masks' pixels."""


@dataclass(frozen=True)
class Outcome:
    """Figures of a run by PIXELS, and seconds of extraction and of the mutual stage."""

    figures: dict[str, Figures]
    seconds: tuple[float, float]


def run_judged(study: Study) -> None:
    """Print figures of whole runs on the judged sets, and what they cost."""
    sets = available(JUDGED)
    print("image AUROC, image AP, pixel AP, AUPRO (masks at the model's input), pixel AP, AUPRO (at their own pixels)")
    found = [[_outcome(study, images, method) for method in METHODS] for images in sets]
    for images, (paper, tuned) in zip(sets, found, strict=True):
        _print_outcomes(images.name, paper, tuned)
    for pixels in PIXELS:
        differences = [tuned.figures[pixels] - paper.figures[pixels] for paper, tuned in found]
        print(f"{'mean':16}tuned - paper, masks at {pixels}: {row_of(mean_of_sets(differences))}")
    spent = np.array([[outcome.seconds for outcome in outcomes] for outcomes in found]).sum(axis=0)
    print(f"seconds of tuned relative to paper: extraction {spent[1, 0] / spent[0, 0]:.2f}", end=", ")
    print(f"mutual stage {spent[1, 1] / spent[0, 1]:.2f}, both {spent[1].sum() / spent[0].sum():.2f}")


def run_all_cells(study: Study) -> None:
    """Print figures of whole runs on all mono cells, and what they cost."""
    cells = all_mono_cells()
    _print_outcomes(cells.name, *(_outcome(study, cells, method) for method in METHODS))


def _print_outcomes(name: str, paper: Outcome, tuned: Outcome) -> None:
    for method, outcome in zip(METHODS, (paper, tuned), strict=True):
        row = row_of(outcome.figures["model"], "") + row_of(outcome.figures["original"][2:], "")
        print(f"{name:16}{method:8}{row}   extraction {outcome.seconds[0]:.1f} s, mutual {outcome.seconds[1]:.1f} s")
    row = row_of(tuned.figures["model"] - paper.figures["model"])
    row += row_of((tuned.figures["original"] - paper.figures["original"])[2:])
    print(f"{'':16}{'':8}{row}", flush=True)


def _outcome(study: Study, images: ImageSet, method: str) -> Outcome:
    """Run and evaluate a method on a set, with defaults but for backbone, image size and executor.

    The run stays in the cache: it is continued or read again.
    """
    weights = write_dinov2_weights(study.cache / "weights.safetensors")
    given: dict[str, Any] = {"backbone": "dinov2-vit-s-14", "weights": str(weights), "image_size": 224}
    given |= {"method": method, "executor": "process", "report_images": 0, "report_thumbnails": 0}
    folder = study.cache / "runs" / images.name
    folder.mkdir(parents=True, exist_ok=True)
    given |= source_of(images, folder) | {"out": str(folder / "out")}
    settings = load_settings(None, given)
    result = run_archive(settings, Progress(quiet=True))
    figures = {}
    for pixels in PIXELS:
        chosen = settings.model_copy(update={"run_id": result.run.run_id, "pixels": pixels})
        row = evaluate_run(chosen, Progress(quiet=True)).rows[0]
        values = [getattr(row, column) for column in COLUMNS]
        figures[pixels] = np.array([np.nan if value is None else 100 * value for value in values])
        if not images.has_image_metrics:
            figures[pixels][:2] = np.nan
    stages = result.run.stages
    return Outcome(figures, (stages["extract"]["seconds"], stages["mutual"]["seconds"]))


def source_of(images: ImageSet, folder: Path) -> dict[str, str]:
    """Return the settings that name a set's images and labels."""
    if images.has_masks:
        return {"source": str(DATA / images.name / "test"), "labels": "mvtec"}
    uris = [path.as_uri() for path in images.paths]
    pa.csv.write_csv(pa.table({"uri": uris}), folder / "images.csv")
    pa.csv.write_csv(pa.table({"uri": uris, "label": images.labels}), folder / "labels.csv")
    return {"source": str(folder / "images.csv"), "labels": str(folder / "labels.csv")}
