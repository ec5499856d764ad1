"""MuSc written down once more, from the formulas alone: numpy, float64, loops, differences instead of products.

Nothing here comes from musc_ray; it is what the package is held against.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def lnamd(tokens: np.ndarray, grid: tuple[int, int], degree: int, normalised: bool = False) -> np.ndarray:
    """(N, h*w, C) raw tokens -> unit vectors: joint LayerNorm, r x r mean with counted zero padding, L2.

    Compressed tokens are normalised already.
    """
    n, length, channels = tokens.shape
    h, w = grid
    out = np.zeros((n, length, channels))
    reach = (degree - 1) // 2
    for i in range(n):
        x = tokens[i].astype(np.float64)
        if not normalised:
            x = (x - x.mean()) / np.sqrt(x.var() + 1e-5)
        image = x.reshape(h, w, channels)
        for row in range(h):
            for column in range(w):
                total = np.zeros(channels)
                for y in range(max(0, row - reach), min(h, row + reach + 1)):
                    for z in range(max(0, column - reach), min(w, column + reach + 1)):
                        total += image[y, z]
                mean = total / degree**2
                norm = np.sqrt((mean**2).sum())
                out[i, row * w + column] = mean / norm if norm > 1e-12 else mean * 0
    return out


def snamd(tokens: np.ndarray, grid: tuple[int, int], degrees: Sequence[int]) -> np.ndarray:
    """(N, h*w, C) raw tokens -> unit vectors, one for all degrees: a window of the largest degree with zeros beyond the
    grid, weights exp(-distance to the patch in the middle), weighted mean of each degree, mean, L2."""
    n, length, channels = tokens.shape
    h, w = grid
    out = np.zeros((n, length, channels))
    largest = max(degrees)
    middle = largest // 2
    for i in range(n):
        x = tokens[i].astype(np.float64)
        image = np.zeros((h + 2 * middle, w + 2 * middle, channels))
        image[middle : middle + h, middle : middle + w] = x.reshape(h, w, channels)
        for row in range(h):
            for column in range(w):
                window = image[row : row + largest, column : column + largest]
                weights = np.zeros((largest, largest))
                for y in range(largest):
                    for z in range(largest):
                        weights[y, z] = np.exp(-np.sqrt(((window[y, z] - window[middle, middle]) ** 2).sum()))
                means = []
                for degree in degrees:
                    part = slice(middle - degree // 2, middle + degree // 2 + 1)
                    weighted = window[part, part] * weights[part, part, None]
                    means.append(weighted.sum(axis=(0, 1)) / weights[part, part].sum())
                mean = np.mean(means, axis=0)
                norm = np.sqrt((mean**2).sum())
                out[i, row * w + column] = mean / norm if norm > 1e-12 else mean * 0
    return out


def near_minima(z: np.ndarray, grid: tuple[int, int], radius: int) -> np.ndarray:
    """a(i, m, j) over the patches n at most radius rows and columns away from m: (N, L, N); NaN where j = i."""
    n, _, _ = z.shape
    h, w = grid
    images = z.reshape(n, h, w, -1)
    minima = np.full((n, h, w, n), np.nan)
    for i in range(n):
        for j in range(n):
            for row in range(h if i != j else 0):
                for column in range(w):
                    near = images[
                        j,
                        max(0, row - radius) : row + radius + 1,
                        max(0, column - radius) : column + radius + 1,
                    ]
                    differences = near - images[i, row, column]
                    minima[i, row, column, j] = np.sqrt((differences**2).sum(axis=2)).min()
    return minima.reshape(n, h * w, n)


def mutual_minima(z: np.ndarray) -> np.ndarray:
    """a(i, m, j) = min_n |z_i^m - z_j^n| as (N, L, N); NaN where j = i."""
    n, length, _ = z.shape
    minima = np.full((n, length, n), np.nan)
    for i in range(n):
        for j in range(n):
            if i != j:
                for m in range(length):
                    minima[i, m, j] = np.sqrt(((z[j] - z[i, m]) ** 2).sum(axis=1)).min()
    return minima


def minima_over_places(z: np.ndarray, places: int) -> np.ndarray:
    """a(i, m, j) = min |z_i^m - z_j^n| over the patches n of all places of image j: (N, P*L, N); NaN where j = i.

    z (N*P, L, C) holds the places of an image one after the other.
    """
    return mutual_minima(z.reshape(len(z) // places, places * z.shape[1], -1))


def near_minima_over_places(z: np.ndarray, grid: tuple[int, int], radius: int, places: int) -> np.ndarray:
    """As `minima_over_places`, over the patches n near m in the grid of each place of image j."""
    images, length = len(z) // places, z.shape[1]
    single = near_minima(z, grid, radius).reshape(images, places * length, images, places)
    minima = np.full((images, places * length, images), np.nan)
    for i in range(images):
        for j in range(images):
            if i != j:
                minima[i, :, j] = single[i, :, j].min(axis=1)
    return minima


def interval_average(minima: np.ndarray, interval: tuple[float, float]) -> np.ndarray:
    """Mean of the sorted N-1 values from rank int(low (N-1)) up to int(high (N-1)), at least one: (N, L)."""
    n, length, _ = minima.shape
    out = np.zeros((n, length))
    low = min(int(interval[0] * (n - 1)), n - 2)
    high = max(low + 1, int(interval[1] * (n - 1)))
    for i in range(n):
        for m in range(length):
            others = sorted(value for value in minima[i, m] if not np.isnan(value))
            out[i, m] = np.mean(others[low:high])
    return out


def with_known_good(averages: np.ndarray, nearest: np.ndarray, known: int) -> np.ndarray:
    """Combine interval averages and distances to the nearest of `known` good images, both (N, L), image by image."""
    out = np.zeros(averages.shape)
    trust = 1.0 if known >= 16 else max(0, known - 1) / 15
    for i, (average, distance) in enumerate(zip(averages, nearest, strict=True)):
        ratios = sorted(d / max(a, 1e-6) for a, d in zip(average, distance, strict=True))
        explained = ratios[(len(ratios) - 1) // 2] <= 1.15
        for m, (a, d) in enumerate(zip(average, distance, strict=True)):
            out[i, m] = (1 - trust) * min(a, d) + trust * d if explained else min(a, d)
    return out


def patch_maps(
    features: Sequence[np.ndarray],
    grid: tuple[int, int],
    degrees: Sequence[int] = (1, 3, 5),
    interval: tuple[float, float] = (0.0, 0.3),
    aggregation: str = "lnamd",
    normalised: bool = False,
) -> np.ndarray:
    """(N, h*w): mean over layers, then over degrees (lnamd); or over layers, degrees being in the vectors (snamd)."""
    if aggregation == "snamd":
        layers = [interval_average(mutual_minima(snamd(tokens, grid, degrees)), interval) for tokens in features]
        return np.mean(layers, axis=0)
    per_degree = []
    for degree in degrees:
        layers = [
            interval_average(mutual_minima(lnamd(tokens, grid, degree, normalised)), interval) for tokens in features
        ]
        per_degree.append(np.mean(layers, axis=0))
    return np.mean(per_degree, axis=0)


def pixel_map(patch_map: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """(h, w) -> (H, W), bilinear, corners on corners."""
    h, w = patch_map.shape
    out = np.zeros(image_size)
    for row in range(image_size[0]):
        y = row * (h - 1) / (image_size[0] - 1) if image_size[0] > 1 else 0.0
        y0 = min(int(y), h - 1)
        y1 = min(y0 + 1, h - 1)
        line = patch_map[y0] * (1 - (y - y0)) + patch_map[y1] * (y - y0)
        x = np.arange(image_size[1]) * (w - 1) / max(1, image_size[1] - 1)
        out[row] = np.interp(x, np.arange(w), line)
    return out


def rscin(scores: np.ndarray, class_tokens: np.ndarray, k_list: Sequence[int] = (1, 2, 3)) -> np.ndarray:
    """(N,) raw scores -> re-scored ones."""
    scores = scores.astype(np.float64)
    spread = scores.max() - scores.min()
    scaled = (scores - scores.min()) / spread if spread > 0 else scores * 0
    tokens = class_tokens.astype(np.float64)
    tokens = tokens / np.linalg.norm(tokens, axis=1, keepdims=True)
    similarity = tokens @ tokens.T
    results = []
    for k in k_list:
        weights = np.zeros_like(similarity)
        for i, row in enumerate(similarity):
            # the image itself is one of the k: in ties with exact copies it goes first
            order = sorted(range(len(row)), key=lambda j, i=i, row=row: (j != i, -row[j]))[: min(k, len(row))]
            weights[i, order] = row[order]
        results.append((weights / weights.sum(axis=1, keepdims=True)) @ scaled)
    return np.mean(results, axis=0)


@dataclass
class Scored:
    """What the brute force says of one image."""

    patch_map: np.ndarray
    score_raw: float
    score: float


@dataclass
class Stored:
    """The images of a group as its shards hold them: ids, class tokens, float64 tokens by layer, and the metadata."""

    ids: list[str]
    class_tokens: np.ndarray
    layers: dict[int, np.ndarray]
    meta: dict[str, Any]


def read_features(folder: Path, raw: bool = False) -> Stored:
    """Read the feature shards of a group.

    Args:
        folder: that holds them.
        raw: turn compressed tokens y back into projections of the raw ones, deviation * y + mean * (1' V R).
    """
    stored = Stored([], np.empty(0), {}, {})
    class_tokens: list[np.ndarray] = []
    layers: dict[int, list[np.ndarray]] = {}
    for path in sorted(folder.glob("shard-*.parquet")):
        table = pq.read_table(path)
        meta = stored.meta = json.loads(table.schema.metadata[b"musc_ray"])
        stored.ids += table["image_id"].to_pylist()
        class_tokens += [np.frombuffer(value, "<f4") for value in table["class_token"].to_pylist()]
        for layer in meta["layers"]:
            for row in range(len(table)):
                layers.setdefault(layer, []).append(_tokens(table, meta, layer, row))
            if raw and "basis_sha256" in meta:
                (basis,) = folder.glob("_basis-*.npz")
                sums = np.load(basis)[f"layer_{layer:02d}"].astype(np.float64).sum(axis=0) @ rotation(meta["channels"])
                norms = [np.frombuffer(value, "<f4") for value in table[f"layer_{layer:02d}_norm"].to_pylist()]
                own = layers[layer][-len(table) :]
                layers[layer][-len(table) :] = [n[1] * y + n[0] * sums for y, n in zip(own, norms, strict=True)]
    stored.class_tokens = np.stack(class_tokens)
    stored.layers = {layer: np.stack(images) for layer, images in layers.items()}
    return stored


def rotation(channels: int) -> np.ndarray:
    """The rotation R that compressed tokens are turned by: of a QR decomposition, with a positive diagonal of R."""
    normal = np.random.Generator(np.random.PCG64(20_240_816)).standard_normal((channels, channels))
    q, r = np.linalg.qr(normal)
    return q * np.sign(np.diag(r))


def _tokens(table: pa.Table, meta: dict[str, Any], layer: int, row: int) -> np.ndarray:
    value, shape = table[f"layer_{layer:02d}"][row].as_py(), (-1, meta["channels"])
    if meta["dtype"] == "float16":
        return np.frombuffer(value, "<f2").reshape(shape).astype(np.float64)
    scales = np.frombuffer(table[f"layer_{layer:02d}_scale"][row].as_py(), "<f4").astype(np.float64)
    return np.frombuffer(value, "i1").reshape(shape) * scales[:, None]


def score_features_folder(
    folder: Path,
    degrees: Sequence[int] = (1, 3, 5),
    k_list: Sequence[int] = (1, 2, 3),
    aggregation: str = "lnamd",
    rescoring: str = "rscin",
):
    """Score a group from its stored feature shards, compressed or not: a dict from image_id to `Scored`."""
    stored = read_features(folder, raw=aggregation == "snamd")
    meta, ids, normalised = stored.meta, stored.ids, "basis_sha256" in stored.meta
    grid = tuple(meta["grid"])
    layers = [stored.layers[layer] for layer in meta["layers"]]
    maps = patch_maps(layers, grid, degrees, aggregation=aggregation, normalised=normalised)
    raw = np.array([pixel_map(m.reshape(grid), tuple(meta["image_size"])).max() for m in maps])
    vectors, most = stored.class_tokens, maps.argmax(axis=1)
    if rescoring == "rscon":  # of the most anomalous patch, in the last layer but one, all degrees end to end
        vectors = np.concatenate(
            [lnamd(layers[-2], grid, r, normalised)[np.arange(len(ids)), most] for r in degrees], axis=1
        )
    scores = rscin(raw, vectors, k_list)
    return {image_id: Scored(maps[i], raw[i], scores[i]) for i, image_id in enumerate(ids)}
