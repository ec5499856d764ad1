"""Nights on solar cells: what a night finds, does, and whether a run on its whole window gives the same scores.

    python tests/benchmarks/bench_nightly.py

240 mono cells of ELPV, DINOv2 ViT-S/14 at 224 px, shuffled: 120 as the archive, then 3 nights of 40, each against
64 earlier ones in float32. The baseline of each night is a run on the night's window from nothing. Also how long both
take, and AUROC of the night's own images by `percentile`, which is comparable between nights.
"""

import csv
import random
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import pyarrow.dataset as ds
import pyarrow.parquet as pq
from machine import describe_machine

from musc_ray.core.metrics.image import image_auroc
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import SolarCell, mono_cells
from musc_ray.nightly.run import rescore_new
from musc_ray.pipeline import run_archive
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.result import RunResult
from musc_ray.settings.loading import load_settings

ARCHIVE, NIGHTS, NIGHT, REFERENCES = 120, 3, 40, 64
QUIET = Progress(quiet=True)


def rows_of(result: RunResult) -> dict[str, dict]:
    return {row["uri"]: row for row in ds.dataset(result.scores_path).to_table().to_pylist()}


def main() -> None:
    print(describe_machine())
    cells = mono_cells(ARCHIVE + NIGHTS * NIGHT)
    random.Random(0).shuffle(cells)
    label = {cell.path.as_uri(): cell.label for cell in cells}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_dinov2_weights(folder / "weights.safetensors")
        options = {"backbone": "dinov2-vit-s-14", "weights": str(weights), "image_size": 224, "precision": "float32"}
        options["method"] = "paper"
        options |= {"report_thumbnails": 0, "report_images": 0}

        def table(file: str, uris: Iterable[str]) -> str:
            with (folder / file).open("w", newline="") as handle:
                csv.writer(handle).writerows([["uri"], *([uri] for uri in uris)])
            return str(folder / file)

        def listed(some: list[SolarCell]) -> str:
            return table("images.csv", (cell.path.as_uri() for cell in some))

        settings = load_settings(None, {**options, "source": listed(cells[:ARCHIVE]), "out": str(folder / "out")})
        rows = rows_of(run_archive(settings, QUIET))
        auroc = image_auroc([label[uri] for uri in rows], [row["score"] for row in rows.values()])
        print(f"archive: {len(rows)} images, AUROC {auroc:.3f}")
        print("night  images  extracted  AUROC  drift  s  s of a whole run  largest difference of a score")
        for night in range(NIGHTS):
            source = listed(cells[: ARCHIVE + (night + 1) * NIGHT])
            settings = load_settings(
                None, {**options, "source": source, "out": str(folder / "out"), "references": REFERENCES}
            )
            started = time.perf_counter()
            result, _ = rescore_new(settings, QUIET)
            seconds = time.perf_counter() - started
            assert result is not None
            window = pq.read_table(folder / "out/runs" / result.run.run_id / "catalog.parquet")["uri"].to_pylist()
            whole = {**options, "source": table("window.csv", window), "out": str(folder / f"whole{night}")}
            started = time.perf_counter()
            expected = rows_of(run_archive(load_settings(None, whole), QUIET))
            whole_seconds = time.perf_counter() - started
            rows = rows_of(result)
            worst = max(abs(row["score"] - expected[uri]["score"]) for uri, row in rows.items())
            auroc = image_auroc([label[uri] for uri in rows], [row["percentile"] for row in rows.values()])
            drift = result.run.night["all"].drift
            extracted = result.run.stages["extract"]["images"]
            print(
                f"{night + 1:5} {len(rows):7} {extracted:10} {auroc:6.3f} {drift:+6.2f} {seconds:5.1f} "
                f"{whole_seconds:5.1f} {worst:.1e}",
                flush=True,
            )


if __name__ == "__main__":
    main()
