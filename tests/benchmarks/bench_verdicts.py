"""What one verdict does: a false alarm is marked good, and the images with the same harmless mark are scored again.

    python tests/benchmarks/bench_verdicts.py [SET ...] [--seeds N] [--cache FOLDER]

Good images of a set and a few defective ones; a sticker is planted at random places in 5 % of the good ones. They are
scored, the most anomalous one with a sticker is marked good, and `rescore --verdicts` scores the group again. Printed,
for each seed: images with a sticker, how many of them are at or above the suggested threshold before and after (the one
that was marked left out), their median rank before and after, by how many places a real defect falls at most (among the
images of both runs), and how many defects are above the threshold before and after. DINOv2 ViT-S/14 at 224 px, method
tuned.
"""

import argparse
import random
import shutil
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from machine import describe_machine
from method_study.image_sets import ImageSet, available
from PIL import Image, ImageDraw

from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.nightly.judged import rescore_judged
from musc_ray.pipeline import run_archive
from musc_ray.runtime.progress import Progress
from musc_ray.scoring.result import RunResult
from musc_ray.settings.loading import load_settings
from musc_ray.settings.model import Settings
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.scores import read_scores
from musc_ray.storage.verdicts import Verdict, add_verdicts

SETS = ("cells", "magnetic_tile", "kolektor_sdd", "cookies")
MARKED, DEFECTIVE = 0.05, 0.1
"""Shares of the good images that get a sticker, and of defective images."""

STICKER = 0.06
"""Side of a sticker, as a share of the shorter side of its image."""

Scores = dict[str, tuple[float, float]]
"""Score and raw score by name of the image, which begins with `good`, `sticker` or `defect`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", nargs="*", metavar="SET", choices=[[], *SETS], help=", ".join(SETS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--cache", type=Path, help="folder of images and runs; default: temporary")
    arguments = parser.parse_args()
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        cache = arguments.cache or Path(folder)
        cache.mkdir(parents=True, exist_ok=True)
        for images in available(arguments.sets or SETS):
            for seed in range(arguments.seeds):
                measure(images, seed, cache)


def measure(images: ImageSet, seed: int, cache: Path) -> None:
    """Score a set, mark one image, score again, print the figures."""
    folder = cache / f"{images.name}-{seed}"
    shutil.rmtree(folder, ignore_errors=True)
    count = write_images(images, seed, folder / "images")
    settings = settings_of(cache, folder)
    first = run_archive(settings, Progress(quiet=True))
    before, threshold = scores_of(settings, first)
    marked = max((name for name in before if name.startswith("sticker")), key=before.__getitem__)
    verdict_of(settings, first, marked)
    (second,) = rescore_judged(settings, Progress(quiet=True))
    after, threshold_after = scores_of(settings, second)
    del before[marked]
    stickers, defects = ([name for name in after if name.startswith(kind)] for kind in ("sticker", "defect"))
    ranks, ranks_after = ranks_of(before), ranks_of(after)
    raw, raw_after = ({name: row[1] for name, row in scores.items()} for scores in (before, after))
    fall, raw_fall = (
        max(later[name] - sooner[name] for name in defects)
        for sooner, later in ((ranks, ranks_after), (ranks_of_values(raw), ranks_of_values(raw_after)))
    )
    above = [
        [sum(scores[n][0] >= limit for n in names) for names in (stickers, defects)]
        for scores, limit in ((before, threshold), (after, threshold_after))
    ]
    median, median_after = (int(np.median([r[name] for name in stickers])) for r in (ranks, ranks_after))
    print(
        f"{images.name:14} seed {seed}: {count} images; {len(stickers)} more with a sticker, at or above the threshold "
        f"{above[0][0]} -> {above[1][0]}, median rank {median} -> {median_after}; {len(defects)} defects, above "
        f"{above[0][1]} -> {above[1][1]}, largest fall {fall} places (raw scores: {raw_fall})",
        flush=True,
    )


def write_images(images: ImageSet, seed: int, folder: Path) -> int:
    """Write the good images of a set, some with a sticker, and some of its defective ones; returns their number."""
    chance = random.Random(seed)
    good, defective = ([int(i) for i in np.flatnonzero(images.labels == label)] for label in (0, 1))
    marked = set(chance.sample(good, max(5, round(MARKED * len(good)))))
    chosen = chance.sample(defective, min(len(defective), max(4, round(DEFECTIVE * len(good)))))
    folder.mkdir(parents=True)
    for i in (*good, *chosen):
        kind = "defect" if i in chosen else "sticker" if i in marked else "good"
        picture = Image.open(images.paths[i]).convert("RGB")
        if kind == "sticker":
            add_sticker(picture, chance)
        picture.save(folder / f"{kind}-{i:04d}.png")
    return len(good) + len(chosen)


def add_sticker(picture: Image.Image, chance: random.Random) -> None:
    """Draw a sticker somewhere inside an image: a white square with a dark frame and a cross."""
    side = max(6, round(STICKER * min(picture.size)))
    x, y = (chance.randrange(side, length - 2 * side) for length in picture.size)
    draw, width = ImageDraw.Draw(picture), max(1, side // 10)
    draw.rectangle((x, y, x + side, y + side), fill=(245, 245, 240), outline=(30, 30, 30), width=width)
    draw.line((x, y, x + side, y + side), fill=(30, 30, 30), width=width)
    draw.line((x + side, y, x, y + side), fill=(30, 30, 30), width=width)


def settings_of(cache: Path, folder: Path) -> Settings:
    """Return the settings of the runs."""
    weights = cache / "weights.safetensors"
    if not weights.exists():
        write_dinov2_weights(weights)
    given = {"source": str(folder / "images"), "out": str(folder / "out"), "backbone": "dinov2-vit-s-14"}
    return load_settings(
        None, given | {"weights": str(weights), "image_size": 224, "report_images": 0, "report_thumbnails": 0}
    )


def scores_of(settings: Settings, result: RunResult) -> tuple[Scores, float]:
    """Read the scores of a run, and the threshold that it suggests."""
    run_paths = OutPaths.at(str(settings.out)).run(result.run.run_id)
    table = read_scores(run_paths.fs, run_paths.all_parts(run_paths.scores), ["uri", "score", "score_raw"])
    (threshold,) = result.thresholds
    names = [Path(uri).name for uri in table["uri"].to_pylist()]
    pairs = zip(table["score"].to_pylist(), table["score_raw"].to_pylist(), strict=True)
    return dict(zip(names, pairs, strict=True)), threshold.threshold


def verdict_of(settings: Settings, result: RunResult, name: str) -> None:
    """Mark an image good, as `musc-ray verdicts` does."""
    run_paths = OutPaths.at(str(settings.out)).run(result.run.run_id)
    table = read_scores(run_paths.fs, run_paths.all_parts(run_paths.scores), ["image_id", "uri", "group"])
    (row,) = (row for row in table.to_pylist() if Path(row["uri"]).name == name)
    add_verdicts(run_paths.out, [Verdict(**row, verdict="good", note="", who="bench", when=datetime.now(UTC))])


def ranks_of(scores: Scores) -> dict[str, int]:
    """Rank images by their scores, 1 for the highest."""
    return ranks_of_values({name: score for name, (score, _) in scores.items()})


def ranks_of_values(values: Mapping[str, float]) -> dict[str, int]:
    return {name: rank for rank, name in enumerate(sorted(values, key=lambda name: -values[name]), start=1)}


if __name__ == "__main__":
    main()
