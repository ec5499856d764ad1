"""Which rule finds the best threshold from the scores alone: F1, precision and recall of each beside F1-max with labels.

    python tests/benchmarks/bench_threshold.py [MAGNETIC_TILE]

DINOv2 ViT-S/14 at 224 px, exact scores after RsCIN. Images: 180 good solar cells (ELPV) with 60 defective ones, and
with fewer (seeded samples, three each); the good magnetic tiles of a folder in MVTec AD's layout, likewise. Every
archive is scored anew: its defects are part of what the others are compared with. The rules see scores, never labels.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import torch
from machine import describe_machine

import musc_ray
from musc_ray.config import load_settings
from musc_ray.core.pixel import image_scores
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.demo.elpv import mono_cells
from musc_ray.progress import Progress
from musc_ray.stages.run import run_archive

IMAGE_SIZE = (224, 224)
GRID = (16, 16)
SEEDS = (0, 1, 2)
DEFECTIVE = {"ELPV": (60, 45, 30, 20, 10, 4), "magnetic tile": (50, 30, 15, 7, 3)}
TILES = Path(__file__).parents[3] / "shared" / "data" / "magnetic_tile"


@dataclass(frozen=True)
class Case:
    """An archive that was scored: which images, their labels (1 = defective) and their scores, both (N,)."""

    name: str
    defective: int
    labels: np.ndarray
    scores: np.ndarray


def scored_cases(folder: Path, name: str, labels: dict[str, int]) -> Iterator[Case]:
    """The archive of all good images, with all defective ones and with samples of them."""
    source = folder / "images.csv"
    source.write_text("uri\n" + "".join(f'"{uri}"\n' for uri in labels))
    weights = write_dinov2_weights(folder / "dinov2.safetensors")
    given = {"source": str(source), "out": str(folder / "out"), "backbone": "dinov2-vit-s-14", "weights": str(weights)}
    run_archive(load_settings(None, {**given, "image_size": IMAGE_SIZE[0]}), Progress(quiet=True))
    uris, class_tokens, layers = stored_features(folder / "out")
    known = np.array([labels[uri] for uri in uris])
    good, bad = np.flatnonzero(known == 0), np.flatnonzero(known == 1)
    for count in DEFECTIVE[name]:
        for seed in SEEDS if count < len(bad) else SEEDS[:1]:
            sample = np.random.default_rng(seed).choice(bad, count, replace=False)
            chosen = np.sort(np.concatenate([good, sample]))
            maps = musc_ray.score_features([layer[chosen] for layer in layers], GRID, precision="float32")
            raw = image_scores(maps.reshape(-1, *GRID), IMAGE_SIZE)
            yield Case(name, count, known[chosen], np.asarray(musc_ray.rescore(raw, class_tokens[chosen])))


def stored_features(out: Path) -> tuple[list[str], np.ndarray, list[torch.Tensor]]:
    """Uris, class tokens (N, C) and tokens (N, h*w, C) of each layer of a run's images."""
    table = pq.read_table(next(out.glob("features/*/group=all")), partitioning=None)
    names = [name for name in table.column_names if name.startswith("layer_")]
    column = {name: np.frombuffer(b"".join(table[name].to_pylist()), np.float16) for name in names}
    layers = [torch.from_numpy(column[name].reshape(len(table), GRID[0] * GRID[1], -1).copy()) for name in names]
    class_tokens = np.frombuffer(b"".join(table["class_token"].to_pylist()), np.float32).reshape(len(table), -1)
    return table["uri"].to_pylist(), class_tokens, layers
