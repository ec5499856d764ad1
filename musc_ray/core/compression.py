"""Compress tokens: few directions hold nearly all of the energy of a product's tokens.

After LNAMD's LayerNorm (z, one mean and deviation for each image) tokens are projected on the first K directions of an
uncentred PCA of the group's layer. The little that lies outside them is what sets a defect apart from good patches, and
without it defects look too much like their neighbours. So each token keeps its length: its last components, on the
directions of least energy, are lengthened by what lies outside. What is outside of two unlike tokens is about
orthogonal, so that their distance is nearly that of all channels.

The result is turned by a fixed rotation: distances stay, and the components become about equally large, as rounding
to 8 bits wants them. Centred PCA and random projections lose more (DESIGN, section 11).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from musc_ray.core.compression_limits import AUTO_ENERGY, CHANNELS_STEP, most_channels
from musc_ray.core.lnamd import LAYER_NORM_EPS, layer_norm
from musc_ray.core.quantised import MAX_INT8, rotation

LENGTHENED = 3 / 8
"""Share of the K components, those of least energy, that are lengthened by what lies outside the directions.

With a quarter of DINOv2's channels patch scores of three sets of real images correlate with those of all channels at
0.9997 to 1.0000 for a share of 1/4, 3/8 or 1/2, and at 0.9982 to 0.9993 if nothing is lengthened; random directions for
what lies outside give 0.9995 to 0.9998 (`tests/benchmarks/bench_projection.py`).
"""


class Basis(NamedTuple):
    """Directions (C, K) float32 on the CPU, orthonormal columns, that with most energy first; their share of it."""

    vectors: Tensor
    energy: float


class Projection(NamedTuple):
    """Tokens of A images on K directions, what LayerNorm took from them, and what the directions do not show.

    Attributes:
        tokens: (A, L, K) float32, of the length of the normalised tokens, turned.
        norms: (A, 2) float32, mean and standard deviation of each image's raw tokens.
        outside: (A,) float32, share of the energy of each image's tokens outside the directions, from 0 to 1.
    """

    tokens: Tensor
    norms: Tensor
    outside: Tensor


class Energies:
    """Sum of z z' over the tokens of one layer: (C, C) float64, not centred."""

    def __init__(self, channels: int, device: torch.device) -> None:
        self.products = torch.zeros(channels, channels, dtype=torch.float64, device=device)

    def add(self, tokens: Tensor) -> None:
        """Add the raw tokens (A, L, C) of some images, each normalised as LNAMD does."""
        for image in layer_norm(tokens):
            self.products.addmm_(image.double().T, image.double())

    def merge(self, other: "Energies") -> None:
        """Add what another sum holds."""
        self.products += other.products

    def directions(self) -> tuple[Tensor, Tensor]:
        """Return all directions (C, C) float64 as columns, that with most energy first, and their energies (C,)."""
        energies, vectors = torch.linalg.eigh(self.products.cpu())
        return vectors.flip(1), energies.flip(0).clamp(min=0)


def find_bases(layers: Sequence[Energies], channels: int | None = None) -> list[Basis]:
    """Find the basis of each layer; all keep the same number K of directions.

    Args:
        layers: energies of each layer, of the same C.
        channels: K, at most C; None for the smallest multiple of CHANNELS_STEP that keeps AUTO_ENERGY in every layer,
            up to `most_channels`.
    """
    found = [layer.directions() for layer in layers]
    if channels is None:
        needed = max(_directions_for(energies, AUTO_ENERGY) for _, energies in found)
        largest = most_channels(len(found[0][1]))
        channels = min(largest, -(-needed // CHANNELS_STEP) * CHANNELS_STEP)
    return [
        Basis(vectors[:, :channels].float().contiguous(), _share(energies[:channels], energies))
        for vectors, energies in found
    ]


def _directions_for(energies: Tensor, share: float) -> int:
    """Count the first directions that hold a share of all energy."""
    kept = energies.cumsum(0) / energies.sum().clamp(min=torch.finfo(energies.dtype).tiny)
    return min(len(energies), int((kept < share).sum()) + 1)


def _share(part: Tensor, whole: Tensor) -> float:
    total = float(whole.sum())
    return min(1.0, float(part.sum()) / total) if total > 0 else 1.0


def project(tokens: Tensor, vectors: Tensor) -> Projection:
    """Normalise the raw tokens (A, L, C) of some images as LNAMD does, project them on directions (C, K), lengthen."""
    raw = tokens.float()
    variance, mean = torch.var_mean(raw, dim=(1, 2), correction=0)
    norms = torch.stack([mean, (variance + LAYER_NORM_EPS).sqrt()], dim=1)
    normalised = layer_norm(raw)
    projected = normalised @ vectors
    whole, kept = (values.square().sum(dim=(1, 2), dtype=torch.float64) for values in (normalised, projected))
    outside = torch.where(whole > 0, 1 - kept / whole, 0.0).clamp(0, 1)
    turned = _lengthened(projected, normalised.square().sum(dim=2)) @ rotation(projected.shape[2]).to(vectors.device)
    return Projection(turned, norms, outside.float())


def _lengthened(projected: Tensor, squares: Tensor) -> Tensor:
    """Lengthen the last components of tokens (A, L, K), so that their squared lengths become `squares` (A, L)."""
    channels = projected.shape[2]
    first = channels - max(1, int(channels * LENGTHENED))
    head, tail = projected[..., :first], projected[..., first:]
    wanted = (squares - head.square().sum(dim=2)).clamp(min=0)
    found = tail.square().sum(dim=2)
    factor = torch.where(found > 0, (wanted / found).sqrt(), 1.0).clamp(min=1)
    return torch.cat([head, tail * factor[..., None]], dim=2)


def raw_tokens(tokens: Tensor, norms: Tensor, vectors: Tensor) -> Tensor:
    """Return the raw tokens' projections (A, L, K) float32, as SNAMD takes them.

    Raw tokens are deviation * z + mean, so that their projection, turned by R, is deviation * y + mean * (1' V R).

    Args:
        tokens: (A, L, K), as `project` gives them.
        norms: (A, 2), likewise.
        vectors: (C, K) directions.
    """
    mean, deviation = norms[:, 0, None, None], norms[:, 1, None, None]
    ones = vectors.sum(dim=0) @ rotation(vectors.shape[1]).to(vectors.device)
    return deviation * tokens.float() + mean * ones


def round_tokens(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Round tokens (..., C) to int8 with a scale a token, so that token = scale * int8.

    Returns:
        (..., C) int8 within -127 and 127, and scales (...,) float32: 0 of zero tokens, NaN or infinite of tokens that
        are not finite.
    """
    tokens = tokens.float()
    scales = tokens.abs().amax(dim=-1) / MAX_INT8
    scales = torch.where(scales < torch.finfo(torch.float32).tiny, 0.0, scales)  # NaN stays
    inverse = torch.where(scales > 0, 1 / scales, 0.0)
    rounded = (tokens * inverse[..., None]).round().clamp(-MAX_INT8, MAX_INT8)
    return rounded.to(torch.int8), scales
