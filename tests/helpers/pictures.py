"""Real pictures in many sizes, modes and formats, and files that are none."""

import random
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

FORMATS = (".png", ".jpg", ".bmp", ".tif", ".webp", ".jpeg")
SIZES = ((300, 300), (120, 200), (333, 90), (64, 64), (257, 301), (40, 500))


def solar_cells(count: int, seed: int = 0) -> list[Path]:
    """So many of the ELPV pictures, the same ones for a seed."""
    spec = find_spec("elpv_dataset")
    assert spec is not None, "elpv-dataset comes with the test extra"
    folder = Path(spec.submodule_search_locations[0]) / "data" / "images"
    return random.Random(seed).sample(sorted(folder.glob("*.png")), count)


def write_pictures(folder: Path, count: int, seed: int = 0) -> list[Path]:
    """Real pictures of many sizes, formats and modes, in two subfolders."""
    paths = []
    for number, source in enumerate(solar_cells(count, seed)):
        picture = Image.open(source).resize(SIZES[number % len(SIZES)])
        if number % 3 == 0:
            picture = picture.convert("RGB")
        path = folder / f"line {number % 2}" / f"cell {number:02d}{FORMATS[number % len(FORMATS)]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)
        paths.append(path)
    return paths


def write_odd_pictures(folder: Path) -> list[Path]:
    """Pictures in every mode that a plant has; all are good."""
    folder.mkdir(parents=True, exist_ok=True)
    grey = Image.open(solar_cells(1)[0]).convert("L")
    deep = np.asarray(grey).astype(np.uint16) * 257
    alpha = grey.copy()
    alpha.putalpha(Image.linear_gradient("L").resize(grey.size))
    upright = Image.Exif()
    upright[0x0112] = 6
    frames = [grey.rotate(angle) for angle in (0, 90)]
    pictures = {
        "cmyk.jpg": (grey.convert("CMYK"), {}),
        "deep.png": (Image.fromarray(deep), {}),
        "deep.tif": (Image.fromarray(deep), {}),
        "float.tif": (Image.fromarray(np.asarray(grey, np.float32) / 255), {}),
        "palette.png": (grey.convert("P"), {}),
        "transparent.png": (grey.convert("P"), {"transparency": 0}),
        "alpha.png": (alpha, {}),
        "rgba.webp": (alpha.convert("RGBA"), {}),
        "one bit.png": (grey.convert("1"), {}),
        "turned.jpg": (grey, {"exif": upright}),
        "frames.gif": (frames[0], {"save_all": True, "append_images": frames[1:]}),
        'a "quoted" name \N{SNOWMAN}.png': (grey, {}),
    }
    for name, (picture, options) in pictures.items():
        picture.save(folder / name, **options)
    return sorted(folder / name for name in pictures)


def write_broken_pictures(folder: Path) -> list[Path]:
    """Files that no one can decode."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = folder / "whole.jpg"
    Image.open(solar_cells(1)[0]).save(whole)
    (folder / "truncated.jpg").write_bytes(whole.read_bytes()[:2000])
    whole.unlink()
    (folder / "text.png").write_text("This is not a picture.")
    (folder / "empty.bmp").write_bytes(b"")
    return sorted(folder.iterdir())
