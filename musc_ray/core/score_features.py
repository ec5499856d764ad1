"""Score one group that fits in memory, from features to patch maps: the Python API and the reference for the stages."""

from collections.abc import Callable, Sequence
from functools import partial
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from musc_ray.core import AGGREGATIONS, DEFAULT_RADIUS, MATCHINGS, MAX_DEGREE
from musc_ray.core.kept_patches import KeptPatches
from musc_ray.core.matching import choose_matching, radii_to_try
from musc_ray.core.matching_limits import MIN_IMAGES, SAMPLE_IMAGES
from musc_ray.core.operands.base import PreparedShard
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.patch_scores import exact_scores
from musc_ray.core.precision import default_device, distance_dtype, resolve_precision
from musc_ray.core.tile_product import multiply_tile


def score_features(
    features: Sequence[Any],
    grid: tuple[int, int],
    *,
    degrees: Sequence[int] = (1, 3, 5),
    interval: tuple[float, float] = (0.0, 0.3),
    precision: str = "auto",
    device: str | torch.device | None = None,
    aggregation: str = "lnamd",
    matching: str = "anywhere",
    radius: int | None = None,
    kept: Any = None,
) -> Tensor:
    """Compute patch anomaly scores of N images of one product against each other (MuSc: LNAMD, MSM, interval average).

    Holds N * N * h * w distances per degree of a layer: for archives use `musc-ray run`.

    Args:
        features: (N, h*w, C) raw patch tokens of each layer, row-major; tensors or arrays of any float dtype and any C.
        grid: (h, w).
        degrees: odd neighbourhood sizes r.
        interval: share of the sorted distances to average.
        precision: `float32` (exact), `bfloat16`, `float16`, `int8` (unit vectors in 8 bits, then exact), or `auto`
            (the fastest of the first three that the device has; float32 for few images).
        device: where to compute; None means the GPU if there is one, else the CPU.
        aggregation: `lnamd` (plain means, one vector per degree) or `snamd` (similarity-weighted, one vector; MuSc-V2).
        matching: patches look for their nearest `anywhere`, `near` their place, or as a sample says (`auto`).
        radius: how far, in patches; with `near` 2 if not given, with `auto` the only one that is tried.
        kept: (h*w,) or (N, h*w) bool, patches that are scored and compared with; None means all.

    Returns:
        (N, h*w) float32 on the CPU: the patch map of each image, mean over layers and degrees; NaN where not kept.

    Raises:
        ValueError: mismatched shapes, fewer than 2 images, NaN or infinite features, invalid settings.
    """
    layers = list(map(_as_tensor, features))
    images = _check_inputs(layers, grid, degrees, interval, aggregation)
    patches = _kept_patches(kept, images, grid[0] * grid[1])
    target = torch.device(device) if device is not None else default_device()
    dtype = resolve_precision(precision, target, images)
    radius, total = _given_radius(matching, radius), torch.zeros(images, grid[0] * grid[1], dtype=torch.float64)
    if matching == "auto":
        prepared = partial(prepare, grid=grid, degrees=degrees, aggregation=aggregation)
        radius = _auto_radius(layers[max(0, len(layers) - 2)], prepared, radii_to_try(grid, radius), interval, target)
    for tokens in layers:
        shard = prepare(tokens.to(target), grid, degrees, dtype, aggregation, radius, kept=patches)
        distances, _ = multiply_tile(shard, shard, distance_dtype(dtype))
        total += _on_grid(exact_scores([distances], images - 1, interval, target), patches)
    return (total / len(layers)).float()


def _on_grid(scores: Tensor, kept: KeptPatches | None) -> Tensor:
    """Put the scores of kept patches (N, K) in their places (N, L), NaN elsewhere."""
    return scores if kept is None else torch.from_numpy(kept.spread(scores.numpy(), np.nan))


