"""The report of a large run: time, peak memory, bytes, files and the largest page.

python tests/benchmarks/bench_report.py [IMAGES]

Scores, patch maps and neighbours are generated, and so are the pictures: JPEGs of 320 x 240 pixels, of which LOOKS are
different ones behind many names. Each is read, decoded and brought to size by itself.
"""

import io
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
from memory import PeakMemory
from PIL import Image

from musc_ray.report.build import write_report
from musc_ray.runtime.executor import open_executor
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from musc_ray.storage.paths import OutPaths
from tests.helpers.scored_run import RUN, write_run

LOOKS = 50


def write_pictures(folder: Path, images: int) -> list[str]:
    """Hard links to LOOKS different JPEGs; returns the URIs."""
    chance, looks = np.random.default_rng(0), []
    folder.mkdir()
    for _ in range(LOOKS):
        coarse = Image.fromarray(chance.integers(60, 200, (12, 16, 3), dtype=np.uint8)).resize((320, 240))
        noise = chance.integers(-12, 12, (240, 320, 3))
        buffer = io.BytesIO()
        Image.fromarray(np.clip(np.asarray(coarse) + noise, 0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=85)
        looks.append(folder / f"look-{len(looks)}.jpg")
        looks[-1].write_bytes(buffer.getvalue())
    uris = []
    for number in range(images):
        path = folder / f"line-{number % 4}" / f"{number // 4000:03d}" / f"part-{number:07d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.hardlink_to(looks[number % LOOKS])
        uris.append(str(path))
    return uris


def main() -> None:
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        out_paths = OutPaths.at(f"{name}/out")
        run = write_run(out_paths, {"all": write_pictures(folder / "pictures", images)})
        settings = load_settings()
        with PeakMemory() as memory, open_executor(ExecutorOptions.of(settings), Progress()) as executor:
            before = psutil.Process().memory_info().rss
            started = time.perf_counter()
            write_report(out_paths, run, executor, settings, Progress())
            seconds = time.perf_counter() - started
        files = [path for path in Path(out_paths.run(RUN).report).rglob("*") if path.is_file()]
        sizes = {str(path.relative_to(out_paths.run(RUN).report)): path.stat().st_size for path in files}
    from machine import describe_machine  # only now: it imports torch, which is not needed before

    kinds: Counter[str] = Counter()
    for path, size in sizes.items():
        kinds[Path(path).name.split("-")[0] if "/group-" in path else "pages, style, scripts, lists"] += size
    pages = {path: size for path, size in sizes.items() if path.endswith(".html")}
    largest = max(sizes, key=lambda path: sizes[path])
    print(describe_machine())
    print(
        f"{images:,} images: {seconds:.0f} s, {images / seconds:.0f} images/s; peak memory "
        + ", ".join(f"{kind} {peak / 1e9:.2f} GB" for kind, peak in sorted(memory.peaks.items()))
        + f", all processes {memory.total / 1e9:.2f} GB; this process before the start {before / 1e9:.2f} GB"
    )
    print(
        f"{len(files):,} files, {sum(sizes.values()) / 1e6:.0f} MB ("
        + ", ".join(f"{kind} {size / 1e6:.1f}" for kind, size in kinds.most_common())
        + f"); largest page {max(pages.values()) / 1e3:.1f} kB, largest file {largest} {sizes[largest] / 1e3:.0f} kB"
    )


if __name__ == "__main__":
    main()
