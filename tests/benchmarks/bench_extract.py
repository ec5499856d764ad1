"""Extraction: both executors against Ray Data's actor pool and a bare loop, same images, model and threads.

    python tests/benchmarks/bench_extract.py [IMAGES]

In float32 and in what `model_precision: auto` is on this machine.

Why the product has plain actors: on 2 cores (AMD Zen 5, no GPU; 640 solar cells, DINOv2 ViT-S/14 at 224 px) these
ran at 1.02 of the bare loop and Ray Data at 1.04, so Ray Data buys nothing, and pixels would pass through its object
store on the way from decoder to model. Of the plain actors' time 98 % went to the model; writing (4 %) lay behind it.
"""

import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np
import ray
import torch
from machine import describe_machine

from musc_ray.backbones import Backbone, describe_backbone, load_backbone
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.weights import WeightsFile, fetch_weights
from musc_ray.core import auto_precision
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import mono_cells
from musc_ray.features.extraction import EXTRACTOR, ExtractorOptions, ExtractStats, ShardTask
from musc_ray.features.workspace import features_meta
from musc_ray.runtime.executor import Worker, open_executor
from musc_ray.runtime.hardware import has_bfloat16
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.pool import Member, Pool, References
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from musc_ray.sources.decoding import decode_image
from musc_ray.sources.images import CatalogImage
from musc_ray.storage import shards as features
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shard_writer import write_shard
from musc_ray.storage.shards import FeaturesMeta, ShardImage, read_layer

BACKBONE, SIZE, BATCH, SHARD, WORKERS = "dinov2-vit-s-14", (224, 224), 8, 64, 2


def load(weights: WeightsFile, precision: str) -> Backbone:
    return load_backbone(BACKBONE, image_size=SIZE, layers=None, weights=weights, precision=precision)


def bare_loop(paths: list[Path], weights: WeightsFile, precision: str) -> float:
    """Seconds to only decode and run the model, in one process with as many threads as the workers have together."""
    torch.set_num_threads(WORKERS)
    backbone = load(weights, precision)
    started = time.perf_counter()
    for start in range(0, len(paths), BATCH):
        pictures = [decode_image(path.read_bytes(), SIZE) for path in paths[start : start + BATCH]]
        backbone.forward(torch.from_numpy(np.stack(pictures)))
    return time.perf_counter() - started


def stage(
    settings: Settings, out_paths: OutPaths, meta: FeaturesMeta, tasks: list[ShardTask]
) -> tuple[float, ExtractStats]:
    """Seconds of the product's stage once all workers have their model, and its own account of them."""
    options = ExtractorOptions.of(settings, settings.model_precision)
    stats, arguments = ExtractStats(), (options, out_paths.uri(out_paths.root), meta)
    warm = ShardTask("warm-up", 0, tasks[0].images[:BATCH])
    with (
        open_executor(ExecutorOptions.of(settings), Progress(quiet=True)) as executor,
        Pool(executor, EXTRACTOR, len(tasks), *arguments) as pool,
    ):
        known: set[Member] = set()

        def warm_up(member: Member) -> ShardTask | None:
            """Something to do until all workers are there, and for each at least once."""
            new = member not in known
            known.add(member)
            return warm if new or len(pool) < (WORKERS if settings.executor == "ray" else 1) else None

        def extract(worker: Worker, task: ShardTask) -> References:
            return worker.call("extract", task)

        for _ in pool.run(warm_up, extract):
            pass
        started, waiting = time.perf_counter(), iter(tasks)
        for _, references, _ in pool.run(lambda _: next(waiting, None), extract):
            stats.add(executor.get(references[0]))
        seconds = time.perf_counter() - started
    return seconds, stats


class RayDataExtractor:
    """The same work as a Ray Data actor: a batch is a shard, features are written by the actor."""

    def __init__(self, out: str, meta: FeaturesMeta, weights: WeightsFile, precision: str) -> None:
        torch.set_num_threads(1)
        self.backbone, self.out_paths, self.meta = load(weights, precision), OutPaths.at(out), meta

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        layers, class_tokens = [], []
        for start in range(0, len(batch["pixels"]), BATCH):
            tokens = self.backbone.forward(
                torch.from_numpy(np.ascontiguousarray(batch["pixels"][start : start + BATCH]))
            )
            layers.append([layer.half().numpy() for layer in tokens.layers])
            class_tokens.append(tokens.class_tokens.numpy())
        uris = [str(uri) for uri in batch["uri"]]
        meta = FeaturesMeta(**{**vars(self.meta), "images": [ShardImage(uri, uri, "") for uri in uris]})
        path = self.out_paths.shard(self.meta.features_id, "ray-data", abs(hash(uris[0])) % 10**6)
        stacked = [np.concatenate([part[n] for part in layers]) for n in range(len(self.meta.layers))]
        write_shard(self.out_paths.fs, path, meta, np.concatenate(class_tokens), stacked)
        return {"finished": np.array([time.time()]), "images": np.array([len(uris)])}


