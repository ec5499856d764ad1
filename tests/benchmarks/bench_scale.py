"""The mutual stage alone, on generated features: does its cost grow with N * M, and how much does the stage add?

    python tests/benchmarks/bench_scale.py [--quick] [--compressed]

Features have the shape of ViT-S/14 at 224 px (L = 256, C = 384), one layer, degrees 1, 3, 5; with `--compressed` they
are stored as int8 projections on 96 directions, and scored in int8. Times are between the first block of each worker
and the last of all, so that the start of workers does not flatter the larger archives. The bare kernel is
`multiply_tile` on the same shards in as many processes at the same time.
"""

import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from machine import describe_machine
from memory import PeakMemory

from musc_ray.core.compression import Energies, find_bases, project
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.precision import resolve_precision
from musc_ray.core.tile_product import multiply_tile
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.driver import SCORER
from musc_ray.scoring.tile_driver import TileDriver, block_side
from tests.helpers.generated import DEFAULTS, generated_archive, group_features

SHAPE = {"grid": [16, 16], "channels": 384, "layers": 1, "shard_size": 64}
COMPRESSED = "--compressed" in sys.argv
DIRECTIONS = 96
REFERENCES = 64
KERNEL_SECONDS = 8.0


@dataclass
class Figures:
    """Of one run: seconds and pairs between its first and last block, and the peak memory of its processes."""

    seconds: float
    pairs: int
    in_kernel: float
    shards_read: int
    peaks: dict[str, int]


def mutual_stage(images: int, references: int | str, workers: int, groups: int = 1) -> Figures:
    """Score a generated archive's patches."""
    settings = {"references": references, "workers": workers, "degrees": [1, 3, 5]}
    settings |= {"compress": DIRECTIONS} if COMPRESSED else {}
    with tempfile.TemporaryDirectory() as out:
        archive, rings = generated_archive(out, {**SHAPE, "images": images, "groups": groups, "settings": settings})
        distances = archive.settings.shard_size**2 * 256
        side = block_side(archive.settings, [len(ring.ring) for ring in rings], 1, distances, workers)
        mutual = TileDriver(archive.run_paths, rings, archive.meta.layers, {(ring.group, 0): side for ring in rings})
        arguments = (archive.settings, archive.arithmetic, out, archive.run_id, archive.meta)
        options = ExecutorOptions.of(archive.settings)
        times, counts = [], []
        with (
            PeakMemory() as memory,
            open_executor(options, Progress(quiet=True)) as executor,
            Pool(executor, SCORER, workers, *arguments) as pool,
        ):
            for _ in mutual.run(pool):
                times.append(time.perf_counter())
                counts.append(mutual.stats.pairs)
        first = [index for index, count in enumerate(counts) if count][workers - 1]
        return Figures(
            times[-1] - times[first],
            counts[-1] - counts[first],
            mutual.stats.seconds_in_kernel,
            mutual.stats.shards_read,
            memory.peaks,
        )


def kernel() -> None:
    """Pairs a second of the bare kernel in this process, printed."""
    torch.set_num_threads(1)
    spec = {**DEFAULTS, **SHAPE, "images": 128}
    _, _, (tokens,) = group_features(spec, 0, range(128))
    dtype, whole = resolve_precision("auto", torch.device("cpu"), 1000), torch.from_numpy(tokens)
    if COMPRESSED:
        energies = Energies(SHAPE["channels"], torch.device("cpu"))
        energies.add(whole)
        dtype, whole = torch.int8, project(whole, find_bases([energies], DIRECTIONS)[0].vectors).tokens
    a, b = (prepare(part, (16, 16), (1, 3, 5), dtype, normalised=COMPRESSED) for part in whole.split(64))
    multiply_tile(a, b, torch.float16)
    print("ready", flush=True)
    sys.stdin.readline()
    tiles, started = 0, time.perf_counter()
    while time.perf_counter() - started < KERNEL_SECONDS:
        multiply_tile(a, b, torch.float16)
        tiles += 1
    print(json.dumps(64 * 64 * tiles / (time.perf_counter() - started)))


def bare_kernel(workers: int) -> float:
    """Pairs a second of so many processes at the same time."""
    command = [sys.executable, str(Path(__file__)), "--kernel", *["--compressed"] * COMPRESSED]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(workers)
    ]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()
    return sum(float(process.communicate("go\n")[0]) for process in processes)


def megabytes(peaks: dict[str, int]) -> str:
    """The processes that matter, by name."""
    names = {"python": "driver", "ray::WorkerProcess": "worker", "raylet": "raylet", "gcs_server": "gcs"}
    return ", ".join(f"{label} {peaks[name] / 1e6:.0f}" for name, label in names.items() if name in peaks)


def growth(sizes: tuple[int, ...]) -> None:
    print(f"references {REFERENCES}, 2 workers")
    print(f"{'N':>6} {'s':>7} {'ms an image':>12} {'pairs/s':>9} {'read':>6}  peak MB of a process")
    per_image = {}
    for images in sizes:
        figures = mutual_stage(images, REFERENCES, 2)
        rate = figures.pairs / figures.seconds
        per_image[images] = 1000 * REFERENCES / 2 / rate
        print(
            f"{images:6} {figures.seconds:7.1f} {per_image[images]:12.2f} {rate:9.0f} {figures.shards_read:6}  "
            f"{megabytes(figures.peaks)}"
        )
    print(f"time an image at N = {sizes[-1]} against N = {sizes[0]}: {per_image[sizes[-1]] / per_image[sizes[0]]:.3f}")


def workers_and_kernel(images: int) -> None:
    print(f"{'workers':>8} {'stage pairs/s':>14} {'kernel pairs/s':>15} {'stage / kernel':>15}")
    stage = {}
    for workers in (1, 2):
        before = bare_kernel(workers)
        figures = mutual_stage(images, "all", workers)
        rate, bare = figures.pairs / figures.seconds, (before + bare_kernel(workers)) / 2
        stage[workers] = rate
        print(f"{workers:8} {rate:14.0f} {bare:15.0f} {rate / bare:15.2f}")
    print(f"two workers against one: {stage[2] / stage[1]:.2f}")


def small_groups(groups: int, images: int) -> None:
    """Many small groups against a large one with as many pairs."""
    many = mutual_stage(images, "all", 2, groups)
    one = mutual_stage(round((groups * images**2) ** 0.5), "all", 2)
    rates = [figures.pairs / figures.seconds for figures in (many, one)]
    print(f"{groups} groups of {images} images: {rates[0] / rates[1]:.2f} of the pairs/s of one group")


def main() -> None:
    if "--kernel" in sys.argv:
        kernel()
        return
    print(describe_machine())
    quick = "--quick" in sys.argv
    workers_and_kernel(400 if quick else 800)
    growth((500, 1000) if quick else (1000, 2000, 4000, 8000))
    small_groups(8 if quick else 20, 64)


if __name__ == "__main__":
    main()
