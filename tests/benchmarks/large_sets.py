"""Generated sets of large images with small defects, in MVTec AD's folder layout, made from a seed."""

import random
from pathlib import Path

import numpy as np
import numpy.typing as npt
from method_study.image_sets import DATA
from PIL import Image
from scipy.ndimage import binary_dilation, gaussian_filter, label

TILES = DATA / "magnetic_tile"
TILE = 200, 250
"""Height and width of a tile of a mosaic."""

MIN_CONTRAST = 25
"""Least mean difference of a planted defect from its surroundings, in grey levels."""

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


def write_mosaics(folder: Path, images: int = 100, defective: int = 10, seed: int = 3, kinds: int = 12) -> Path:
    """Write mosaics of 3000 x 2000 pixels of good magnetic tiles, some with one real defect of 15 to 40 pixels.

    Which tile lies where, and whether it is mirrored, is random; all tiles have the same median. They are those of the
    least stained tiles. With all 42 kinds a stain at an edge of the image is rarer than the 30 % of images that a patch
    score averages, and as anomalous as a defect: image AUROC of crops was then 0.44 to 0.66, of whole images 0.39.
    """
    rng, defects = random.Random(seed), _defects()
    tiles = [tile for path in sorted((TILES / "test/good").iterdir()) if (tile := _tile(path)) is not None]
    tiles = sorted(tiles, key=_stains)[:kinds]
    for number in range(images):
        mosaic = np.block([[_mirrored(rng, rng.choice(tiles)) for _ in range(12)] for _ in range(10)])
        mask = _plant(mosaic, rng, defects) if number < defective else None
        _save(folder, number, mosaic, mask)
    return folder


def write_rough(folder: Path, images: int = 40, defective: int = 10, seed: int = 1, contrast: float = 20) -> Path:
    """Write images of 1500 x 1000 pixels of one rough texture, some with a dark scratch of 12 to 18 x 5 pixels.

    Images are aligned but for 2 pixels, and each has noise of its own.
    """
    noise, (height, width) = np.random.default_rng(seed), (1000, 1500)
    texture = _grain(noise, (height, width), ((1.5, 10), (6, 14), (30, 40)))
    for number in range(images):
        own = _grain(noise, (height, width), ((1.0, 8), (2.5, 9)))
        image = 120 + np.roll(texture, noise.integers(-2, 3, 2), (0, 1)) + own
        mask = None
        if number < defective:
            length, angle = int(noise.integers(12, 19)), noise.uniform(0, np.pi)
            y, x = np.mgrid[:height, :width] - np.array(
                [noise.integers(60, height - 60), noise.integers(60, width - 60)]
            ).reshape(2, 1, 1)
            along, beside = x * np.cos(angle) + y * np.sin(angle), -x * np.sin(angle) + y * np.cos(angle)
            mask = (np.abs(along) <= length / 2) & (np.abs(beside) <= 2.5)
            image -= contrast * gaussian_filter(mask.astype(float), 0.8)
        _save(folder, number, image, mask)
    return folder


def _grain(noise: np.random.Generator, shape: tuple[int, int], scales: tuple[tuple[float, float], ...]) -> Pixels:
    """Add up noise of several scales (standard deviation of the blur, weight)."""
    return sum(gaussian_filter(noise.standard_normal(shape), blur) * blur * weight for blur, weight in scales)


def _tile(path: Path) -> Pixels | None:
    """Cut the middle of a good tile; None of one that is too small."""
    pixels = np.asarray(Image.open(path).convert("L"), np.float32)
    (height, width), (h, w) = pixels.shape, TILE
    if height < h + 10 or width < w:
        return None
    top, left = (height - h) // 2, (width - w) // 2
    cut = pixels[top : top + h, left : left + w]
    return cut - np.median(cut) + 110


def _stains(tile: Pixels) -> float:
    """Return how strongly a tile is stained: the largest departure from its surroundings at the scale of a stain."""
    return float(np.abs(gaussian_filter(tile, 4) - gaussian_filter(tile, 16))[16:-16, 16:-16].max())


def _mirrored(rng: random.Random, tile: Pixels) -> Pixels:
    return tile[:, ::-1] if rng.random() < 0.5 else tile


def _defects() -> list[tuple[Pixels, Mask]]:
    """Cut the real defects of 15 to 40 pixels: their difference from the pixels around them, and their mask."""
    found = []
    for path in sorted((TILES / "ground_truth").glob("*/*")):
        if path.parent.name == "uneven":
            continue
        (image,) = (TILES / "test" / path.parent.name).glob(f"{path.stem.removesuffix('_mask')}.*")
        pixels = np.asarray(Image.open(image).convert("L"), np.float32)
        regions, count = label(np.asarray(Image.open(path)) > 127, np.ones((3, 3)))
        for region in (regions == number for number in range(1, count + 1)):
            ys, xs = np.where(region)
            if region.sum() < 60 or not 15 <= max(np.ptp(ys), np.ptp(xs)) + 1 <= 40:
                continue
            window = slice(max(0, ys.min() - 8), ys.max() + 9), slice(max(0, xs.min() - 8), xs.max() + 9)
            mask = region[window]
            around = binary_dilation(mask, iterations=6) & ~binary_dilation(mask, iterations=2)
            difference = pixels[window] - np.median(pixels[window][around])
            if np.abs(difference[mask]).mean() >= MIN_CONTRAST:
                found.append((difference, mask))
    return found


def _plant(image: Pixels, rng: random.Random, defects: list[tuple[Pixels, Mask]]) -> Mask:
    """Add a defect to an image at a random place, turned by a random right angle; returns its mask."""
    difference, mask = (np.rot90(part, turns) for turns in [rng.randrange(4)] for part in rng.choice(defects))
    (height, width), (h, w) = image.shape, mask.shape
    top, left = rng.randrange(20, height - h - 20), rng.randrange(20, width - w - 20)
    window = slice(top, top + h), slice(left, left + w)
    image[window] += difference * gaussian_filter(binary_dilation(mask, iterations=2).astype(float), 1.0)
    whole = np.zeros(image.shape, bool)
    whole[window] = mask
    return whole


def _save(folder: Path, number: int, image: npt.NDArray[np.floating], mask: Mask | None) -> None:
    kind = "good" if mask is None else "defect"
    path = folder / "test" / kind / f"{number:03d}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(path, compress_level=1)
    if mask is not None:
        of_mask = folder / "ground_truth" / kind / f"{number:03d}_mask.png"
        of_mask.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((mask * 255).astype(np.uint8)).save(of_mask)
