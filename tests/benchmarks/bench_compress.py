"""What compressed features cost in accuracy, and save in storage and time: whole runs beside runs on all channels.

    python tests/benchmarks/bench_compress.py [SET ...] [--cases CASE ...] [--cache FOLDER]

DINOv2 ViT-S/14 (384 channels) at 224 px, method tuned, on solar cells (ELPV, 240 and all 901) and the folders of the
shared data; a folder that is missing is left out. Metrics are those of `musc-ray evaluate` in percent, and image AUROC
of score_raw, before images are compared with each other. Below each row: its difference from `none`. Bytes are those of
the features folder, relative to `none`; seconds are of extraction (with the sample that a basis is found from) and of
the mutual stage. `exact` scores what auto stores in float32: what of the difference is the storage, and what int8
arithmetic.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from machine import describe_machine
from method_study.image_sets import JUDGED, ImageSet, all_mono_cells, available
from method_study.judged import COLUMNS, source_of

from musc_ray.core.metrics.image import image_auroc
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.evaluate.evaluation import evaluate_run
from musc_ray.pipeline import run_archive
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from musc_ray.storage.paths import OutPaths

CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "int8": {"feature_dtype": "int8"},
    "C/2": {"compress": "192"},
    "C/3": {"compress": "128"},
    "C/4": {"compress": "96"},
    "C/6": {"compress": "64"},
    "auto": {"compress": "auto"},
    "exact": {"compress": "auto", "precision": "float32"},
}
ALL_CELLS = "all_cells"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*JUDGED, ALL_CELLS)
    parser.add_argument("sets", nargs="*", metavar="SET", choices=[[], *names], help=", ".join(names))
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES), help="default: all")
    parser.add_argument("--cache", type=Path, help="folder of runs, which are read again; default: a temporary one")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        cache = arguments.cache or Path(folder)
        for name in arguments.sets or names:
            for images in [all_mono_cells()] if name == ALL_CELLS else available([name]):
                compare(cache, images, ["none", *(case for case in arguments.cases if case != "none")])


def compare(cache: Path, images: ImageSet, cases: list[str]) -> None:
    """Print the figures of all cases on a set, and their differences from the first one."""
    print(f"\n{images.name}, {len(images.paths)} images: image AUROC, AP, pixel AP, AUPRO, AUROC raw")
    base, base_bytes = None, 0
    for case in cases:
        figures, stored, seconds = measure(cache, images, case)
        row = " ".join(f"{value:7.2f}" for value in figures)
        base, base_bytes = (figures, stored) if base is None else (base, base_bytes)
        less = " ".join(f"{value:+7.2f}" for value in figures - base)
        times = f"extraction {seconds[0]:.1f} s, mutual {seconds[1]:.1f} s"
        print(f"{case:8}{row}   bytes {stored / base_bytes:.4f} ({stored / 1e6:.1f} MB), {times}")
        print(f"{'':8}{less}", flush=True)


def measure(cache: Path, images: ImageSet, case: str) -> tuple[np.ndarray, int, tuple[float, float]]:
    """Run and evaluate a case; returns its figures, stored bytes, and seconds of extraction and of the mutual stage."""
    folder = cache / images.name
    folder.mkdir(parents=True, exist_ok=True)
    weights = write_dinov2_weights(cache / "weights.safetensors")
    given: dict[str, Any] = {"backbone": "dinov2-vit-s-14", "weights": str(weights), "image_size": 224}
    given |= {"executor": "process", "report_images": 0, "report_thumbnails": 0, **CASES[case]}
    settings = load_settings(None, given | source_of(images, folder) | {"out": str(folder / case.replace("/", "-"))})
    run = run_archive(settings, Progress(quiet=True)).run
    row = evaluate_run(settings.model_copy(update={"run_id": run.run_id}), Progress(quiet=True)).rows[0]
    values = [np.nan if getattr(row, column) is None else 100 * getattr(row, column) for column in COLUMNS]
    out = OutPaths.at(str(settings.out))
    scores = ds.dataset(str(Path(str(settings.out)) / "runs" / run.run_id / "scores")).to_table(["uri", "score_raw"])
    label_of = {path.as_uri(): label for path, label in zip(images.paths, images.labels, strict=True)}
    labels = np.array([label_of[uri if "://" in uri else Path(uri).as_uri()] for uri in scores["uri"].to_pylist()])
    raw = 100 * image_auroc(labels.astype(np.int8), scores["score_raw"].to_numpy())
    figures = np.array([*values, raw])
    if not images.has_image_metrics:
        figures[[0, 1, 4]] = np.nan
    stored = sum(file.stat().st_size for file in Path(out.root, "features").rglob("*") if file.is_file())
    return figures, stored, (run.stages["extract"]["seconds"], run.stages["mutual"]["seconds"])


if __name__ == "__main__":
    main()
