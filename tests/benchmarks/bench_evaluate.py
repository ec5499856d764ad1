"""Evaluating 10,000 generated maps with masks: seconds and peak memory of all processes.

python tests/benchmarks/bench_evaluate.py [IMAGES] [DEFECTS]
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from memory import PeakMemory

sys.path.insert(0, str(Path(__file__).parents[2]))

GRID, SIZE, MASK_SIDE, WORKERS = 37, 518, 900, 2


def generate(folder: Path, images: int, defects: int) -> None:
    """A run of smooth maps, 60 % of them good, with masks of one to three discs for the others."""
    from scipy import ndimage

    from tests.helpers.evaluated import Scored, write_image, write_run

    generator = np.random.default_rng(0)
    y, x = np.mgrid[:MASK_SIDE, :MASK_SIDE]
    scored, lines = [], ["uri,label,mask,defect"]
    for n in range(images):
        patch_map = 0.4 + 0.25 * ndimage.gaussian_filter(generator.standard_normal((GRID, GRID)), 1.5)
        mask, uri = "", f"file://{folder}/images/{n:06d}.png"
        if n % 5 < 2:
            found = np.zeros((MASK_SIDE, MASK_SIDE), bool)
            for _ in range(n % 3 + 1):
                centre, radius = generator.integers(40, MASK_SIDE - 40, 2), generator.integers(10, 60)
                found |= (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < radius**2
            mask = write_image(folder / "masks" / f"{n:06d}.png", found * 255)
            at_grid = ndimage.zoom(found.astype(np.float32), GRID / MASK_SIDE, order=1)
            patch_map += generator.uniform(0.0, 0.4) * at_grid
        scored.append(Scored(uri, "all", float(patch_map.max()), patch_map))
        lines.append(f"{uri},{int(bool(mask))},{mask},defect-{n % defects}")
    write_run(folder / "out", scored, (SIZE, SIZE), a_file=64)
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


def main() -> None:
    if sys.argv[1:2] == ["generate"]:  # in a process of its own, whose memory does not count
        generate(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
        return
    images, defects = (int(given) for given in (*sys.argv[1:], *("10000", "3")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([sys.executable, __file__, "generate", name, str(images), str(defects)], check=True)
        command = [
            sys.executable,
            "-m",
            "musc_ray.cli.app",
            "evaluate",
            folder / "out",
            "--labels",
            folder / "labels.csv",
        ]
        command += ["--workers", WORKERS]
        with PeakMemory() as memory:
            started = time.perf_counter()
            subprocess.run([*map(str, command)], check=True)
            seconds = time.perf_counter() - started
    from machine import describe_machine  # only now: it imports torch

    print(describe_machine())
    pixels = images * SIZE**2
    print(
        f"{images:,} maps of {SIZE} x {SIZE} pixels ({pixels / 1e9:.2f} billion), {defects} defects, "
        f"{WORKERS} workers: {seconds:.0f} s, "
        f"peak memory of all processes {memory.total / 1e9:.2f} GB"
    )
    print("largest of a process: " + ", ".join(f"{name} {peak / 1e9:.2f} GB" for name, peak in memory.peaks.items()))


if __name__ == "__main__":
    main()
