"""What fewer references cost: image AUROC on all mono cells of ELPV against M random references, several seeds.

    python tests/benchmarks/bench_references.py [IMAGES]

DINOv2 ViT-S/14 at 224 px, `auto`; features are extracted once. AUROC of `score_raw` (before RsCIN) and of `score`.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
from machine import describe_machine

from musc_ray.core.metrics.image import image_auroc
from musc_ray.demo.elpv import mono_cells
from musc_ray.demo.run import run_demo
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings

REFERENCES = (64, 128, 256, 512)
SEEDS = (0, 1, 2)


def aurocs(out: Path, images: str, references: int | str, seed: int) -> tuple[float, float, float]:
    """AUROC of raw and of final scores, and the seconds of the mutual stage."""
    options = {"method": "paper", "references": references, "seed": seed, "report_images": 0, "report_thumbnails": 0}
    result = run_demo(load_settings(None, {"out": str(out)} | options), images, Progress(quiet=True))
    labels = {cell.path.as_uri(): cell.label for cell in mono_cells(None)}
    table = ds.dataset(result.scores_path).to_table(columns=["uri", "score_raw", "score"])
    truth = [labels[uri] for uri in table["uri"].to_pylist()]
    raw, final = (image_auroc(truth, table[name].to_numpy()) for name in ("score_raw", "score"))
    return raw, final, result.run.stages["mutual"]["seconds"]


def main() -> None:
    images = sys.argv[1] if len(sys.argv) > 1 else "all"
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        raw, final, seconds = aurocs(Path(folder), images, "all", 0)
        print(f"{'references':>10} {'AUROC raw':>10} {'(seeds)':>22} {'AUROC':>7} {'(seeds)':>22} {'mutual s':>9}")
        print(f"{'all':>10} {raw:10.4f} {'':22} {final:7.4f} {'':22} {seconds:9.0f}", flush=True)
        for references in REFERENCES:
            found = [aurocs(Path(folder), images, references, seed) for seed in SEEDS]
            (raws, finals, times) = (np.array(values) for values in zip(*found, strict=True))
            each = [" ".join(f"{value:.4f}" for value in values) for values in (raws, finals)]
            print(
                f"{references:10} {raws.mean():10.4f} {each[0]:>22} {finals.mean():7.4f} {each[1]:>22} "
                f"{times.mean():9.0f}   against all: {raws.mean() - raw:+.4f} {finals.mean() - final:+.4f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
