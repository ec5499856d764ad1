"""Matching near the same place: what it costs in accuracy on every set, what `auto` chooses, and what it saves.

    python tests/benchmarks/bench_matching.py [sets|speed ...] [--side 224] [--only SET ...] [--cache FOLDER]

`sets`: DINOv2 ViT-S/14 with the constants of `method: tuned` on the sets of the method study; baseline `anywhere` in
the same run. Image AUROC and AP are those of the final score, with the raw score's in brackets; the difference is to
anywhere. Seconds are those of mutual scoring. `speed`: aligned generated tokens of ViT-L/14 at 518 px, three degrees;
anywhere in bfloat16 with all 1,024 channels, as without compression, against near within 2 patches on 256 channels,
and the share of the instruction's own limit. Then images that are all there twice, against images that are not.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from machine import describe_machine
from method_study.choices import TUNED, Choice
from method_study.features import Variant
from method_study.image_sets import CONFIRMING, JUDGED, ImageSet, available
from method_study.scored import Scored, Study
from torch import Tensor

from musc_ray.core import candidates
from musc_ray.core.matching import MatchingChoice, choose_matching, radii_to_try
from musc_ray.core.matching_limits import MIN_IMAGES, SAMPLE_IMAGES
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.patch_scores import exact_scores
from musc_ray.core.precision import distance_dtype, resolve_precision
from musc_ray.core.rscon import salient_layer
from musc_ray.core.tile_product import multiply_tile

CPU = torch.device("cpu")
SHARD = 64
GRID, CHANNELS, COMPRESSED, DEGREES = (37, 37), 1024, 256, (1, 3, 5)
INT8_RATE = 2 * 64 * 4.17e9
"""Products a second that one core's registers allow with AVX-512 VNNI, see `kernels/int8_dot.py`."""


def maps_of(scored: Scored, choice: Choice, radius: int | None) -> tuple[Tensor, float]:
    """Score a set as a run does, in tiles of shards; returns patch maps (N, h, w) and seconds."""
    images, grid, seconds = len(scored.features.images.paths), scored.features.grid, 0.0
    dtype = resolve_precision("auto", CPU, images)
    total = torch.zeros(images, grid[0] * grid[1])
    parts = [slice(start, min(start + SHARD, images)) for start in range(0, images, SHARD)]
    for layer in choice.layers:
        tokens = scored.features.tokens(layer).clone()
        started = time.perf_counter()
        shards = [prepare(tokens[part], grid, choice.degrees, dtype, radius=radius) for part in parts]
        shape = len(choice.degrees), images, grid[0] * grid[1], images
        distances = torch.empty(shape, dtype=distance_dtype(dtype))
        for index, (a, i) in enumerate(zip(shards, parts, strict=True)):
            for b, j in list(zip(shards, parts, strict=True))[index:]:
                out = distances[:, i, :, j], distances[:, j, :, i]
                multiply_tile(a, b, distances.dtype, out=out)
        total += exact_scores([distances], images - 1, choice.interval, CPU)
        seconds += time.perf_counter() - started
    return (total / len(choice.layers)).view(images, *grid), seconds


def auto_of(scored: Scored, choice: Choice) -> tuple[MatchingChoice, float]:
    """Choose as `matching: auto` does; returns the choice and seconds."""
    tokens, grid = scored.features.tokens(salient_layer(choice.layers)), scored.features.grid
    started = time.perf_counter()
    sample = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:SAMPLE_IMAGES]]

    def distances(radius: int | None) -> Tensor:
        shard = prepare(sample, grid, choice.degrees, radius=radius)
        return multiply_tile(shard, shard)[0]

    if len(tokens) < MIN_IMAGES:
        return MatchingChoice(None, "too few images"), 0.0
    return choose_matching(distances, choice.interval, radii_to_try(grid, None)), time.perf_counter() - started


