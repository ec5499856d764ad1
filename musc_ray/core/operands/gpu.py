"""The form of a shard for GPUs: unit vectors of every degree, whose products are largest for nearest patches."""

from importlib.util import find_spec
from typing import Self

import torch
from torch import Tensor

from musc_ray.core.kept_patches import KeptPatches
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.operands.base import MIN_NEAR_DUPLICATE_LIMIT, PlainPatches, PreparedShard

PIECES = {torch.float32: 1, torch.float16: 3, torch.bfloat16: 3}
"""Numbers of a dtype whose sum represents a float32 exactly (24 bits in pieces of 8 or 11)."""

ROW_ALIGNMENT = 8
"""Row lengths are multiples of this: tensor cores read 16 bytes at a time."""

HAS_TRITON = find_spec("triton") is not None


class UnitVectorShard(PreparedShard):
    """One operand per degree: unit vectors z with their half squared lengths appended, so that

    [z_a, 1, -|z_a|^2 / 2] . [z_b, -|z_b|^2 / 2, 1]  =  -|z_a - z_b|^2 / 2

    with lengths split into pieces that sum to their float32 values.
    """

    def __init__(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        degrees: tuple[int, ...],
        dtype: torch.dtype,
        plain_patches: PlainPatches = layer_norm,
        kept: KeptPatches | None = None,
    ) -> None:
        super().__init__(tokens.shape[0], grid, tokens.shape[2], degrees, kept)
        plain, images = plain_patches(tokens), slice(0, self.images)
        self.half_squares: list[Tensor] = []
        self.operands = [
            self._operand(self._kept_vectors(aggregate(plain, grid, degree), images), dtype) for degree in degrees
        ]
        self.near_duplicate_limits = torch.full((len(degrees),), MIN_NEAR_DUPLICATE_LIMIT, device=self.device)
        self.zero_vectors = torch.zeros(len(degrees), self.images, dtype=torch.bool, device=self.device)
        self.with_zeros = self.zero_vectors.any(dim=1)  # False: the product includes the lengths

    def _operand(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        z = z.reshape(-1, self.channels).to(dtype)
        rest = -0.5 * z.float().square().sum(dim=1, keepdim=True)
        self.half_squares.append(-rest[:, 0])
        pieces = []
        for _ in range(PIECES[dtype]):
            pieces.append(rest.to(dtype))
            rest = rest - pieces[-1].float()
        ones = torch.ones_like(pieces[0]).expand(-1, len(pieces))
        padding = z.new_zeros(1, 1).expand(len(z), -(self.channels + 2 * len(pieces)) % ROW_ALIGNMENT)
        return torch.cat([z, ones, *pieces, padding], dim=1)

    def nearest_distances(self, other: Self, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """See PreparedShard; one product per degree."""
        maxima = self._fused_maxima if self.device.type == "cuda" and HAS_TRITON else self._product_maxima
        in_b, in_a = zip(*(maxima(other, d, i, j) for d in range(len(self.degrees))), strict=True)
        return _distances(torch.stack(in_b)), _distances(torch.stack(in_a))

    def _fused_maxima(self, other: Self, d: int, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """Compute maxima of -|z_a - z_b|^2 / 2, (a, L, b) and (b, L, a), without holding the product in memory."""
        from musc_ray.core.kernels.fused import nearest

        halves = self._rows(self.half_squares[d], i), other._rows(other.half_squares[d], j)
        own, others = self._rows(self.operands[d], i), other._rows(other.operands[d], j)
        return nearest((own, halves[0]), (others, halves[1]), (self.patches, other.patches), self.channels)

    def _product_maxima(self, other: Self, d: int, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """Compute `_fused_maxima` from the product, with PyTorch alone."""
        others = other._rows(other.operands[d], j)
        pieces = PIECES[self.dtype]
        ends = [self.channels, self.channels + pieces, self.channels + 2 * pieces]
        z, ones, lengths, padding = others.tensor_split(ends, dim=1)
        product = self._rows(self.operands[d], i) @ torch.cat([z, lengths, ones, padding], dim=1).T
        product = product.view(i.stop - i.start, self.patches, j.stop - j.start, other.patches)
        return product.amax(dim=3), product.amax(dim=1).permute(1, 2, 0)

    def exclude(self, patches: Tensor) -> None:
        """See PreparedShard; kept patches replace them."""
        firsts = torch.arange(self.images, device=self.device)[:, None] * self.patches
        rows = (firsts + self._substitutes(patches.to(self.device))).flatten()
        self.operands = [operand[rows] for operand in self.operands]
        self.half_squares = [half_square[rows] for half_square in self.half_squares]

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See PreparedShard."""
        return self._rows(self.operands[d], slice(image, image + 1))[:, : self.channels].float()


def _distances(half_squares: Tensor) -> Tensor:
    """Compute distances from -d^2 / 2, in place."""
    return half_squares.float().mul_(-2.0).clamp_(min=0.0).sqrt_()
