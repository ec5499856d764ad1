"""Large images with crops: memory of all processes, and the rate of `extract` beside decoding and the model alone.

    python tests/benchmarks/bench_large.py [--images 200] [--quick] [--format jpeg|tiff|tiff16] [--megapixels 50]
        [--crops size=1500] [--weights FILE]

Generated images, of which a few differ (a camera's noise on a bright part), and DINOv2 ViT-S/14 at 224 px. The
baseline decodes with Pillow in as many threads, cuts and resizes, and runs the model in the same batches; it stores
nothing. Both are whole processes, one after the other; CPU seconds say the same on a machine that others use, too.
`--quick` has 12 images.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from memory import PeakMemory
from PIL import Image

ROOT = Path(__file__).parents[2]
DISTINCT = 4
BACKBONE, SIDE, BATCH, AHEAD = "dinov2-vit-s-14", 224, 8, 3
LIMIT_BYTES, MIN_SHARE = 4e9, 0.8


def write_images(folder: Path, count: int, megapixels: float, kind: str) -> None:
    """Write images of 3 : 2; copies have files of their own, so that none is a second name."""
    height = round((megapixels * 1e6 / 1.5) ** 0.5)
    width = round(1.5 * height)
    generator = np.random.default_rng(0)
    coarse = generator.integers(60, 190, (height // 40, width // 40, 3)).astype(np.uint8)
    base = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    noise = generator.integers(-12, 13, (height, width, 1)).astype(np.int16)
    folder.mkdir(parents=True)
    made: list[Path] = []
    for number in range(count):
        path = folder / f"{number:04d}.{'jpg' if kind == 'jpeg' else 'tif'}"
        if number >= DISTINCT:
            shutil.copyfile(made[number % DISTINCT], path)
            continue
        rolled = np.roll(base, 977 * number, axis=1) + np.roll(noise, 311 * number, axis=0)
        pixels = rolled.clip(0, 255).astype(np.uint8)
        made.append(path)
        if kind == "jpeg":
            Image.fromarray(pixels).save(path, quality=92)
            continue
        import tifffile

        values = pixels if kind == "tiff" else pixels[..., 0].astype(np.uint16) * 16
        tifffile.imwrite(path, values, rowsperstrip=64, compression="zlib", predictor=True)


def bare(folder: Path, weights: str, features: Path) -> None:
    """Decode and embed all images, with the crops that the product has chosen, and store nothing."""
    import torch

    from musc_ray.backbones import load_backbone
    from musc_ray.backbones.names import resolve_backbone
    from musc_ray.backbones.weights import fetch_weights
    from musc_ray.core.crops import CropLayout
    from musc_ray.settings.loading import load_settings

    found = json.loads(next(features.rglob("_image_size.json")).read_text())
    whole, crop = tuple(found["image_size"]), tuple(found["crops"].pop("image_size"))
    layout = CropLayout(**found["crops"])
    layers = (6, 7, 8, 9)  # of `tuned`
    settings = load_settings(None, {"backbone": BACKBONE})
    backbone = load_backbone(
        BACKBONE,
        image_size=crop,
        layers=layers,
        weights=fetch_weights(resolve_backbone(BACKBONE), weights),
        precision="bfloat16" if "avx512_bf16" in Path("/proc/cpuinfo").read_text() else "float32",
    )
    assert settings.batch_size == BATCH

    def decode(path: Path) -> tuple[np.ndarray, list[np.ndarray]]:
        with Image.open(path) as opened:
            if opened.mode == "I;16":
                opened = Image.fromarray((np.asarray(opened) // 16).astype(np.uint8))
            picture = opened.convert("RGB")
        cut = [
            np.asarray(picture.crop((left, top, right, bottom)).resize(crop[::-1], Image.Resampling.BICUBIC))
            for top, left, bottom, right in layout.boxes(picture.height, picture.width)
        ]
        return np.asarray(picture.resize(whole[::-1], Image.Resampling.BICUBIC)), cut

    def decoded(paths: list[Path]) -> Iterator[tuple[np.ndarray, list[np.ndarray]]]:
        threads = max(2, len(os.sched_getaffinity(0)))
        with ThreadPoolExecutor(threads) as pool:
            pending = [pool.submit(decode, path) for path in paths[:AHEAD]]
            for number in range(len(paths)):
                pending += [pool.submit(decode, path) for path in paths[number + AHEAD : number + AHEAD + 1]]
                yield pending.pop(0).result()

    wholes, waiting = [], []
    for picture, cut in decoded(sorted(folder.iterdir())):
        wholes.append(picture)
        waiting += cut
        while len(waiting) >= BATCH:
            backbone.forward(torch.from_numpy(np.stack(waiting[:BATCH])))
            del waiting[:BATCH]
    if waiting:
        backbone.forward(torch.from_numpy(np.stack(waiting)))
    backbone.resize(whole)
    for start in range(0, len(wholes), BATCH):
        backbone.forward(torch.from_numpy(np.stack(wholes[start : start + BATCH])))


class Measured(NamedTuple):
    """A command: seconds, those of CPUs, and peak memory in bytes: of its largest process, and of all (sampled)."""

    seconds: float
    cpu: float
    largest: int
    total: int


def measured(command: list[object]) -> Measured:
    """Run a command."""
    started = time.monotonic()
    with PeakMemory() as memory:
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{command} failed.")
    seconds = time.monotonic() - started
    return Measured(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, memory.total)


def main() -> None:
    """Measure both; fail where a limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--format", choices=("jpeg", "tiff", "tiff16"), default="jpeg")
    parser.add_argument("--megapixels", type=float, default=50)
    parser.add_argument("--crops", default="size=1500")
    parser.add_argument("--weights", help="of DINOv2 ViT-S/14; by default those of the demo")
    parser.add_argument("--write", metavar="FOLDER", help=argparse.SUPPRESS)
    parser.add_argument("--bare", nargs=2, metavar=("FOLDER", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.write:
        write_images(Path(given.write), given.images, given.megapixels, given.format)
        return
    if given.bare:
        bare(Path(given.bare[0]), given.weights, Path(given.bare[1]))
        return
    count = 12 if given.quick else given.images
    with tempfile.TemporaryDirectory() as name:
        folder, weights = Path(name), given.weights
        if weights is None:
            from musc_ray.demo.dinov2_onnx import write_dinov2_weights

            weights = write_dinov2_weights(folder / "dinov2_vit_s_14.safetensors")
        # in a process of its own: those that follow start as copies of this one
        measured([__file__, *sys.argv[1:], "--images", count, "--write", folder / "images"])
        size = sum(path.stat().st_size for path in (folder / "images").iterdir()) / count
        print(
            f"{count} images of {given.megapixels:g} megapixels, {given.format}, {size / 1e6:.1f} MB each", flush=True
        )
        command: list[object] = ["-m", "musc_ray.cli", "extract", folder / "images", folder / "out"]
        command += ["--backbone", BACKBONE, "--weights", weights, "--image-size", SIDE, "--crops", given.crops]
        command += ["--set", f"max_pixels={round(2e6 * given.megapixels)}", "--set", "intensity=0,4095"]
        extract = measured(command)
        alone = measured([__file__, "--weights", weights, "--bare", folder / "images", folder / "out"])
    share = alone.seconds / extract.seconds
    for name, found in (("extract", extract), ("decoding and model alone", alone)):
        print(f"{name}: {found.seconds:.1f} s, {count / found.seconds:.2f} images/s, {found.cpu:.1f} s of CPUs")
    print(f"rate relative to them {share:.2f}, by CPU seconds {alone.cpu / extract.cpu:.2f}")
    peak = max(extract.largest, extract.total)
    print(f"peak memory: {extract.largest / 1e9:.2f} GB of the largest process, {extract.total / 1e9:.2f} GB of all")
    if share < MIN_SHARE or peak > LIMIT_BYTES:
        sys.exit(f"A limit is not kept: at least {MIN_SHARE} of the rate, at most {LIMIT_BYTES / 1e9:g} GB.")


if __name__ == "__main__":
    main()
