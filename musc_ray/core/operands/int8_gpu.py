"""The form of a shard in int8 for GPUs: multiplied on tensor cores, reduced to maxima on the chip."""

from typing import Self

from torch import Tensor

from musc_ray.core.operands.int8 import Int8Shard, to_distances


class FusedInt8Shard(Int8Shard):
    """Multiplied by `kernels/fused.py` (Triton), which keeps no product; the same numbers as `Int8Shard`."""

    def _nearest(self, other: Self, d: int, i: slice, j: slice, out: tuple[Tensor, Tensor]) -> None:
        """See Int8Shard."""
        from musc_ray.core.kernels.fused import nearest

        own, others = self._rows(self.operands[d], i), other._rows(other.operands[d], j)
        halves = -self._rows(self.constants[d], i), -other._rows(other.right_constants[d], j)
        maxima = nearest((own, halves[0]), (others, halves[1]), (self.patches, other.patches), own.shape[1])
        for found, distances in zip(maxima, out, strict=True):
            distances.copy_(to_distances(found, self.scale))