def run_set(study: Study, images: ImageSet, side: int) -> None:
    """Print the table of a set."""
    scored = study.scored(images, Variant(TUNED.shape, side))
    scored.features.extract(TUNED.layers)
    h, w = scored.features.grid
    print(f"\n## {images.name}, {len(images.paths)} images, {h} x {w} patches", flush=True)
    print("| matching | image AUROC (raw) | to anywhere | image AP (raw) | pixel AP | AUPRO | seconds |")
    print("|---|---|---|---|---|---|---|", flush=True)
    found: dict[int | None, tuple[np.ndarray, tuple[float, float], float]] = {}

    def row(name: str, radius: int | None, more_seconds: float = 0.0) -> None:
        if radius not in found:
            maps, seconds = maps_of(scored, TUNED, radius)
            raw = scored.raw_scores(maps)
            figures = scored.truth.figures(scored.rescored(raw, maps, TUNED), maps)
            found[radius] = figures, scored.truth.of_scores(raw), seconds
        (auroc, ap, pixel_ap, aupro), (raw_auroc, raw_ap), seconds = found[radius]
        print(
            f"| {name} | {auroc:.2f} ({raw_auroc:.2f}) | {auroc - found[None][0][0]:+.2f} | {ap:.2f} ({raw_ap:.2f}) | "
            f"{pixel_ap:.2f} | {aupro:.2f} | {seconds + more_seconds:.1f} |",
            flush=True,
        )

    row("anywhere", None)
    for radius in (1, 2, 3):
        row(f"near, radius {radius}", radius)
    choice, seconds = auto_of(scored, TUNED)
    name = "anywhere" if choice.radius is None else f"near, radius {choice.radius}"
    row(f"auto: {name}", choice.radius, seconds)
    print("; ".join(f"radius {f.radius}: found {f.found:.4f}, agrees {f.agrees:.3f}" for f in choice.figures))


def tokens_of(images: int, channels: int, seed: int) -> Tensor:
    """Make aligned images of one product (N, L, C): a common part for every place, and noise of their own."""
    shape = GRID[0] * GRID[1], channels
    common = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    return common + 0.7 * torch.randn(images, *shape, generator=torch.Generator().manual_seed(seed))


def pairs_a_second(tokens: tuple[Tensor, Tensor], dtype: torch.dtype, radius: int | None, repeats: int = 3) -> float:
    """Multiply a tile of two shards, the fastest of some times."""
    a, b = (prepare(part, GRID, DEGREES, dtype, radius=radius) for part in tokens)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        multiply_tile(a, b, torch.float16)
        seconds.append(time.perf_counter() - started)
    return a.images * b.images / min(seconds)


def run_speed() -> None:
    """Print pairs of images a second, and what near duplicates cost."""
    few = tuple(tokens_of(8, CHANNELS, seed) for seed in (1, 2))
    many = tuple(tokens_of(SHARD, COMPRESSED, seed) for seed in (1, 2))
    base = pairs_a_second(few, torch.bfloat16, None)
    print(f"anywhere, bfloat16, {CHANNELS} channels: {base:,.0f} pairs a second")
    for name, dtype in (("int8", torch.int8), ("bfloat16", torch.bfloat16), ("float32", torch.float32)):
        rate = pairs_a_second(many, dtype, 2)
        products = GRID[0] * GRID[1] * candidates(GRID, 2) * COMPRESSED * len(DEGREES)
        limit = INT8_RATE * torch.get_num_threads()
        share = f", {rate * products / limit:.0%} of the instruction's limit" if name == "int8" else ""
        print(f"near, radius 2, {name}, {COMPRESSED} channels: {rate:,.0f} pairs a second, {rate / base:.0f} x{share}")
        twice = pairs_a_second((many[0], many[0].clone()), dtype, 2)
        ground = pairs_a_second(tuple(_on_ground(part) for part in many), dtype, 2)
        print(
            f"   every image twice {rate / twice:.2f} x as long, half of the grid an even ground {rate / ground:.2f} x"
        )


def _on_ground(tokens: Tensor) -> Tensor:
    """Make the places of the first half of the grid equal to one another, in all images."""
    tokens = tokens.clone()
    tokens[:, : tokens.shape[1] // 2] = 1 + 0 * tokens[:1, :1]
    tokens[:, : tokens.shape[1] // 2, ::2] = -1
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", choices=[[], "sets", "speed"], help="sets, speed")
    parser.add_argument("--side", type=int, default=224, help="side of the square with as many pixels")
    parser.add_argument("--only", nargs="+", default=[*JUDGED, *CONFIRMING], help="sets")
    parser.add_argument("--cache", type=Path, help="folder of tokens")
    arguments = parser.parse_args()
    torch.set_num_threads(2)
    print(describe_machine())
    if "sets" in (arguments.parts or ("sets",)):
        with tempfile.TemporaryDirectory() as folder:
            study = Study(arguments.cache or Path(folder))
            for images in available(arguments.only):
                run_set(study, images, arguments.side)
    if "speed" in (arguments.parts or ("speed",)):
        run_speed()


if __name__ == "__main__":
    main()
