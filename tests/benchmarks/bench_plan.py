"""What `plan` says against what a run takes, on the same machine one after the other.

    python tests/benchmarks/bench_plan.py [IMAGES]

ELPV solar cells, DINOv2 ViT-S/14 at 224 px, 2 workers: all pairs and M = 64, in both precisions, and compressed.
"""

import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
from machine import describe_machine
from memory import PeakMemory

from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import mono_cells
from musc_ray.pipeline import run_archive
from musc_ray.planning.plan import list_archive, plan_archive
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings

CASES = (
    {"references": "all"},
    {"references": 64},
    {"references": "all", "precision": "float32"},
    {"references": "all", "compress": "auto"},
)
SHARD = "shard-*.parquet"


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 400
    print(describe_machine())
    print(f"{count} images; seconds and MB as planned, as measured, and their ratio")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        uris = [cell.path.as_uri() for cell in mono_cells(None)[:count]]
        pa.csv.write_csv(pa.table({"uri": uris}), folder / "images.csv")
        weights = write_dinov2_weights(folder / "weights.safetensors")
        common = {"source": str(folder / "images.csv"), "backbone": "dinov2-vit-s-14", "weights": str(weights)}
        common |= {"image_size": 224, "workers": 2, "report_images": 0, "report_thumbnails": 0}
        for number, case in enumerate(CASES):
            settings = load_settings(None, {**common, **case, "out": str(folder / f"out-{number}")})
            plan = plan_archive(settings, list_archive(settings))
            with PeakMemory() as memory:
                run = run_archive(settings, Progress(quiet=True)).run
            stages = run.stages
            print(", ".join(f"{key} {value}" for key, value in case.items()))
            scoring = stages["mutual"]["seconds"] + stages["reduce"]["seconds"]
            found = run.compression.get("all")
            layer = found.bytes / count / len(run.resolved.layers) if found else 256 * 384 * 2
            read = stages["mutual"]["shards_read"] * settings.shard_size * layer
            stored = sum(path.stat().st_size for path in (folder / f"out-{number}/features").rglob(SHARD))
            for what, planned, measured in (
                ("extract", plan.extract_seconds, stages["extract"]["seconds"]),
                ("mutual and reduce", plan.mutual_seconds, scoring),
                (
                    "worker memory",
                    max(plan.extract_memory, plan.mutual_memory) / 1e6,
                    memory.peaks["ray::WorkerProcess"] / 1e6,
                ),
                ("features stored", plan.feature_bytes / 1e6, stored / 1e6),
                ("features read", plan.mutual_bytes_read / 1e6, read / 1e6),
            ):
                print(f"  {what:18} {planned:8.1f} {measured:8.1f} {planned / measured:6.2f}", flush=True)


if __name__ == "__main__":
    main()
