"""LNAMD against SNAMD: how well each finds defects, and what each costs.

    python tests/benchmarks/bench_snamd.py [MAGNETIC_TILE]

DINOv2 ViT-S/14 at 224 px, `auto`, two workers of one thread: 240 solar cells (ELPV, no masks) and the magnetic tiles of
a folder in MVTec AD's layout, method paper. All runs of a set share their features. Metrics are those of `musc-ray
evaluate`; AUROC raw is of scores before RsCIN. Then, in float32, SNAMD with LNAMD's LayerNorm over the image before it,
which earlier versions had, against SNAMD as it is, the authors'. Before that the parts of the mutual stage on one
thread, on generated features.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import torch
from bench_mutual import features_of
from machine import describe_machine

from musc_ray.core.lnamd import layer_norm
from musc_ray.core.metrics.image import image_auroc
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.patch_scores import exact_scores
from musc_ray.core.pixel_map import image_scores
from musc_ray.core.precision import resolve_precision
from musc_ray.core.tile_product import multiply_tile
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import mono_cells
from musc_ray.evaluate.evaluation import evaluate_run
from musc_ray.evaluate.table import image_metrics
from musc_ray.pipeline import run_archive
from musc_ray.runtime.cluster import ray_cluster
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shards import read_layer, read_meta

TILES = Path(__file__).parents[3] / "shared" / "data" / "magnetic_tile"
CASES = {"lnamd": ("lnamd", (1, 3, 5)), "snamd": ("snamd", (1, 3, 5)), "lnamd, degree 1": ("lnamd", (1,))}
"""The last has one vector a patch as well: what is left of SNAMD where no neighbour weighs anything."""
METRICS = ("image_auroc", "image_ap", "pixel_auroc", "pixel_ap", "aupro")
SHAPES = {"ViT-S/14 at 224 px": (64, 16, 384), "ViT-L/14 at 518 px": (16, 37, 1024)}
REPEATS = 3


def quality(folder: Path, name: str, labels: dict[str, int], layout: str) -> None:
    """Score the images once in each case and print metrics and times."""
    pa.csv.write_csv(pa.table({"uri": list(labels)}), folder / "images.csv")
    pa.csv.write_csv(pa.table({"uri": list(labels), "label": list(labels.values())}), folder / "labels.csv")
    weights = write_dinov2_weights(folder / "weights.safetensors")
    given = {"source": str(folder / "images.csv"), "out": str(folder / "out"), "weights": str(weights)}
    given |= {"backbone": "dinov2-vit-s-14", "image_size": 224, "method": "paper", "workers": 2, "threads": 1}
    given |= {"labels": layout or str(folder / "labels.csv"), "report_images": 0, "report_thumbnails": 0}
    print(f"\n{name}: {len(labels)} images, {sum(labels.values())} defective")
    print(
        f"{'':15}{'AUROC raw':>11}" + "".join(f"{title:>13}" for title in METRICS) + f"{'mutual s':>10}{'kernel s':>10}"
    )
    for case, (aggregation, degrees) in CASES.items():
        settings = load_settings(None, {**given, "aggregation": aggregation, "degrees": degrees})
        result = run_archive(settings, Progress(quiet=True))
        rows = evaluate_run(settings.model_copy(update={"run_id": result.run.run_id}), Progress(quiet=True)).rows
        table = ds.dataset(result.scores_path).to_table(columns=["uri", "score_raw"])
        raw = image_auroc([labels[uri] for uri in table["uri"].to_pylist()], table["score_raw"].to_numpy())
        found = [getattr(rows[0], metric) for metric in METRICS]
        mutual = result.run.stages["mutual"]
        values = "".join(f"{'-' if value is None else format(value, '.4f'):>13}" for value in found)
        print(
            f"{case:15}{raw:11.4f}{values}{mutual['seconds']:10.1f}{mutual['seconds_in_kernel']:10.1f}",
            flush=True,
        )
    compare_forms(OutPaths.at(given["out"]), result.run, labels)


def compare_forms(out_paths: OutPaths, run: RunManifest, labels: dict[str, int]) -> None:
    """Score the features of a run by both forms of SNAMD and print AUROC and AP of the raw scores."""
    shards = out_paths.written_shards(out_paths.features(run.features_id, "all")).values()
    metas = [read_meta(out_paths.fs, path) for path in shards]
    truth = [labels[image.uri] for meta in metas for image in meta.extracted]
    for form in ("with a LayerNorm before", "as the authors' code"):
        maps = 0
        for layer in run.resolved.layers:
            parts = [
                read_layer(out_paths.fs, path, layer, [image.image_id for image in meta.extracted])
                for path, meta in zip(shards, metas, strict=True)
            ]
            tokens = torch.from_numpy(np.concatenate(parts))
            tokens = layer_norm(tokens) if form.startswith("with") else tokens
            shard = prepare(tokens, run.resolved.grid, (1, 3, 5), torch.float32, "snamd")
            distances, _ = multiply_tile(shard, shard)
            maps = maps + exact_scores([distances], len(truth) - 1, (0.0, 0.3), torch.device("cpu"))
        maps = (maps / len(run.resolved.layers)).view(-1, *run.resolved.grid)
        found = image_metrics(np.array(truth), image_scores(maps, run.resolved.image_size).numpy())
        print(f"snamd {form}: AUROC raw {found['image_auroc']:.4f}, AP raw {found['image_ap']:.4f}", flush=True)


def seconds_of(work: Callable[[], object]) -> float:
    """CPU seconds of the fastest of some calls on this thread: others use the machine, too."""
    times = []
    for _ in range(REPEATS):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return min(times)


def parts(name: str, images: int, side: int, channels: int) -> None:
    """What the mutual stage does with a layer of a shard, on one thread."""
    grid = (side, side)
    features = features_of(2 * images, side, channels)
    print(f"\n{name}: shards of {images} images, a layer, CPU seconds on one thread")
    print(f"{'':24}{'prepare a shard':>17}{'tile of two':>13}{'averages':>10}{'distances in MB':>17}")
    for precision in ("float32", "auto"):
        dtype = resolve_precision(precision, torch.device("cpu"), 1000)
        for case, (aggregation, degrees) in CASES.items():
            work = partial(prepare, grid=grid, degrees=degrees, dtype=dtype, aggregation=aggregation)
            a, b = map(work, features.split(images))
            minima = multiply_tile(a, b, torch.float16)[0]
            times = [
                seconds_of(lambda x=features[:images], make=work: make(x)),
                seconds_of(lambda x=a, y=b: multiply_tile(x, y, torch.float16)),
                seconds_of(lambda m=minima: exact_scores([m], images, (0.0, 0.3), torch.device("cpu"))),
            ]
            figures = f"{times[0]:17.3f}{times[1]:13.3f}{times[2]:10.3f}{minima.nbytes / 1e6:17.1f}"
            print(f"{precision:9}{case:15}{figures}", flush=True)


def main() -> None:
    tiles = Path(sys.argv[1]) if len(sys.argv) > 1 else TILES
    print(describe_machine())
    sets = {"ELPV": ({cell.path.as_uri(): cell.label for cell in mono_cells(240)}, "")}
    if tiles.exists():
        sets["magnetic tile"] = (
            {path.as_uri(): int(path.parent.name != "good") for path in tiles.glob("test/*/*")},
            "mvtec",
        )
    else:
        print(f"There is no {tiles}: solar cells alone.")
    torch.set_num_threads(1)
    for name, shape in SHAPES.items():
        parts(name, *shape)  # compiles the kernels, too
    for name, (labels, layout) in sets.items():
        with (
            tempfile.TemporaryDirectory() as folder,
            ray_cluster(ExecutorOptions.of(load_settings(None, {"workers": 2}))),
        ):
            quality(Path(folder), name, labels, layout)


if __name__ == "__main__":
    main()
