"""12-bit images in 16-bit files against their 8-bit originals: image AUROC. Decoding of plain files against Pillow.

    python tests/benchmarks/bench_intensity.py [MAGNETIC_TILE]

DINOv2 ViT-S/14 at 224 px on the magnetic tiles of a folder in MVTec AD's layout: as they are, with values * 16 and
with values * 4095 / 255 in 16-bit TIFF files; the last two again with `--intensity full`, which is how they were read
before the depth was looked for. AUROC raw is of scores before RsCIN.
"""

import io
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.dataset as ds
from machine import describe_machine
from PIL import Image, ImageOps

from musc_ray.core.metrics.image import image_auroc
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.pipeline import run_archive
from musc_ray.runtime.progress import Progress
from musc_ray.settings.loading import load_settings
from musc_ray.sources.decoding import decode_image

TILES = Path(__file__).parents[3] / "shared" / "data" / "magnetic_tile"
SCALES = {"8-bit": None, "12-bit, * 16": 16.0, "12-bit, * 4095 / 255": 4095 / 255}
ROUNDS = 15
MODEL_INPUT = (224, 224)


def write_copies(tiles: Path, folder: Path, scale: float | None) -> None:
    """Write the images, without masks, in folders of the same names."""
    for path in sorted((tiles / "test").glob("*/*")):
        values, target = np.asarray(Image.open(path).convert("L")), folder / path.parent.name / f"{path.stem}.tif"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(values if scale is None else np.rint(values * scale).astype(np.uint16)).save(target)


def aurocs(source: Path, out: Path, weights: Path, intensity: str) -> tuple[float, float, str]:
    """Score images; their label is the name of their folder. Returns AUROC raw and after RsCIN, and the first note."""
    given = {"source": str(source), "out": str(out), "weights": str(weights), "backbone": "dinov2-vit-s-14"}
    given |= {"method": "paper", "image_size": 224, "report_images": 0, "report_thumbnails": 0, "intensity": intensity}
    result = run_archive(load_settings(None, given), Progress(quiet=True))
    table = ds.dataset(result.scores_path).to_table(columns=["uri", "score_raw", "score"])
    labels = [int(Path(uri).parent.name != "good") for uri in table["uri"].to_pylist()]
    raw, final = (image_auroc(labels, table[name].to_numpy()) for name in ("score_raw", "score"))
    return raw, final, " ".join(note for note in result.run.notes if "intensity" in note)


def with_pillow(data: bytes) -> np.ndarray:
    """Decode as a program would that knows of no profiles, depths or alpha."""
    picture = Image.open(io.BytesIO(data))
    picture.seek(0)
    picture = ImageOps.exif_transpose(picture).convert("RGB")
    return np.asarray(picture.resize(MODEL_INPUT[::-1], Image.Resampling.BICUBIC))


def decoding_ratio(tiles: Path, kind: str) -> tuple[float, float]:
    """Return milliseconds of Pillow alone for an image, and how many times as long it takes here; best of rounds."""
    files = []
    for path in sorted((tiles / "test").glob("*/*"))[:24]:
        buffer = io.BytesIO()
        Image.open(path).convert("RGB").resize((640, 480)).save(buffer, kind)
        files.append(buffer.getvalue())
    ways: list[Callable[[bytes], object]] = [with_pillow, lambda data: decode_image(data, MODEL_INPUT)]
    seconds = [float("inf")] * len(ways)
    for _ in range(ROUNDS):
        for number, way in enumerate(ways):
            started = time.process_time()
            for data in files:
                way(data)
            seconds[number] = min(seconds[number], time.process_time() - started)
    return 1000 * seconds[0] / len(files), seconds[1] / seconds[0]


def main() -> None:
    tiles = Path(sys.argv[1]) if len(sys.argv) > 1 else TILES
    print(describe_machine())
    for kind in ("JPEG", "PNG"):
        alone, ratio = decoding_ratio(tiles, kind)
        print(f"{kind} of 640 x 480 px: {alone:.2f} ms with Pillow alone, {ratio:.3f} times that here")
    print(f"{'':24}{'intensity':>10}{'AUROC raw':>11}{'AUROC':>8}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = write_dinov2_weights(folder / "weights.safetensors")
        for number, (what, scale) in enumerate(SCALES.items()):
            write_copies(tiles, folder / f"images-{number}", scale)
            for intensity in ("auto", "full") if scale else ("auto",):
                raw, final, note = aurocs(folder / f"images-{number}", folder / f"out-{number}", weights, intensity)
                print(f"{what:24}{intensity:>10}{raw:11.4f}{final:8.4f}  {note}", flush=True)


if __name__ == "__main__":
    main()
