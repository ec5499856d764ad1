"""The form of a shard in int8 for CPUs with AVX-512 VNNI: operands as the instruction reads them."""

from typing import Self

import torch
from torch import Tensor

from musc_ray.core.kernels import int8_dot
from musc_ray.core.operands.int8 import Int8Shard, half_squares
from musc_ray.core.quantised import NOWHERE

CHUNK_PATCHES = 4096
"""Patches along a side of a part of a tile: many pairs of images for each call, few enough for all threads."""


class PackedInt8Shard(Int8Shard):
    """Multiplied and reduced to maxima in registers; see `kernels/int8_dot.py` for the arrangement.

    Attributes:
        operands: (A, R, 4 G) uint8 per degree; their constants are (A, R).
        right: (A, V, G, 16, 4) int8 per degree; their constants are (A, 16 V).
    """

    def _allocate(self, device: torch.device) -> None:
        rows, vectors, groups = int8_dot.sizes(self.patches, self.channels)
        shapes = (rows, 4 * groups), (vectors, groups, 16, 4), (rows,), (16 * vectors,)
        dtypes = torch.uint8, torch.int8, torch.int32, torch.int32
        self.operands, self.right, self.constants, self.right_constants = (
            [torch.empty(self.images, *shape, dtype=dtype, device=device) for _ in self.degrees]
            for shape, dtype in zip(shapes, dtypes, strict=True)
        )

    def _fill(self, d: int, images: slice, vectors: Tensor) -> None:
        """See Int8Shard."""
        halves, sums = half_squares(vectors), vectors.sum(dim=2, dtype=torch.int32)
        self.operands[d][images] = int8_dot.pack_rows(vectors)
        self.right[d][images] = int8_dot.pack_columns(vectors)
        self.constants[d][images] = int8_dot.row_constants(halves)
        self.right_constants[d][images] = int8_dot.column_constants(halves, sums)

    @property
    def nbytes(self) -> int:
        """See PreparedShard; both operands and all constants."""
        tensors = [*self.operands, *self.right, *self.constants, *self.right_constants]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def chunk_side(self) -> int:
        """See PreparedShard; no product is held."""
        return max(1, CHUNK_PATCHES // self.patches)

    def _nearest(self, other: Self, d: int, i: slice, j: slice, out: tuple[Tensor, Tensor]) -> None:
        """See Int8Shard."""
        left, right = (self.operands[d], self.constants[d]), (other.right[d], other.right_constants[d])
        int8_dot.nearest(left, right, (i, j), self.scale, out)

    def _without(self, constants: Tensor, patches: Tensor) -> Tensor:
        """See Int8Shard."""
        changed = constants.clone()
        changed[:, : self.patches].masked_fill_(patches, NOWHERE)
        return changed

    def _vectors(self, d: int, image: int) -> Tensor:
        """See Int8Shard."""
        return int8_dot.unpack_rows(self.operands[d][image, : self.patches, : self.channels])
