"""`foreground: auto`: what it decides on each set, what it costs or gains in accuracy, and which products it saves.

    python tests/benchmarks/bench_foreground.py [--side 224] [--only SET ...] [--cache FOLDER]

DINOv2 ViT-S/14 with the constants of `method: tuned`; all patches and the foreground alone in the same run, in float32.
`planted` are good baked goods of `cookies` of which every other one gets a mark of 24 x 24 pixels on the border
of the part, half of it beside the part: the masks of `cookies` itself are white all over. `kept` is the share of the
defective pixels whose patch is kept, and that of the image with the least.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from method_study.choices import TUNED
from method_study.features import Variant
from method_study.image_sets import CONFIRMING, JUDGED, ImageSet, available
from method_study.scored import Scored, Study
from PIL import Image

from musc_ray import score_features
from musc_ray.core.foreground import find_foreground
from musc_ray.core.foreground_limits import SAMPLE_IMAGES
from musc_ray.core.kept_patches import Flags
from musc_ray.core.pixel_map import fill_unscored
from musc_ray.core.rscon import salient_layer

SEEDS = 3
"""Planted sets."""

MARK = 24
"""Pixels of the side of a planted mark."""

MIN_INSIDE = 0.9
"""Share of the way from the middle of an image to the border of the part that shows the part."""


def run_set(study: Study, images: ImageSet, side: int) -> None:
    """Print the table of a set."""
    scored = study.scored(images, Variant(TUNED.shape, side))
    scored.features.extract(TUNED.layers)
    tokens, grid = scored.features.tokens(salient_layer(TUNED.layers)), scored.features.grid
    chosen = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:SAMPLE_IMAGES]
    foreground, figures = find_foreground([tokens[chosen]], grid)
    print(f"\n## {images.name}, {len(images.paths)} images, {grid[0]} x {grid[1]} patches: {figures}", flush=True)
    if figures.objection is not None:
        print(f"all patches are kept, since {figures.objection}")
        return
    kept, lost = foreground.kept(tokens, grid)
    products = np.mean(np.outer(kept.mean(axis=1), kept.mean(axis=1)))
    print(f"{kept.mean():.1%} of patches kept, {products:.1%} of products; the part is lost in {lost.sum()} images")
    print(_defects_kept(images, kept.reshape(-1, *grid)))
    print("| foreground | image AUROC (raw) | image AP (raw) | pixel AP | AUPRO |")
    print("|---|---|---|---|---|", flush=True)
    for name, flags in (("none", None), ("auto", kept)):
        print(f"| {name} | {_row(scored, flags)} |", flush=True)


def _row(scored: Scored, kept: Flags | None) -> str:
    layers = [scored.features.tokens(layer) for layer in TUNED.layers]
    options = {"degrees": TUNED.degrees, "interval": TUNED.interval, "precision": "float32"}
    maps = score_features(layers, scored.features.grid, kept=kept, **options)
    maps = torch.from_numpy(fill_unscored(maps.numpy())).view(-1, *scored.features.grid)
    raw = scored.raw_scores(maps)
    auroc, ap, pixel_ap, aupro = scored.truth.figures(scored.rescored(raw, maps, TUNED), maps)
    raw_auroc, raw_ap = scored.truth.of_scores(raw)
    return f"{auroc:.2f} ({raw_auroc:.2f}) | {ap:.2f} ({raw_ap:.2f}) | {pixel_ap:.2f} | {aupro:.2f}"


def _defects_kept(images: ImageSet, kept: Flags) -> str:
    """Say which share of the pixels of masks lies in kept patches."""
    shares, pixels, held = [], 0, 0
    for flags, path in zip(kept, images.masks, strict=True):
        mask = np.zeros((1, 1), bool) if path is None else np.asarray(Image.open(path).convert("L")) >= 128
        if not mask.any() or mask.all():
            continue
        y, x = mask.nonzero()
        found = flags[y * flags.shape[0] // mask.shape[0], x * flags.shape[1] // mask.shape[1]]
        shares.append(float(found.mean()))
        pixels, held = pixels + len(found), held + int(found.sum())
    if not shares:
        return "no mask tells where defects are"
    return f"kept: {held / pixels:.2%} of the pixels of {len(shares)} defective images, {min(shares):.1%} in the worst"


def planted(images: ImageSet, folder: Path, seed: int) -> ImageSet:
    """Plant marks on the border of the part in every other good image of a set."""
    generator, paths, labels, masks = np.random.default_rng(seed), [], [], []
    for number, path in enumerate(path for path, label in zip(images.paths, images.labels, strict=True) if not label):
        pixels = np.asarray(Image.open(path).convert("RGB")).copy()
        mask = np.zeros(pixels.shape[:2], np.uint8)
        if number % 2:
            y, x = _border_place(pixels, generator)
            mask[y : y + MARK, x : x + MARK] = 255
            pixels[mask > 0] = generator.integers(0, 256, 3)
        paths.append(folder / f"{number:02d}.png")
        masks.append(folder / f"{number:02d}_mask.png" if number % 2 else None)
        labels.append(number % 2)
        Image.fromarray(pixels).save(paths[-1])
        if masks[-1] is not None:
            Image.fromarray(mask).save(masks[-1])
    return ImageSet(f"planted-{seed}", tuple(paths), np.array(labels), tuple(masks))


def _border_place(pixels: np.ndarray, generator: np.random.Generator) -> tuple[int, int]:
    """Find a corner of a mark whose middle lies on the border of the part, from the middle of the image outwards."""
    ground = np.median(np.concatenate([pixels[:8].reshape(-1, 3), pixels[-8:].reshape(-1, 3)]), axis=0)
    far = np.abs(pixels.astype(float) - ground).max(axis=2)
    is_part = far > far.max() / 3
    height, width = is_part.shape
    angle = generator.uniform(0, 2 * np.pi)
    steps = np.arange(min(height, width) // 2 - MARK)
    y = (height / 2 + steps * np.sin(angle)).astype(int)
    x = (width / 2 + steps * np.cos(angle)).astype(int)
    inside = is_part[y, x].cumsum() / (steps + 1)
    last = int((inside >= MIN_INSIDE).nonzero()[0].max(initial=0))  # crumbs further out do not count
    return int(y[last] - MARK // 2), int(x[last] - MARK // 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=224, help="side of the square with as many pixels")
    parser.add_argument("--only", nargs="+", default=[*JUDGED, *CONFIRMING, "planted"], help="sets")
    parser.add_argument("--cache", type=Path, help="folder of tokens")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        study = Study(arguments.cache or Path(folder))
        for images in available([name for name in arguments.only if name != "planted"]):
            run_set(study, images, arguments.side)
        if "planted" in arguments.only:
            for seed in range(SEEDS):
                place = Path(folder) / f"marks-{seed}"
                place.mkdir()
                run_set(study, planted(available(["cookies"])[0], place, seed), arguments.side)


if __name__ == "__main__":
    main()
