"""A defect that many images share: what it costs, and what `repeated_defects` makes up for.

    python tests/benchmarks/bench_repeats.py [tiles|cells] [DEFECT] [SHARE ...]

Cuts one real defect out of the magnetic tiles (MVTec AD's layout in ../shared/data/magnetic_tile) with its mask and
blends it into a share of good images, a few pixels to and fro and a little lighter or darker: 60 good tiles, or 90 good
solar cells (ELPV). Whole runs, DINOv2 ViT-S/14 at 224 px, `auto`; image AUROC of `score_raw` and pixel AP of the maps
at the model's size, without and with the cure. `none` is the set as it is with its own defects: all 110 tiles, or 160
cells of which 40 are defective.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
import torch
from machine import describe_machine
from PIL import Image
from scipy import ndimage

from musc_ray.core.metrics.image import average_precision, image_auroc
from musc_ray.core.pixel_map import pixel_map
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import mono_cells
from musc_ray.pipeline import run_archive
from musc_ray.runtime.cluster import ray_cluster
from musc_ray.runtime.options import ExecutorOptions
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings

SIDE, SEED, JITTER = 224, 0, 6
SHARES = (0.05, 0.1, 0.2, 0.4)
TILES = Path(__file__).parents[3] / "shared" / "data" / "magnetic_tile"
DEFECTS = {
    "blowhole": "blowhole/exp5_num_36269",
    "crack": "crack/exp5_num_32201",
    "fray": "fray/exp5_num_135651",
}
Set = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Pictures (N, SIDE, SIDE, 3) uint8, labels (N,), masks (N, SIDE, SIDE)."""


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)


def mask_of(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR)) > 127


def cells(good: int, bad: int) -> list[tuple[Path, int]]:
    """A seeded sample of solar cells and their labels."""
    generator = np.random.default_rng(SEED)
    every = mono_cells(None)
    found = []
    for label, count in ((0, good), (1, bad)):
        of_label = [cell.path for cell in every if cell.label == label]
        found += [(of_label[place], label) for place in generator.permutation(len(of_label))[:count]]
    return found


def as_it_is(name: str) -> Set:
    """The set with its own defects."""
    if name == "cells":
        found = cells(120, 40)
        labels = np.array([label for _, label in found])
        return np.stack([picture(path) for path, _ in found]), labels, np.zeros((len(found), SIDE, SIDE), bool)
    paths = sorted(TILES.glob("test/*/*"))
    masks = [TILES / "ground_truth" / path.parent.name / f"{path.stem}_mask.png" for path in paths]
    return (
        np.stack([picture(path) for path in paths]),
        np.array([int(path.parent.name != "good") for path in paths]),
        np.stack([mask_of(mask) if mask.exists() else np.zeros((SIDE, SIDE), bool) for mask in masks]),
    )


def cut(name: str) -> tuple[np.ndarray, np.ndarray]:
    """The largest region of a defect, as a difference from the tile around it, and its mask."""
    image, mask = picture(next(TILES.glob(f"test/{name}.*"))), mask_of(TILES / "ground_truth" / f"{name}_mask.png")
    regions, _ = ndimage.label(mask)
    region = regions == 1 + np.argmax(np.bincount(regions.ravel())[1:])
    around = ndimage.binary_dilation(region, iterations=4) & ~region
    rows, columns = ndimage.find_objects(ndimage.binary_dilation(region, iterations=4).astype(int))[0]
    return (image - np.median(image[around], axis=0))[rows, columns], region[rows, columns]


def planted(name: str, defect: str, share: float) -> Set:
    """Good images, a share of them with the defect; a larger share has the smaller one's, and others."""
    paths = sorted(TILES.glob("test/good/*")) if name == "tiles" else [path for path, _ in cells(90, 0)]
    images = np.stack([picture(path) for path in paths])
    difference, shape = cut(DEFECTS[defect])
    generator = np.random.default_rng(SEED)
    order, place = generator.permutation(len(images)), generator.integers(40, 150, 2)
    labels, masks = np.zeros(len(images), int), np.zeros((len(images), SIDE, SIDE), bool)
    blend = ndimage.gaussian_filter(ndimage.binary_dilation(shape).astype(np.float32), 1.0)[..., None]
    for number in order[: round(share * len(images))]:
        top, left = np.clip(place + generator.integers(-JITTER, JITTER + 1, 2), 0, SIDE - np.array(shape.shape))
        window = np.s_[top : top + shape.shape[0], left : left + shape.shape[1]]
        below = images[number][window]
        level = np.median(below.reshape(-1, 3), axis=0)
        mixed = below * (1 - blend) + blend * (level + generator.uniform(0.9, 1.1) * difference)
        images[number][window] = np.clip(mixed, 0, 255)
        labels[number] = 1
        masks[number][window] = shape
    return images, labels, masks


def scored(folder: Path, weights: Path, images: Set, cure: bool) -> tuple[float, float, str]:
    """Image AUROC, pixel AP, and what was found: images of each group, of them defective."""
    pictures, labels, masks = images
    source = folder / "images"
    source.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(pictures):
        path = source / f"{number:04d}.png"
        if not path.exists():
            Image.fromarray(image.round().astype(np.uint8)).save(path)
    given = {"source": str(source), "out": str(folder / "out"), "weights": str(weights), "image_size": SIDE}
    given |= {"method": "paper", "backbone": "dinov2-vit-s-14", "repeated_defects": cure}
    given |= {"report_images": 0, "report_thumbnails": 0}
    result = run_archive(load_settings(None, given), Progress(quiet=True))
    columns = ["uri", "score_raw", "patch_map", "grid_h", "grid_w", "defect_group"]
    rows = ds.dataset(result.scores_path).to_table(columns=columns).sort_by("uri").to_pylist()
    auroc = image_auroc(labels, np.array([row["score_raw"] for row in rows]))
    maps = torch.tensor([row["patch_map"] for row in rows]).view(-1, rows[0]["grid_h"], rows[0]["grid_w"])
    pixels = pixel_map(maps, (SIDE, SIDE)).numpy()
    precision = average_precision(masks.ravel().astype(int), pixels.ravel()) if masks.any() else float("nan")
    groups = np.array([row["defect_group"] or 0 for row in rows])
    found = [f"{(groups == g).sum()} ({labels[groups == g].sum()})" for g in range(1, groups.max() + 1)]
    return auroc, precision, ", ".join(found)


def main() -> None:
    name, defect = (
        (sys.argv[1:3] + ["tiles", "crack"][len(sys.argv[1:3]) :]) if len(sys.argv) > 1 else ("tiles", "crack")
    )
    shares = [float(text) for text in sys.argv[3:]] or [0.0, *SHARES]
    print(describe_machine())
    print(f"{name}, {defect}: image AUROC, pixel AP")
    print(f"{'share':>6} {'without':>14} {'with':>14}   images with a repeated defect (of them defective), by group")
    with tempfile.TemporaryDirectory() as folder, ray_cluster(ExecutorOptions.of(load_settings(None, {"workers": 2}))):
        weights = write_dinov2_weights(Path(folder) / "dinov2_vit_s_14.safetensors")
        for share in shares:
            images = planted(name, defect, share) if share else as_it_is(name)
            of_share = Path(folder) / f"{share}"
            without, cured = (scored(of_share, weights, images, cure) for cure in (False, True))
            figures = "   ".join(f"{auroc:.3f}, {precision:.3f}" for auroc, precision, _ in (without, cured))
            print(f"{share or 'none':>6}   {figures}   {cured[2]}", flush=True)


if __name__ == "__main__":
    main()
