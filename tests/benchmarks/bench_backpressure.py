"""Does memory stay flat when one side is ten times faster than the other, for as long as one likes to look?

    python tests/benchmarks/bench_backpressure.py [--minutes 10]

Three jobs, each on two workers for so many minutes, with the memory of all processes (PSS: shared pages counted once;
without mapped files, which the system drops when it needs the room):

- fast producer, extraction: images are read and decoded ten times as fast as the model takes them;
- fast producer, scoring: blocks of tiles are multiplied ten times as fast as their bands are reduced;
- slow store: images come from an S3 server through a proxy, ten times as slowly as they could be decoded.

Unbounded queues would hold what the model does not take: decoded images of 150 kB each. The verdict is `flat` when the
line through the samples after the first quarter rises by less than 5 % of their mean in the time that it covers.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from machine import describe_machine
from memory import PeakMemory

from musc_ray.features import extraction
from musc_ray.features.context import open_context
from musc_ray.features.extraction import ShardTask
from musc_ray.features.workspace import open_out
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.pool import Pool
from musc_ray.runtime.progress import Progress
from musc_ray.runtime.worker import Role
from musc_ray.scoring.tile_driver import TileDriver, block_side
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from musc_ray.sources.decoding import decode_image
from tests.chaos.faulty_store import faulty_store
from tests.helpers.generated import generated_archive
from tests.helpers.pictures import solar_cells
from tests.helpers.seaweed import s3_server
from tests.helpers.slow_actors import PAUSE
from tests.helpers.weights import write_tiny_weights

TIMES = 10
SIZE = 224
IMAGES, SHARD = 128, 64
READERS = 2
FLAT = 0.05
WORKERS = 2

Counts = Iterator[int]
"""How many images or tiles a step of the job dealt with."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10, help="of each of the three jobs")
    minutes = parser.parse_args().minutes
    print(describe_machine())
    jobs = {
        "fast producer, extraction": (fast_decoders, "images"),
        "fast producer, scoring": (fast_blocks, "tiles"),
        "slow store": (slow_store, "images"),
    }
    for name, (job, unit) in jobs.items():
        with tempfile.TemporaryDirectory(prefix="musc-ray-backpressure-") as folder, ExitStack() as stack:
            watch(name, unit, job(Path(folder), stack), 60 * minutes)


def watch(name: str, unit: str, job: Counts, seconds: float) -> None:
    """Let a job go on for so long and print its memory over time."""
    next(job)  # workers are there
    done, started = 0, time.monotonic()
    with PeakMemory() as memory:
        while time.monotonic() - started < seconds:
            done += next(job)
        taken = time.monotonic() - started
    job.close()
    times, totals = np.array(memory.samples).T
    print(f"\n{name}: {done:,} {unit} in {taken / 60:.1f} minutes")
    for minute in np.arange(0, taken / 60, max(0.5, taken / 600)):
        print(f"  {minute:5.1f} min  {totals[np.argmin(abs(times - 60 * minute))] / 1e6:,.0f} MB")
    steady = times >= times[-1] / 4
    slope = np.polyfit(times[steady], totals[steady], 1)[0]
    mean, rise = totals[steady].mean(), slope * (times[-1] - times[steady][0])
    verdict = "flat" if rise < FLAT * mean else "GROWS"
    print(
        f"  mean {mean / 1e6:,.0f} MB, slope {60 * slope / 1e6:+.2f} MB/minute, rise {rise / mean:+.1%}: {verdict}",
        flush=True,
    )


def fast_decoders(folder: Path, stack: ExitStack) -> Counts:
    """Extraction whose model takes a tenth of what its readers bring."""
    os.environ[PAUSE] = str(TIMES * decode_seconds() / READERS)
    settings = job_settings(folder, source=str(local_images(folder)), out=str(folder / "out"))
    return extracting(settings, stack, Role("tests.helpers.slow_actors", "SlowModel", calls=2))


def slow_store(folder: Path, stack: ExitStack) -> Counts:
    """Extraction from a store that brings a tenth of what could be decoded."""
    (folder / "weed").mkdir()
    behind = stack.enter_context(s3_server(folder / "weed"))
    store = stack.enter_context(faulty_store(behind, seed=0))
    behind.filesystem().mkdir("plant")
    behind.filesystem().put(str(local_images(folder)), "plant/", recursive=True)
    os.environ.update(store.server.environment)
    settings = job_settings(folder, source="s3://plant/images", out=str(folder / "out"))
    store.slowest_seconds = 2 * TIMES * decode_seconds()  # uniform from 0: the mean is half of it
    store.set("slow")
    return extracting(settings, stack, extraction.EXTRACTOR)


def fast_blocks(folder: Path, stack: ExitStack) -> Counts:
    """Scoring in which reducing a band takes ten times as long as multiplying a block."""
    os.environ[PAUSE] = str(TIMES)
    spec = {"grid": [16, 16], "channels": 64, "layers": 1, "shard_size": 32, "images": 8000}
    context, rings = generated_archive(
        str(folder), {**spec, "settings": {"references": 128, "workers": WORKERS, "cache_mb": 256}}
    )
    side = block_side(context.settings, [len(rings[0].ring)], 1, context.settings.shard_size**2 * 256, WORKERS)
    mutual = TileDriver(context.run_paths, rings, context.meta.layers, {(ring.group, 0): side for ring in rings})
    executor = stack.enter_context(open_executor(ExecutorOptions.of(context.settings), Progress(quiet=True)))
    arguments = (context.settings, context.arithmetic, str(folder), context.run_id, context.meta)
    role = Role("tests.helpers.slow_actors", "SlowReducer", calls=2)
    pool = stack.enter_context(Pool(executor, role, 10**6, *arguments))
    for tiles, _ in mutual.run(pool):
        yield tiles


def extracting(settings: Settings, stack: ExitStack, role: Role) -> Counts:
    """Extract the same images again and again; what is written is deleted at once."""
    executor = stack.enter_context(open_executor(ExecutorOptions.of(settings), Progress(quiet=True)))
    context = open_context(open_out(settings, executor))
    ((name, group),) = context.groups.items()
    images = [image for shard in group.all.values() for image in shard]
    tasks = [ShardTask(name, number, images[:SHARD]) for number in range(100_000)]
    kept, extraction.EXTRACTOR = extraction.EXTRACTOR, role
    stack.callback(setattr, extraction, "EXTRACTOR", kept)
    folder = Path(context.out_paths.features(context.meta.features_id, name))
    for shard in extraction.extract(context, executor, tasks):
        for path in folder.glob("shard-*.parquet"):
            path.unlink()
        yield shard.images


def job_settings(folder: Path, **given: Any) -> Settings:
    weights = str(write_tiny_weights(folder))
    fixed = {"backbone": "timm:vit_tiny_patch16_224", "weights": weights, "image_size": SIZE, "workers": WORKERS}
    return load_settings(None, {**fixed, "shard_size": SHARD, **given})


def local_images(folder: Path) -> Path:
    """Real images in a folder."""
    images = folder / "images"
    images.mkdir()
    for path in solar_cells(IMAGES):
        (images / path.name).write_bytes(path.read_bytes())
    return images


def decode_seconds() -> float:
    """What reading and decoding one image takes a thread here."""
    cells = solar_cells(IMAGES)
    started = time.perf_counter()
    for cell in cells:
        decode_image(cell.read_bytes(), (SIZE, SIZE), max_pixels=10**8)
    return (time.perf_counter() - started) / len(cells)


if __name__ == "__main__":
    main()
