"""The backbone in bfloat16 on a CPU: what it costs in image AUROC, and what it gains in images a second.

    python tests/benchmarks/bench_precision.py [auroc [FOLDER ...] | rates [NUMBER ...]]

`auroc`: features in float32, in bfloat16, in float16 (its rounding, as a CPU does it), and in two other ways to compute
in bfloat16; stored as float16 and scored in float32. Image sets are folders in MVTec AD's layout, or `cells`: 240 solar
cells. AUROC raw is of scores before RsCIN.

`rates`: the ways take turns, best of several rounds. The share is of the rate of the matrix products alone: those of
linear layers and of attention, with operands of the same shapes and number format, the same threads and batch.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import torch
from machine import describe_machine

from musc_ray import rescore, score_features
from musc_ray.backbones import Backbone, Tokens, describe_backbone, load_backbone, untrained_backbone
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.weights import WeightsFile, fetch_weights
from musc_ray.core.kernels.attention import SCORES_CHUNK
from musc_ray.core.kernels.onednn import linear
from musc_ray.core.metrics.image import image_auroc
from musc_ray.core.pixel_map import image_scores
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import mono_cells
from musc_ray.sources.decoding import decode_image

DATA = Path(__file__).parents[3] / "shared" / "data"
SETS = ["cells", *(str(DATA / name) for name in ("magnetic_tile", "cookies", "kolektor_sdd"))]
BACKBONE, SIZE, BATCH = "dinov2-vit-s-14", (224, 224), 8
HEAD = 64
"""Channels of a head in all of these models."""

ROUNDS = 7
RATES = [  # backbone, side, batch, threads
    ("dinov2-vit-s-14", 224, 8, 1),
    ("dinov2-vit-s-14", 224, 8, 2),
    ("dinov2-vit-s-14", 518, 8, 2),
    ("dinov2-vit-l-14", 224, 4, 2),
    ("clip-vit-l-14-336", 336, 4, 2),
]

Forward = Callable[[torch.Tensor], Tokens]


def ways(load: Callable[[str], Backbone]) -> dict[str, Forward]:
    """Return the ways to run a model; `load` takes a precision."""
    exact, rounded = load("float32"), load("float32")
    rounded._model.module.to(torch.bfloat16)

    def autocast(images: torch.Tensor) -> Tokens:
        with patch.object(exact, "_arithmetic", lambda: torch.autocast("cpu", torch.bfloat16)):
            return exact.forward(images)

    def throughout(images: torch.Tensor) -> Tokens:
        tokens = rounded._model.tokens
        with (
            patch.object(rounded, "_arithmetic", nullcontext),
            patch.object(rounded._model, "tokens", lambda pixels, layers: tokens(pixels.bfloat16(), layers)),
        ):
            return rounded.forward(images)

    return {
        "float32": exact.forward,
        "bfloat16": load("bfloat16").forward,
        "float16": load("float16").forward,
        "PyTorch's autocast": autocast,
        "bfloat16 throughout": throughout,
    }


def products_alone(backbone: Backbone, batch: int, dtype: torch.dtype) -> Callable[[], None]:
    """Return a function that computes the matrix products of a batch and nothing else."""
    info = backbone.info
    channels, length = info.channels, info.grid[0] * info.grid[1] + 1
    shapes = [(channels, 3 * channels), (channels, channels), (channels, 4 * channels), (4 * channels, channels)]
    layers = [
        (
            torch.randn(batch * length, rows).to(dtype),
            torch.randn(columns, rows).to(dtype),
            torch.randn(columns).to(dtype),
        )
        for rows, columns in shapes
    ]
    heads = [torch.randn(batch * channels // HEAD, length, HEAD).to(dtype) for _ in range(2)]
    chunk = max(1, SCORES_CHUNK // length**2)

    def compute() -> None:
        for _ in range(info.depth):
            for layer in layers:
                linear(*layer)
            for query, key in zip(*(part.split(chunk) for part in heads), strict=True):
                query @ key.transpose(1, 2) @ key

    return compute


def best_times(runs: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Return the seconds of each, best of rounds in which they take turns."""
    seconds = dict.fromkeys(runs, float("inf"))
    for number in range(ROUNDS + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if number:  # the first round warms up
                seconds[name] = min(seconds[name], time.perf_counter() - started)
    return seconds


@torch.inference_mode()
def print_rates(name: str, side: int, batch: int, threads: int) -> None:
    """Print images a second of one model in all ways."""
    torch.set_num_threads(threads)
    info = describe_backbone(name, (side, side))
    forwards = ways(lambda precision: untrained_backbone(info, precision=precision))
    images = torch.randint(0, 256, (batch, side, side, 3), dtype=torch.uint8)
    runs: dict[str, Callable[[], object]] = {
        what: lambda forward=forward: forward(images) for what, forward in forwards.items()
    }
    backbone = untrained_backbone(info)
    for dtype in (torch.float32, torch.bfloat16):
        runs[str(dtype)] = products_alone(backbone, batch, dtype)
    seconds = best_times(runs)
    print(f"{name} at {side} px, batches of {batch}, threads: {threads}")
    for what in forwards:
        alone = seconds[str(torch.float32 if what in ("float32", "float16") else torch.bfloat16)]
        ratio, share = seconds["float32"] / seconds[what], alone / seconds[what]
        print(f"  {what:22}{batch / seconds[what]:8.1f} images/s{ratio:7.2f} of float32{share:7.2f} of the products")


def features_of(forward: Forward, paths: list[Path]) -> tuple[npt.NDArray[np.float32], list[npt.NDArray[np.float16]]]:
    """Return class tokens and, per layer, patch tokens as they are stored."""
    class_tokens, layers = [], []
    for start in range(0, len(paths), BATCH):
        pictures = [decode_image(path.read_bytes(), SIZE) for path in paths[start : start + BATCH]]
        tokens = forward(torch.from_numpy(np.stack(pictures)))
        class_tokens.append(tokens.class_tokens.numpy())
        layers.append([layer.half().numpy() for layer in tokens.layers])
    return np.concatenate(class_tokens), [np.concatenate(layer) for layer in zip(*layers, strict=True)]


def print_aurocs(name: str, paths: list[Path], labels: list[int], weights: WeightsFile) -> None:
    """Print the image AUROC of a set with features of all ways, and its difference from float32's."""
    forwards = ways(
        lambda precision: load_backbone(BACKBONE, image_size=SIZE, layers=None, weights=weights, precision=precision)
    )
    grid, exact = describe_backbone(BACKBONE, SIZE).grid, None
    print(f"{name}: {len(labels) - sum(labels)} good, {sum(labels)} defective")
    for what, forward in forwards.items():
        class_tokens, layers = features_of(forward, paths)
        assert all(np.isfinite(layer).all() for layer in layers), "features are infinite"
        maps = score_features(layers, grid, precision="float32")
        raw = image_scores(maps.view(-1, *grid), SIZE).numpy()
        found = np.array([image_auroc(labels, scores) for scores in (raw, rescore(raw, class_tokens))])
        exact = found if exact is None else exact
        moved = found - exact
        largest = max(float(np.abs(layer).max()) for layer in layers)
        print(
            f"  {what:22} raw {found[0]:.4f} ({moved[0]:+.4f})   after RsCIN {found[1]:.4f} ({moved[1]:+.4f})"
            f"   largest token {largest:.0f}",
            flush=True,
        )


def images_of(name: str) -> tuple[list[Path], list[int]]:
    """Return the images of a set and their labels, 1 = defective."""
    if name == "cells":
        cells = mono_cells(240)
        return [cell.path for cell in cells], [cell.label for cell in cells]
    paths = sorted((Path(name) / "test").glob("*/*"))
    return paths, [int(path.parent.name != "good") for path in paths]


def main() -> None:
    print(describe_machine())
    part = sys.argv[1] if len(sys.argv) > 1 else "both"
    if part in ("rates", "both"):
        for number in sys.argv[2:] or range(len(RATES)):
            print_rates(*RATES[int(number)])
    if part == "rates":
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = fetch_weights(resolve_backbone(BACKBONE), str(write_dinov2_weights(Path(folder) / "w.safetensors")))
        for name in sys.argv[2:] or SETS:
            print_aurocs(Path(name).name, *images_of(name), weights)


if __name__ == "__main__":
    main()