def ray_data(paths: list[Path], out: str, meta: FeaturesMeta, weights: WeightsFile, precision: str) -> float:
    """Seconds an image of the same work as a Ray Data pipeline, from the first finished shard of each actor on."""

    def decode(row: dict) -> dict:
        return {"uri": row["uri"], "pixels": decode_image(Path(row["uri"]).read_bytes(), SIZE)}

    ray.data.DataContext.get_current().enable_progress_bars = False
    dataset = ray.data.from_items([{"uri": str(path)} for path in paths], override_num_blocks=16)
    dataset = dataset.map(decode, num_cpus=0.2).map_batches(
        RayDataExtractor,
        fn_constructor_args=(out, meta, weights, precision),
        batch_size=SHARD,
        concurrency=WORKERS,
        num_cpus=0.8,
    )
    done = sorted((row["finished"], row["images"]) for row in dataset.take_all())
    later = done[WORKERS:]
    return (done[-1][0] - done[WORKERS - 1][0]) / sum(images for _, images in later)


def storage_rates(folder: Path) -> dict[str, float]:
    """Median bytes per second of CPU time: of writing and reading features of ViT-L at 518 px, with their checksums and
    without, and of the bare bytes to a file.

    One process; every file is removed after use, so that the page cache and not the disk is measured.
    """
    images = [ShardImage(str(n), str(n), "") for n in range(32)]
    meta = FeaturesMeta((37, 37), (5, 11, 17, 23), 1024, 768, (518, 518), "rate", "0" * 64, "rate", images=images)
    tokens = [
        np.random.default_rng(n).standard_normal((32, 1369, 1024), np.float32).astype(np.float16) for n in range(4)
    ]
    out_paths, found = OutPaths.at(str(folder)), defaultdict(list)
    path, bare = out_paths.shard("rate", "all", 0), folder / "bare"
    size = sum(layer.nbytes for layer in tokens)

    def measure(name: str, work: Callable[[], object]) -> None:
        started = time.process_time()
        work()
        found[name].append(size / (time.process_time() - started))

    def write_bare() -> None:
        with bare.open("wb") as file:
            for layer in tokens:
                file.write(memoryview(layer).cast("B"))

    def write() -> None:
        write_shard(out_paths.fs, path, meta, np.zeros((32, 768), np.float32), tokens)

    def read() -> None:
        for layer in meta.layers:
            read_layer(out_paths.fs, path, layer, [image.image_id for image in images])

    checks = {"_checksum": lambda *_: 0, "_is_finite": lambda *_: True}
    for _ in range(7):
        measure("bare file", write_bare)
        bare.unlink()
        for checked in (True, False):
            with ExitStack() as stack:
                for name, nothing in () if checked else checks.items():
                    stack.enter_context(patch.object(features, name, nothing))
                kind = "" if checked else " unchecked"
                measure(f"write{kind}", write)
                measure(f"read{kind}", read)
            out_paths.fs.rm_file(path)
    return {name: sorted(values)[len(values) // 2] for name, values in found.items()}


def compare(paths: list[Path], folder: Path, weights: WeightsFile, precision: str) -> float:
    """Print images a second of all ways; returns those of the stage in this process."""
    meta = features_meta(describe_backbone(BACKBONE, SIZE), weights.sha256, f"bench-{precision}")
    out_paths = OutPaths.at(f"{folder}/out")
    images = [CatalogImage(path.name, path.as_uri(), "all", "") for path in paths]
    tasks = [ShardTask("all", n, images[n * SHARD : (n + 1) * SHARD]) for n in range(len(images) // SHARD)]
    given = {"backbone": BACKBONE, "weights": str(weights.path), "model_precision": precision}
    ways = {"process": {"executor": "process", "threads": WORKERS}, "ray": {"executor": "ray", "workers": WORKERS}}
    bare, rates, shares = bare_loop(paths, weights, precision), {}, {}
    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False, object_store_memory=2**29)
    for number, (name, options) in enumerate(ways.items()):
        numbered = [ShardTask("all", task.shard + 1000 * number, task.images) for task in tasks]
        seconds, stats = stage(load_settings(None, given | options), out_paths, meta, numbered)
        rates[f"executor: {name}"] = stats.images / seconds
        total = seconds * (WORKERS if name == "ray" else 1)
        shares[name] = {
            "model": stats.seconds_in_model / total,
            "waiting for images": stats.seconds_waiting_for_images / total,
            "writing (while the next shard is in the model)": stats.seconds_writing / total,
        }
    rates["Ray Data actor pool"] = 1 / ray_data(paths, f"{folder}/out", meta, weights, precision)
    ray.shutdown()
    bare = (bare + bare_loop(paths, weights, precision)) / 2
    rates = {"bare loop (before and after)": len(paths) / bare} | rates
    print(f"{precision:28} {'images/s':>9} {'of the bare loop':>17}")
    for name, rate in rates.items():
        print(f"{name:28} {rate:9.1f} {rate * bare / len(paths):17.2f}")
    for name, parts in shares.items():
        print(f"time with {name}: " + ", ".join(f"{part} {share:.1%}" for part, share in parts.items()), flush=True)
    return rates["executor: process"]


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 640
    print(describe_machine())
    paths = [cell.path for cell in mono_cells(None)][:count]
    best = auto_precision("cpu", has_bfloat16())
    with tempfile.TemporaryDirectory() as folder:
        weights = fetch_weights(resolve_backbone(BACKBONE), str(write_dinov2_weights(Path(folder) / "w.safetensors")))
        rates = [compare(paths, Path(folder), weights, precision) for precision in dict.fromkeys(("float32", best))]
        print(f"{best}: {rates[-1] / rates[0]:.2f} times the images a second of float32, in this process")
        stored = storage_rates(Path(folder))
    print("ViT-L features, GB a CPU second: " + ", ".join(f"{name} {rate / 1e9:.2f}" for name, rate in stored.items()))


if __name__ == "__main__":
    main()