def _kept_patches(kept: Any, images: int, patches: int) -> KeptPatches | None:
    """Return the kept patches of all images.

    Raises:
        ValueError: one sentence.
    """
    if kept is None:
        return None
    flags = np.asarray(kept)
    if flags.dtype != np.bool_ or flags.shape not in ((patches,), (images, patches)):
        raise ValueError(f"kept must be ({patches},) or ({images}, {patches}) bool, got {flags.shape} {flags.dtype}.")
    flags = np.broadcast_to(flags, (images, patches))
    if not flags.any(axis=1).all():
        raise ValueError(f"image {int((~flags.any(axis=1)).argmax())} keeps no patch: it cannot be scored.")
    return KeptPatches.of(flags, np.asarray(flags.any(axis=0)))


def _auto_radius(
    tokens: Tensor,
    prepared: Callable[..., PreparedShard],
    radii: Sequence[int],
    interval: tuple[float, float],
    device: torch.device,
) -> int | None:
    """Choose one of some radii by a sample of a layer's tokens (N, L, C); None means anywhere."""
    chosen = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))[:SAMPLE_IMAGES]
    sample = tokens[chosen].to(device)

    def distances(radius: int | None) -> Tensor:
        shard = prepared(sample, radius=radius)
        return multiply_tile(shard, shard)[0]

    return None if len(tokens) < MIN_IMAGES else choose_matching(distances, interval, radii).radius


def _given_radius(matching: str, radius: int | None) -> int | None:
    """Return the radius that is given, or the default of `near`.

    Raises:
        ValueError: one sentence.
    """
    if matching not in MATCHINGS:
        raise ValueError(f"matching must be one of {', '.join(MATCHINGS)}, not {matching!r}.")
    if radius is not None and (matching == "anywhere" or not isinstance(radius, Integral) or radius < 1):
        raise ValueError(
            f"radius must be a whole number of at least 1, with matching near or auto, got {radius!r} with {matching}."
        )
    return DEFAULT_RADIUS if matching == "near" and radius is None else radius


def _as_tensor(layer: Any) -> Tensor:
    return layer if isinstance(layer, Tensor) else torch.from_numpy(np.ascontiguousarray(layer))


def _check_inputs(
    layers: Sequence[Tensor],
    grid: tuple[int, int],
    degrees: Sequence[int],
    interval: tuple[float, float],
    aggregation: str,
) -> int:
    """Check what the formulas assume; returns the number of images.

    Raises:
        ValueError: one sentence that names the argument and what it must be.
    """
    if not layers:
        raise ValueError("features must hold at least one layer.")
    if not degrees or any(degree not in range(1, MAX_DEGREE + 1, 2) for degree in degrees):
        raise ValueError(f"degrees must be odd numbers from 1 to {MAX_DEGREE}, got {list(degrees)}.")
    if aggregation not in AGGREGATIONS:
        raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, not {aggregation!r}.")
    if not 0.0 <= interval[0] < interval[1] <= 1.0:
        raise ValueError(f"interval must satisfy 0 <= low < high <= 1, got {tuple(interval)}.")
    images = layers[0].shape[0]
    for number, tokens in enumerate(layers):
        if tokens.ndim != 3 or tokens.shape[1] != grid[0] * grid[1] or tokens.shape[0] != images:
            raise ValueError(
                f"features[{number}] must be (N, h*w, C) = ({images}, {grid[0] * grid[1]}, C) for grid {tuple(grid)}, "
                f"got {tuple(tokens.shape)}."
            )
        if not tokens.dtype.is_floating_point:
            raise ValueError(f"features[{number}] must be of a float dtype, got {tokens.dtype}.")
        if not torch.isfinite(tokens.sum(dtype=torch.float32)) and not torch.isfinite(tokens).all():
            raise ValueError(f"features[{number}] holds NaN or infinite values.")
    if images < 2:
        raise ValueError(f"at least 2 images are needed to score each other, got {images}.")
    return images
