"""The int8 form of `near` for CPUs with AVX-512 VNNI: products and their maxima in registers."""

from typing import Self

import torch
from torch import Tensor

from musc_ray.core.kept_patches import KeptPatches
from musc_ray.core.kernels import int8_dot
from musc_ray.core.kernels.simd import LANES
from musc_ray.core.lnamd import layer_norm
from musc_ray.core.operands.base import FARTHEST, PlainPatches
from musc_ray.core.operands.near import NearShard
from musc_ray.core.quantised import NOWHERE


class PackedNearShard(NearShard):
    """Operands by place, packed as `kernels/int8_dot.py` says.

    Attributes:
        operands: (L, R, 4 G) uint8 per degree; their constants are (L, R).
        right: (L, V, G, 16, 4) int8 per degree; their constants are (L, 16 V).
    """

    def __init__(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        degrees: tuple[int, ...],
        dtype: torch.dtype,
        radius: int,
        plain_patches: PlainPatches = layer_norm,
    ) -> None:
        super().__init__(tokens, grid, degrees, dtype, radius, plain_patches)
        self.right: list[Tensor] = []
        self.constants: list[Tensor] = []
        self.right_constants: list[Tensor] = []
        for d, vectors in enumerate(self.operands):
            halves, sums = self.halves[d].int(), vectors.sum(dim=2, dtype=torch.int32)
            self.right.append(int8_dot.pack_columns(vectors))
            self.constants.append(int8_dot.row_constants(halves, int8_dot.SPARE_ROWS))
            self.right_constants.append(int8_dot.column_constants(halves, sums))
            self.operands[d] = int8_dot.pack_rows(vectors, int8_dot.SPARE_ROWS)
        self.halves.clear()

    @property
    def nbytes(self) -> int:
        """See PreparedShard; both operands and all constants."""
        tensors = [*self.operands, *self.right, *self.constants, *self.right_constants]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def nearest_distances(self, other: Self, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """See NearShard; from a whole vector of columns on, whose first ones are dropped."""
        before = j.start % LANES
        whole = slice(j.start - before, j.stop)
        patches = self.grid[0] * self.grid[1]
        in_b = torch.empty(len(self.degrees), i.stop - i.start, patches, whole.stop - whole.start)
        in_a = torch.empty(len(self.degrees), whole.stop - whole.start, patches, i.stop - i.start)
        places = self.grid, self.radius, (self.used.ravel(), other.used.ravel())
        for d in range(len(self.degrees)):
            left, right = (self.operands[d], self.constants[d]), (other.right[d], other.right_constants[d])
            out = in_b[d], in_a[d]
            int8_dot.nearest_places(left, right, places, (i, whole), self.scale, FARTHEST, out)
        return self._of_kept(in_b[..., before:], i), other._of_kept(in_a[:, before:], j)

    def exclude(self, patches: Tensor) -> None:
        """See NearShard."""
        where = torch.from_numpy(self._of_grid(patches)).T
        for constants in self.right_constants:
            constants[:, : self.images].masked_fill_(where, NOWHERE)

    def keep(self, kept: KeptPatches | None) -> Self:
        """See NearShard."""
        if kept is not None:
            for constants in self.constants:
                constants[:, : self.images].masked_fill_(torch.from_numpy(~kept.flags).T, NOWHERE)
        return super().keep(kept)

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See NearShard."""
        return int8_dot.unpack_rows(self.operands[d][:, image, : self.channels]).float() / self.scale
