"""`musc-ray demo`: the main job on real images with real weights, and how well it did."""

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from musc_ray.cli.output import print_result
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import SolarCell, mono_cells
from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.pipeline import RunResult, run_archive
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings

BACKBONE = "dinov2-vit-s-14"
IMAGE_SIZE = 224


def run_demo(
    out: str, images: str, overwrite: bool, set_options: Sequence[str], progress: Progress, console: Console
) -> RunResult:
    """Score ELPV solar cells with DINOv2 ViT-S/14 and print the worst ones and the image AUROC.

    Args:
        out: local folder for everything that is made, the weights file and the list of images included.
        images: `all`, or how many.
        overwrite: compute again what is done.
        set_options: settings as key=value.
        progress: shows the stages.
        console: where the result is printed.
    """
    if images != "all" and not images.isdecimal():
        raise SettingsError(f"--images must be 'all' or a number, not '{images}'.")
    cells = mono_cells(None if images == "all" else int(images))
    folder = Path(out).absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        weights = write_dinov2_weights(folder / "dinov2_vit_s_14.safetensors")
        source = _write_source(folder / "images.csv", cells)
    except OSError as error:
        raise MuscRayError(f"Cannot write to {out}: {error.strerror}; choose another folder.") from error
    settings = load_settings(
        None,
        {
            "source": str(source),
            "out": str(folder),
            "backbone": BACKBONE,
            "weights": str(weights),
            "image_size": IMAGE_SIZE,
            "overwrite": overwrite,
        },
        set_options,
    )
    labels = {cell.path.as_uri(): cell.label for cell in cells}
    result = run_archive(settings, progress, labels)
    print_result(result, console)
    return result


def _write_source(path: Path, cells: Sequence[SolarCell]) -> Path:
    """The table of images that the job reads. Labels are not in it: scoring must not see them."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["uri"])
        writer.writerows([cell.path.as_uri()] for cell in cells)
    return path
