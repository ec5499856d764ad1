"""Interface of a prepared shard: operands of matrix products whose entries are largest for nearest patches."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from musc_ray.core.kept_patches import KeptPatches

PlainPatches = Callable[[Tensor], Tensor]
"""Turns raw tokens (A, L, C) into the float32 patches (A, L, C) whose neighbourhoods a shard averages."""

PRODUCT_CHUNK = {"cpu": 2**21, "cuda": 2**29}
"""Entries of a product held at a time: small enough for the last-level cache, large enough for full GEMM speed."""

IMAGES_CHUNK = 16
"""Images prepared at a time: intermediate results stay in memory that is reused."""

EQUAL = 1e-6
"""Distances from products in float64 below this are those of equal vectors."""

MIN_NEAR_DUPLICATE_LIMIT = 1e-2
"""Below this distance float32 cancellation costs more than 1e-5."""


FARTHEST = 2.0
"""Largest distance of unit vectors: that of a patch from images that have no patch to compare it with."""


class PreparedShard(ABC):
    """One layer of A images, ready to be multiplied; or of the places of fewer images, each place like an image.

    Attributes:
        places: consecutive ones of the A that are places of one image: `tile_product` takes minima over all of them.
        patches: vectors of an image: all of its grid, or those that are kept.
        kept: which of the grid's patches have vectors; None means all.
        degrees: those that the shard averages over itself; (1,) after SNAMD.
        operands: left operands (A * L, C + extra), images row-major; of `NearShard` by place.
        near_duplicate_limits: (D,) per degree, the distance below which a product is too inexact.
        zero_vectors: (D, A) bool, images with a zero vector, for which the product's distances do not hold.
        with_zeros: (D,) bool, whether any image has one.
    """

    whole_blocks = False
    """Whether images on the diagonal of a tile are multiplied in whole blocks, rather than image by image."""

    places = 1
    operands: list[Tensor]
    near_duplicate_limits: Tensor
    zero_vectors: Tensor
    with_zeros: Tensor

    def __init__(
        self,
        images: int,
        grid: tuple[int, int],
        channels: int,
        degrees: tuple[int, ...],
        kept: KeptPatches | None = None,
    ) -> None:
        self.images, self.grid, self.channels, self.degrees = images, grid, channels, degrees
        self.kept = kept
        self.patches = grid[0] * grid[1] if kept is None else kept.most

    @property
    def whole_images(self) -> int:
        """Number of images that all places make."""
        return self.images // self.places

    @property
    def nbytes(self) -> int:
        """Size of the operands in bytes."""
        return sum(operand.numel() * operand.element_size() for operand in self.operands)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the operands."""
        return self.operands[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of the product."""
        return self.operands[0].device

    @property
    def chunk_side(self) -> int:
        """Images along a side of a part of a tile that is multiplied at a time: the product of two fits a cache."""
        return max(1, int((PRODUCT_CHUNK[self.device.type] / self.patches**2) ** 0.5))

    def _substitutes(self, excluded: Tensor) -> Tensor:
        """Choose the patch (A, L) to read in place of each: itself, or a kept one of its image if excluded (A, L)."""
        own = torch.arange(self.patches, device=excluded.device).expand_as(excluded)
        return torch.where(excluded, (~excluded).int().argmax(dim=1, keepdim=True), own)

    def _kept_vectors(self, vectors: Tensor, images: slice) -> Tensor:
        """Select the vectors (a, K, C) of the kept patches from those of all patches (a, L, C) of some images."""
        if self.kept is None:
            return vectors
        index = torch.from_numpy(self.kept.index[images]).to(vectors.device)
        return vectors.gather(1, index[:, :, None].expand(-1, -1, vectors.shape[2]))

    def empty_images(self, images: slice) -> Tensor | None:
        """Tell which of some images keep no patch, (a,) bool; None where all keep one."""
        if self.kept is None or not self.kept.empty[images].any():
            return None
        return torch.from_numpy(self.kept.empty[images]).to(self.device)

    def _rows(self, operand: Tensor, images: slice) -> Tensor:
        return operand[images.start * self.patches : images.stop * self.patches]

    @abstractmethod
    def nearest_distances(self, other: Self, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """Compute distances |a - b| of nearest patches between images i of this shard and images j of another.

        Returns:
            (D, a, L, b), minimum over the patches of b, and (D, b, L, a), minimum over the patches of a, float32.
        """

    @abstractmethod
    def exclude(self, patches: Tensor) -> None:
        """Make patches nobody's nearest when this shard is the right side of a tile.

        Distances of the patches of this shard are undefined afterwards.

        Args:
            patches: (A, L) bool, L as `patches` says; every image keeps at least one.
        """

    @abstractmethod
    def unit_vectors(self, d: int, image: int) -> Tensor:
        """Return the unit vectors (L, C) float32 of an image for the d-th degree; substitutes for excluded patches."""
