"""The tile kernel of mutual scoring (MSM, MuSc section 3.3): one product of two shards serves both directions.

Distances come from one matrix product. Every unit patch vector z carries its half squared length along, so that

    [z_a, 1, -|z_a|^2 / 2] . [z_b, -|z_b|^2 / 2, 1]  =  -|z_a - z_b|^2 / 2

and the nearest patch is the *largest* entry: its row maximum over the patches of image b scores the patch of image a,
its column maximum over the patches of a scores the patch of b. In low precision this matters: an output rounded to
8 bits of -d^2/2 keeps d to a relative 2^-10, where a rounded cosine near 1 would lose it altogether.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.precision import LENGTH_PIECES

BLOCK_ENTRIES = {"cpu": 2**23, "cuda": 2**29}
"""Entries of one product held at a time: small enough for the last-level cache, large enough for full GEMM speed."""

NEAR_DUPLICATE = 1e-2
"""Below this distance float32 cancellation costs more than 1e-5: such pairs are computed again by differences."""


@dataclass(frozen=True)
class PreparedShard:
    """One layer of a shard, aggregated and normalised, ready to be multiplied.

    `operands` holds for each degree the left operand (A * L, C + extra) of the module's formula, images row-major; the
    right one has the same columns in another order and is made when needed.
    """

    images: int
    patches: int
    channels: int
    operands: tuple[Tensor, ...]

    @property
    def nbytes(self) -> int:
        """Bytes that the operands take."""
        return sum(operand.numel() * operand.element_size() for operand in self.operands)

    def right(self, d: int) -> Tensor:
        """The right operand for the d-th degree: the ones and the lengths trade places."""
        z, ones, lengths = self.operands[d].tensor_split(
            (self.channels, (self.channels + self.operands[d].shape[1]) // 2), dim=1
        )
        return torch.cat([z, lengths, ones], dim=1)


def prepare(
    tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int], dtype: torch.dtype = torch.float32
) -> PreparedShard:
    """LNAMD of one layer for every degree, as operands of the tile product.

    Args:
        tokens: (A, h*w, C) raw patch tokens on the device that will multiply them.
        grid: (h, w).
        degrees: odd neighbourhood sizes.
        dtype: float32, bfloat16 or float16: what the product reads.
    """
    normalised = layer_norm(tokens)
    images, patches, channels = tokens.shape
    operands = tuple(_operand(aggregate(normalised, grid, degree), dtype) for degree in degrees)
    return PreparedShard(images, patches, channels, operands)


def _operand(z: Tensor, dtype: torch.dtype) -> Tensor:
    """Append 1s and -|z|^2 / 2, the latter split into as many pieces of `dtype` as keep it exact to float32."""
    z = z.reshape(-1, z.shape[-1]).to(dtype)
    rest = -0.5 * z.float().square().sum(dim=1, keepdim=True)
    pieces = []
    for _ in range(LENGTH_PIECES[dtype]):
        pieces.append(rest.to(dtype))
        rest = rest - pieces[-1].float()
    ones = torch.ones_like(pieces[0]).expand(-1, len(pieces))
    return torch.cat([z, ones, *pieces], dim=1)


def tile_minima(a: PreparedShard, b: PreparedShard, out_dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Nearest-patch distances between all images of two shards, both directions from one product (MuSc, eq. 3).

    Args:
        a: shard of A images; b: shard of B images, prepared alike. The same object twice is a diagonal tile: only half
            of it is multiplied, and an image's distance to itself is +inf.
        out_dtype: dtype of the result.

    Returns:
        rows (D, A, L, B): distance of every patch of a to its nearest patch in every image of b, per degree;
        columns (D, B, L, A): the same the other way round. Both on the CPU.
    """
    diagonal = a is b
    degrees, length = len(a.operands), a.patches
    rows = torch.empty((degrees, a.images, length, b.images), dtype=out_dtype)
    columns = rows if diagonal else torch.empty((degrees, b.images, length, a.images), dtype=out_dtype)
    for d in range(degrees):
        left, right = a.operands[d], b.right(d)
        for i, j in _blocks(a.images, b.images, length, left.device.type, diagonal):
            nearest_in_b, nearest_in_a = _block_minima(
                left[i.start * length : i.stop * length],
                right[j.start * length : j.stop * length],
                length,
                a.channels,
                own_pairs=diagonal and i == j,
            )
            rows[d, i, :, j] = nearest_in_b.to(out_dtype).cpu()
            columns[d, j, :, i] = nearest_in_a.to(out_dtype).cpu()
    return rows, columns


def _blocks(images_a: int, images_b: int, patches: int, device: str, diagonal: bool) -> Iterator[tuple[slice, slice]]:
    """Cut a tile into blocks of images; of a diagonal tile only the upper triangle of blocks."""
    side = max(1, int((BLOCK_ENTRIES[device] / patches**2) ** 0.5))
    for i in range(0, images_a, side):
        for j in range(i if diagonal else 0, images_b, side):
            yield slice(i, min(i + side, images_a)), slice(j, min(j + side, images_b))


def _block_minima(left: Tensor, right: Tensor, length: int, channels: int, own_pairs: bool) -> tuple[Tensor, Tensor]:
    """Distances (a, L, b) and (b, L, a) of a images' left operand and b images' right operand.

    own_pairs: both are the same images, whose distances to themselves become +inf.
    """
    product = (left @ right.T).view(len(left) // length, length, len(right) // length, length)
    row_max, column_max = product.amax(dim=3), product.amax(dim=1).permute(1, 2, 0)
    nearest_in_b, nearest_in_a = _distance(row_max), _distance(column_max)
    if own_pairs:
        own = torch.arange(product.shape[0], device=product.device)
        nearest_in_b[own, :, own] = torch.inf
        nearest_in_a[own, :, own] = torch.inf
    if left.dtype == torch.float32:
        _recompute_near_duplicates(left, right, channels, nearest_in_b, nearest_in_a)
    return nearest_in_b, nearest_in_a


def _distance(half_negative_square: Tensor) -> Tensor:
    """-d^2 / 2 -> d, float32; rounding may leave it slightly positive."""
    return half_negative_square.float().mul(-2.0).clamp_(min=0.0).sqrt_()


def _recompute_near_duplicates(
    left: Tensor, right: Tensor, channels: int, nearest_in_b: Tensor, nearest_in_a: Tensor
) -> None:
    """Replace, in place, all distances of image pairs that hold near-duplicate patches by direct differences.

    |x - y| from a product loses sqrt(1e-7) at x = y; duplicates are common in archives and must come out as 0.
    """
    close = (nearest_in_b < NEAR_DUPLICATE).any(dim=1)  # (a, b): seen alike from either side
    length = nearest_in_b.shape[1]
    for i, j in close.nonzero().tolist():
        x = left[i * length : (i + 1) * length, :channels]
        y = right[j * length : (j + 1) * length, :channels]
        distances = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
        nearest_in_b[i, :, j] = distances.amin(dim=1)
        nearest_in_a[j, :, i] = distances.amin(dim=0)
