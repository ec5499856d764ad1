"""The form of a shard of aligned images for GPUs: products by place and offset, reduced to distances on the chip."""

from typing import Self

import torch
from torch import Tensor

from musc_ray.core.operands.base import FARTHEST, MIN_NEAR_DUPLICATE_LIMIT
from musc_ray.core.operands.near import EXCLUDED_HALF, NearShard

EQUAL = {torch.int8: 0.0, torch.float16: 4e-3, torch.bfloat16: 4e-3, torch.float32: 0.0}
"""Distances below this are those of equal patches.

Tensor cores truncate sums of floats, by up to 2^-24 for every 16 channels: of 1024 channels they are off by 4e-6, and
the distance of a patch from its copy is sqrt(2 * 4e-6). Rounding to 11 bits or less moves distances by as much. int8 is
exact, and so are differences, which float32 is refined by.
"""

PATCHES_CHUNK = 2**18
"""Near duplicates whose differences are computed at a time."""


class FusedNearShard(NearShard):
    """Multiplied by the Triton kernel of `kernels/fused_near.py`, which keeps no product."""

    def nearest_distances(self, other: Self, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """See NearShard."""
        from musc_ray.core.kernels.fused_near import nearest

        count, images_a, images_b = len(self.degrees), i.stop - i.start, j.stop - j.start
        patches = self.grid[0] * self.grid[1]
        in_b = torch.empty(count, images_a, patches, images_b, device=self.device)
        in_a = torch.empty(count, images_b, patches, images_a, device=self.device)
        for d in range(count):
            own, others = self._images(d, i), other._images(d, j)
            for left, right, out in ((own, others, in_b[d]), (others, own, in_a[d])):
                nearest(left, right, self.grid, self.radius, self.scale, (EQUAL[self.dtype], FARTHEST), out)
                if self.dtype == torch.float32:
                    self._refine_near_duplicates(left, right, out)
        return self._of_kept(in_b, i), other._of_kept(in_a, j)

    def _images(self, d: int, images: slice) -> tuple[Tensor, Tensor]:
        """Return patches (L, a, C) and half squared lengths (L, a) of some images."""
        halves = self.halves[d][:, images]
        return self.operands[d][:, images], halves.int() if self.dtype == torch.int8 else halves

    def _refine_near_duplicates(self, a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor], distances: Tensor) -> None:
        """Compute small distances (a, L, b) again, in place, from differences: products cancel."""
        for entries in torch.split((distances < MIN_NEAR_DUPLICATE_LIMIT).nonzero(), PATCHES_CHUNK):
            image, place, other = entries.unbind(dim=1)
            own, squares = a[0][place, image].float(), torch.full((len(entries),), torch.inf, device=self.device)
            row, column = place // self.grid[1], place % self.grid[1]
            for down in range(-self.radius, self.radius + 1):
                for across in range(-self.radius, self.radius + 1):
                    y, x = row + down, column + across
                    outside = (y < 0) | (y >= self.grid[0]) | (x < 0) | (x >= self.grid[1])
                    there = torch.where(outside, place, y * self.grid[1] + x)
                    square = (own - b[0][there, other].float()).square().sum(dim=1)
                    square[outside | (b[1][there, other] == EXCLUDED_HALF)] = torch.inf
                    squares = torch.minimum(squares, square)
            distances[image, place, other] = squares.sqrt_()
