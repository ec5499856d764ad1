"""Nearest known good patches searched among fewer of them, or by an index: what it loses, and how long it takes."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from method_study.choices import Choice
from method_study.features import PRECISION, Features
from method_study.figures import Truth
from method_study.known_good import Split
from method_study.scored import Scored
from musc_ray.core.against import nearest_distances
from musc_ray.core.interval_average import interval_average
from musc_ray.core.known_good import bounded
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.metrics.image import average_precision, image_auroc
from musc_ray.core.operands.prepare import prepare

PROJECTED, PROBES = 128, 8
COUNTS = (16, 64)
Floats = npt.NDArray[np.float32]
Find = Callable[[Tensor], Tensor]
"""Takes unit vectors (P, C) of patches; returns their distances (P,) to the nearest known good patch."""

Build = Callable[[Tensor], Find]
"""Takes unit vectors of all known good patches."""


@dataclass
class Spent:
    """Seconds to build what is searched, and to search."""

    build: float = 0.0
    search: float = 0.0


def exactly(vectors: Tensor) -> Find:
    """Search all of them, in float32."""
    return lambda queries: _distances((queries @ vectors.T).amax(dim=1))


def random_part(share: float) -> Build:
    """Search a random share of them."""

    def build(vectors: Tensor) -> Find:
        chosen = np.random.default_rng(0).permutation(len(vectors))[: max(1, round(share * len(vectors)))]
        return exactly(vectors[torch.from_numpy(chosen)])

    return build


def coreset(share: float) -> Build:
    """Search a greedy k-centre coreset, chosen after a random projection (PatchCore, section 3.2)."""

    def build(vectors: Tensor) -> Find:
        generator = torch.Generator().manual_seed(0)
        points = vectors @ (torch.randn(vectors.shape[1], PROJECTED, generator=generator) / PROJECTED**0.5)
        chosen = [0]
        farthest = (points - points[0]).square().sum(dim=1)
        squares = points.square().sum(dim=1)
        for _ in range(max(1, round(share * len(vectors))) - 1):
            chosen.append(int(farthest.argmax()))
            added = points[chosen[-1]]
            farthest = torch.minimum(farthest, squares + added.square().sum() - 2 * (points @ added))
        return exactly(vectors[chosen])

    return build


def inverted_lists(vectors: Tensor) -> Find:
    """Search the nearest lists of a FAISS index of whole vectors (IVF)."""
    points = vectors.numpy()
    index = faiss.index_factory(points.shape[1], f"IVF{max(1, round(len(points) ** 0.5))},Flat")
    index.train(points)
    index.add(points)
    index.nprobe = PROBES
    return lambda queries: torch.from_numpy(index.search(queries.numpy(), 1)[0][:, 0]).clamp(min=0).sqrt()


WAYS: dict[str, Build] = {
    "exact, float32": exactly,
    "random 25 %": random_part(0.25),
    "random 10 %": random_part(0.10),
    "random 1 %": random_part(0.01),
    "coreset 25 %": coreset(0.25),
    "coreset 10 %": coreset(0.10),
    "coreset 1 %": coreset(0.01),
    f"FAISS IVF, {PROBES} lists": inverted_lists,
}


def print_searches(features: Features, choice: Choice, split: Split) -> None:
    """Print loss and seconds of each way; figures of nearest alone and of the product's rule."""
    scored = Scored(features, Truth(features.images.take(split.evaluated, features.images.name)))
    print(
        f"\n{features.images.name}, {len(split.evaluated)} images evaluated; image AUROC, image AP, AUPRO: "
        "nearest alone, then the product's rule"
    )
    for known in sorted({*(n for n in COUNTS if n < len(split.pool)), len(split.pool)}):
        seconds = _product_seconds(features, choice, split, known)
        print(f"{known:4} {'the product, bfloat16':24}{'':48}   build   0.00 s, search {seconds:6.2f} s", flush=True)
        for name, build in WAYS.items():
            spent = Spent()
            nearest, both = _maps(features, choice, split, known, build, spent)
            row = "".join(f"{value:8.2f}" for maps in (nearest, both) for value in _figures(scored, maps))
            print(f"{known:4} {name:24}{row}   build {spent.build:6.2f} s, search {spent.search:6.2f} s", flush=True)


def _maps(
    features: Features, choice: Choice, split: Split, known: int, build: Build, spent: Spent
) -> tuple[Tensor, Tensor]:
    """Return the patch maps (n, h, w) of nearest alone and of the product's rule."""
    shape = len(split.evaluated), features.grid[0] * features.grid[1]
    nearest, both = torch.zeros(shape), torch.zeros(shape)
    for layer in choice.layers:
        tokens = features.tokens(layer)
        for degree in choice.degrees:
            good = _vectors(tokens, split.pool[:known], features.grid, degree)
            started = time.perf_counter()
            find = build(good)
            spent.build += time.perf_counter() - started
            queries = _vectors(tokens, split.evaluated, features.grid, degree)
            started = time.perf_counter()
            found = torch.cat([find(part) for part in queries.split(shape[1])]).view(shape)
            spent.search += time.perf_counter() - started
            nearest += found
            rows = torch.from_numpy(features.distances(layer, degree)[split.evaluated][:, :, split.evaluated])
            both += bounded(interval_average(rows, shape[0] - 1, choice.interval), found, known)
    scale = len(choice.layers) * len(choice.degrees)
    return (nearest / scale).view(-1, *features.grid), (both / scale).view(-1, *features.grid)


def _product_seconds(features: Features, choice: Choice, split: Split, known: int) -> float:
    """Measure the products of the product: all degrees of a layer from one, all known good patches."""
    spent = 0.0
    for layer in choice.layers:
        tokens = features.tokens(layer)
        query, good = (
            prepare(tokens[ids], features.grid, choice.degrees, PRECISION)
            for ids in (split.evaluated, split.pool[:known])
        )
        started = time.perf_counter()
        nearest_distances(query, [good], [None])
        spent += time.perf_counter() - started
    return spent


def _vectors(tokens: Tensor, images: npt.NDArray[np.int64], grid: tuple[int, int], degree: int) -> Tensor:
    """Return unit vectors (n * L, C) float32."""
    return aggregate(layer_norm(tokens[images]), grid, degree).flatten(0, 1)


def _distances(cosines: Tensor) -> Tensor:
    return (2 - 2 * cosines).clamp(min=0).sqrt()


def _figures(scored: Scored, maps: Tensor) -> tuple[float, float, float]:
    labels, raw = scored.truth.images.labels, scored.raw_scores(maps)
    return 100 * image_auroc(labels, raw), 100 * average_precision(labels, raw), scored.truth.of_maps(maps)[1]
