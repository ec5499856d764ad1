"""Run the main job on real images with real weights (`musc-ray demo`)."""

import csv
from collections.abc import Sequence
from pathlib import Path

from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import SolarCell, mono_cells
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.pipeline import run_archive
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.result import RunResult
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings

BACKBONE = "dinov2-vit-s-14"
IMAGE_SIZE = 224
OUT = "musc-ray-demo"
"""Folder where no other is given."""


def run_demo(given: Settings, images: str, progress: Progress) -> RunResult:
    """Score ELPV solar cells with DINOv2 ViT-S/14 and compute the image AUROC.

    Args:
        given: settings that differ from the demo's; out is a local folder for everything that is made, the weights
            file and the list of images included.
        images: `all`, or how many.
        progress: shows the stages.

    Raises:
        SettingsError: a number of images that is not possible.
        MuscRayError: the folder cannot be written, or the `demo` extra is not installed.
    """
    if images != "all" and not images.isdecimal():
        raise SettingsError(f"--images must be 'all' or a number, not '{images}'.")
    cells = mono_cells(None if images == "all" else int(images))
    folder = Path(given.out or OUT).absolute()
    try:
        with progress.phase("writing weights and the list of images"):
            folder.mkdir(parents=True, exist_ok=True)
            weights = write_dinov2_weights(folder / "dinov2_vit_s_14.safetensors")
            source = _write_source(folder / "images.csv", cells)
    except OSError as error:
        raise MuscRayError(f"Cannot write to {folder}: {error.strerror}; choose another folder.") from error
    own = {"backbone": BACKBONE, "weights": str(weights), "image_size": IMAGE_SIZE}
    chosen = {name: getattr(given, name) for name in given.model_fields_set}
    settings = load_settings(None, own | chosen | {"source": str(source), "out": str(folder)})
    labels = {cell.path.as_uri(): cell.label for cell in cells}
    return run_archive(settings, progress, labels)


def _write_source(path: Path, cells: Sequence[SolarCell]) -> Path:
    """Write the table of images that the job reads, without labels: scoring must not see them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri"])
        writer.writerows([cell.path.as_uri()] for cell in cells)
    return path
