"""A shard's layer as operands of matrix products whose entries are large where patches are near.

Two forms with one result. On a CPU one product of plain patches serves all degrees (`GramShard`). On a GPU, where
products are cheap and passes over memory are not, each degree has its own (`ProductShard`). After SNAMD a patch is one
vector, which either form takes for a plain patch of degree 1.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from typing import Self

import torch
from torch import Tensor

from musc_ray.core import snamd
from musc_ray.core.lnamd import layer_norm

PlainPatches = Callable[[Tensor], Tensor]
"""From raw tokens (A, L, C) of some images to the float32 patches (A, L, C) whose neighbourhoods a shard averages."""

SMALLEST_NEAR_DUPLICATE = 1e-2
"""Below this distance float32 cancellation costs more than 1e-5."""


def products_a_tile(on_gpu: bool, vectors: int) -> int:
    """Matrix products of a layer's tile: one for all of a patch's vectors on a CPU, one for each on a GPU."""
    return vectors if on_gpu else 1


def prepare(
    tokens: Tensor,
    grid: tuple[int, int],
    degrees: Sequence[int],
    dtype: torch.dtype = torch.float32,
    aggregation: str = "lnamd",
) -> "PreparedShard":
    """LayerNorm and, for every degree, what LNAMD needs to become a product; after SNAMD all are one of degree 1.

    Args:
        tokens: (A, h*w, C) raw patch tokens on the device that will multiply them.
        grid: (h, w).
        degrees: odd neighbourhood sizes.
        dtype: float32, bfloat16 or float16: what the product reads.
        aggregation: `lnamd` or `snamd`.
    """
    plain_patches: PlainPatches = layer_norm
    if aggregation == "snamd":
        plain_patches, degrees = partial(_snamd_patches, grid=grid, degrees=degrees), (1,)
    if tokens.device.type == "cpu" and find_spec("numba") is not None:
        from musc_ray.core.operands.cpu import GramShard

        return GramShard(tokens, grid, tuple(degrees), dtype, plain_patches)
    from musc_ray.core.operands.gpu import ProductShard  # also on a machine that has only torch

    return ProductShard(tokens, grid, tuple(degrees), dtype, plain_patches)


def _snamd_patches(tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]) -> Tensor:
    return snamd.aggregate(layer_norm(tokens), grid, degrees)


class PreparedShard(ABC):
    """One layer of A images, ready to be multiplied.

    Attributes:
        degrees: those that the shard averages over by itself; (1,) after SNAMD.
        operands: left operands (A * L, C + extra), images row-major.
        near_duplicate: (D,) for each degree, the distance below which a product loses too much of it.
        zero_vectors: (D, A) bool, which images hold a zero vector for which the product's distances do not hold.
        with_zeros: (D,) whether any does.
    """

    operands: list[Tensor]
    near_duplicate: Tensor
    zero_vectors: Tensor
    with_zeros: Tensor

    def __init__(self, images: int, grid: tuple[int, int], channels: int, degrees: tuple[int, ...]) -> None:
        self.images, self.grid, self.channels, self.degrees = images, grid, channels, degrees
        self.patches = grid[0] * grid[1]

    @property
    def nbytes(self) -> int:
        """Bytes that the operands take."""
        return sum(operand.numel() * operand.element_size() for operand in self.operands)

    @property
    def dtype(self) -> torch.dtype:
        """What the product reads."""
        return self.operands[0].dtype

    @property
    def device(self) -> torch.device:
        """Where the product is computed."""
        return self.operands[0].device

    def _stand_ins(self, patches: Tensor) -> Tensor:
        """For every patch (A, L) the one that is read in its place: itself, or a kept one of its image."""
        own = torch.arange(self.patches, device=patches.device).expand_as(patches)
        return torch.where(patches, (~patches).int().argmax(dim=1, keepdim=True), own)

    def _rows(self, operand: Tensor, images: slice) -> Tensor:
        return operand[images.start * self.patches : images.stop * self.patches]

    @abstractmethod
    def nearest(self, other: Self, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """For each degree the distances |a - b| of nearest patches between images i of this shard and j of another one.

        Returns:
            (D, a, L, b), the least over the patches of b, and (D, b, L, a), the least over the patches of a, float32.
        """

    @abstractmethod
    def exclude(self, patches: Tensor) -> None:
        """From now on these patches are nobody's nearest, where this shard is the right side of a tile.

        Distances of the patches of this shard mean nothing any more.

        Args:
            patches: (A, L) bool; every image keeps at least one.
        """

    @abstractmethod
    def unit_vectors(self, d: int, image: int) -> Tensor:
        """The unit vectors (L, C) float32 of an image for the d-th degree; of excluded patches another one's."""
