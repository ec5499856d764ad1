"""The form of a shard whose unit vectors are int8: exact integers, where any patch may be the nearest."""

from typing import Self

import torch
from torch import Tensor

from musc_ray.core.kept_patches import KeptPatches
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.operands.base import IMAGES_CHUNK, PlainPatches, PreparedShard
from musc_ray.core.quantised import NOWHERE, int8_scale, quantise

CHANNEL_UNIT = 16
"""Operands have whole units of channels: tensor cores read 16 bytes at a time."""


class Int8Shard(PreparedShard):
    """One operand per degree: int8 vectors q, with the constants -|q|^2 / 2, so that

    q.p - |q|^2 / 2 - |p|^2 / 2  =  -|q - p|^2 / 2

    are exact integers: equal patches are at distance 0, and near ones lose nothing. This form multiplies with PyTorch
    on any device; subclasses have kernels that keep no product.

    Attributes:
        scale: from unit vectors to int8.
        constants: of every degree as a left operand, (A * L,) int32.
        right_constants: as a right operand; NOWHERE for excluded patches.
    """

    def __init__(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        degrees: tuple[int, ...],
        plain_patches: PlainPatches = layer_norm,
        turned: bool = False,
        kept: KeptPatches | None = None,
    ) -> None:
        super().__init__(tokens.shape[0], grid, tokens.shape[2], degrees, kept)
        self.scale = int8_scale(self.channels)
        self.substitutes: Tensor | None = None
        self._allocate(tokens.device)
        for start in range(0, self.images, IMAGES_CHUNK):
            part = slice(start, min(start + IMAGES_CHUNK, self.images))
            plain = plain_patches(tokens[part])
            for d, degree in enumerate(degrees):
                self._fill(d, part, quantise(self._kept_vectors(aggregate(plain, grid, degree), part), turned))
        self.near_duplicate_limits = torch.zeros(len(degrees), device=self.device)
        self.zero_vectors = torch.zeros(len(degrees), self.images, dtype=torch.bool, device=self.device)
        self.with_zeros = self.zero_vectors.any(dim=1)  # False: the constants include the lengths

    def _allocate(self, device: torch.device) -> None:
        width, rows = -(-self.channels // CHANNEL_UNIT) * CHANNEL_UNIT, self.images * self.patches
        self.operands = [torch.zeros(rows, width, dtype=torch.int8, device=device) for _ in self.degrees]
        self.constants = [torch.empty(rows, dtype=torch.int32, device=device) for _ in self.degrees]
        self.right_constants = self.constants

    def _fill(self, d: int, images: slice, vectors: Tensor) -> None:
        """Store the int8 vectors (a, L, C) of some images."""
        self._rows(self.operands[d], images)[:, : self.channels] = vectors.flatten(0, 1)
        self._rows(self.constants[d], images)[:] = -half_squares(vectors).flatten()

    @property
    def nbytes(self) -> int:
        """See PreparedShard; counts the constants, too."""
        return super().nbytes + sum(4 * constants.numel() for constants in self.constants)

    def nearest_distances(self, other: Self, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """See PreparedShard; one product per degree."""
        count, a, b = len(self.degrees), i.stop - i.start, j.stop - j.start
        in_b = torch.empty(count, a, self.patches, b, device=self.device)
        in_a = torch.empty(count, b, other.patches, a, device=self.device)
        for d in range(len(self.degrees)):
            self._nearest(other, d, i, j, (in_b[d], in_a[d]))
        return in_b, in_a

    def _nearest(self, other: Self, d: int, i: slice, j: slice, out: tuple[Tensor, Tensor]) -> None:
        """Compute the distances of one degree, (a, L, b) and (b, L, a), into `out`."""
        product = _product(self._rows(self.operands[d], i), other._rows(other.operands[d], j))
        left, right = self._rows(self.constants[d], i), other._rows(other.right_constants[d], j)
        if self.device.type == "cpu":
            from musc_ray.core.kernels import int8_dot  # here: imports numba, which a GPU does without

            int8_dot.nearest_of_product(product, left, right, self.scale, out)
            return
        product += left[:, None]
        product += right
        by_image = product.view(i.stop - i.start, self.patches, j.stop - j.start, other.patches)
        for maxima, distances in ((by_image.amax(dim=3), out[0]), (by_image.amax(dim=1).permute(1, 2, 0), out[1])):
            distances.copy_(to_distances(maxima, self.scale))

    def exclude(self, patches: Tensor) -> None:
        """See PreparedShard."""
        where = patches.to(self.device)
        self.right_constants = [self._without(constants, where) for constants in self.right_constants]
        self.substitutes = self._substitutes(where)

    def _without(self, constants: Tensor, patches: Tensor) -> Tensor:
        """Return right constants in which patches (A, L) are NOWHERE."""
        return constants.masked_fill(patches.flatten(), NOWHERE)

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See PreparedShard; as rounded and turned."""
        vectors = self._vectors(d, image).float() / self.scale
        return vectors if self.substitutes is None else vectors[self.substitutes[image]]

    def _vectors(self, d: int, image: int) -> Tensor:
        """Return the int8 vectors (L, C) of an image."""
        return self._rows(self.operands[d], slice(image, image + 1))[:, : self.channels]


def half_squares(vectors: Tensor) -> Tensor:
    """Compute half squared lengths (...,) int32 of int8 vectors (..., C), which are whole numbers."""
    return vectors.int().square().sum(dim=-1, dtype=torch.int32) // 2


def to_distances(maxima: Tensor, scale: float) -> Tensor:
    """Compute float32 distances from maxima of -|q - p|^2 / 2, int32; on every device the same numbers.

    They are as IEEE rounds them. PyTorch's square roots of float32 on a CPU are not, and neither are its quotients by a
    number on a GPU, which are products with its inverse.
    """
    return maxima.mul(-2).double().sqrt_().float().div_(torch.full((1,), scale, device=maxima.device))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """Compute left (M, C) times right (N, C) transposed, both int8, as (M, N) int32."""
    if left.device.type == "cpu":
        product: Tensor = torch._int_mm(left, right.T)
        return product
    return (left.float() @ right.float().T).int()  # integers below 2^24
