"""The form of a shard whose patches are compared near their own place alone: images that are aligned.

a(i, m, j) = min |z_i^m - z_j^n| over the patches n of image j within `radius` patches of the place of m (Chebyshev
distance, inside the grid). For a place p and an offset o every patch of shard a at p meets every patch of shard b at
p + o: a product of (A, C) and (C, B), whose entries are at once candidates of the minima of a at p and of those of b at
p + o. So a pair of images costs (2 radius + 1)^2 L products of patches in place of L^2, and they stay dense.
"""

from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musc_ray.core.kept_patches import Flags, KeptPatches
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.operands.base import (
    EQUAL,
    FARTHEST,
    IMAGES_CHUNK,
    MIN_NEAR_DUPLICATE_LIMIT,
    PlainPatches,
    PreparedShard,
)
from musc_ray.core.operands.gpu import PIECES, ROW_ALIGNMENT
from musc_ray.core.quantised import int8_scale, quantise

CHUNK_SIDE = {"cpu": 32, "cuda": 256}
"""Images along a side of a chunk: products of fewer are slow, those of a row of the grid should stay in cache."""

EXCLUDED_HALF = 4.0
"""Half squared length that an excluded patch is given: larger than FARTHEST^2 / 2 + 1/2, so that it never wins."""


class NearShard(PreparedShard):
    """Unit vectors of every degree by position: `operands` are (L, A, C) float or int8.

    Products have the half squared lengths h appended, in pieces that sum to their float32 values:

    [z, 1, -h_z] . [y, -h_y, 1]  =  -|z - y|^2 / 2

    Vectors in int8 are integers below 128 and these products integers below 2^24, since
    |sum q p| <= |q| |p|: exact in float32.

    Where only some patches are kept, places that no image keeps are not multiplied, and further patches that an image
    does not keep are excluded.

    Attributes:
        radius: in patches.
        used: places of the grid that an image keeps, (h, w) bool.
        halves: h of every degree, (L, A) float32.
        scale: from unit vectors to operands.
    """

    whole_blocks = True

    def __init__(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        degrees: tuple[int, ...],
        dtype: torch.dtype,
        radius: int,
        plain_patches: PlainPatches = layer_norm,
    ) -> None:
        super().__init__(tokens.shape[0], grid, tokens.shape[2], degrees)
        self.radius = radius
        self.used: Flags = np.ones(grid, np.bool_)
        self.scale = int8_scale(self.channels) if dtype == torch.int8 else 1.0
        shape = (self.patches, self.images, self.channels)
        self.operands = [torch.empty(shape, dtype=dtype, device=tokens.device) for _ in degrees]
        for start in range(0, self.images, IMAGES_CHUNK):
            part = slice(start, start + IMAGES_CHUNK)
            plain = plain_patches(tokens[part])
            for operand, degree in zip(self.operands, degrees, strict=True):
                vectors = aggregate(plain, grid, degree).transpose(0, 1)
                operand[:, part] = quantise(vectors) if dtype == torch.int8 else vectors
        self.halves = [_half_squares(operand) for operand in self.operands]
        self.near_duplicate_limits = torch.zeros(len(degrees), device=self.device)  # `_refine` sees to them
        self.zero_vectors = torch.zeros(len(degrees), self.images, dtype=torch.bool, device=self.device)
        self.with_zeros = self.zero_vectors.any(dim=1)  # False: the product includes the lengths

    def keep(self, kept: KeptPatches | None) -> Self:
        """Keep some patches alone, or all; the others are neither scored nor anybody's nearest. Returns itself."""
        if kept is None:
            return self
        self.exclude(torch.from_numpy(~kept.flags))
        self.kept, self.patches = kept, kept.most
        self.used = np.any(kept.flags, axis=0).reshape(self.grid)
        return self

    def _of_kept(self, distances: Tensor, images: slice) -> Tensor:
        """Select the distances (D, a, K, b) of kept patches from those of all places (D, a, L, b)."""
        if self.kept is None:
            return distances
        return torch.stack([self._kept_vectors(of_degree, images) for of_degree in distances])

    @property
    def chunk_side(self) -> int:
        """See PreparedShard."""
        return CHUNK_SIDE[self.device.type]

    def nearest_distances(self, other: Self, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """See PreparedShard; the patches within the radius alone; FARTHEST where all of them are excluded."""
        count, patches = len(self.degrees), self.grid[0] * self.grid[1]
        in_b = torch.empty(count, i.stop - i.start, patches, j.stop - j.start, device=self.device)
        in_a = in_b.new_empty(count, j.stop - j.start, patches, i.stop - i.start)
        for d in range(count):
            rows, columns = self._maxima(other, d, i, j)
            in_b[d], in_a[d] = rows.permute(1, 0, 2), columns.permute(2, 0, 1)
        return self._of_kept(self._distances(in_b), i), other._of_kept(self._distances(in_a), j)

    def _maxima(self, other: Self, d: int, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """Compute maxima of -|z_a - z_b|^2 / 2 over the neighbours of a place: (L, a, b) of a, and (L, a, b) of b."""
        (height, width), radius = self.grid, self.radius
        shape = (height * width, i.stop - i.start, j.stop - j.start)
        in_b = torch.full(shape, -torch.inf, dtype=self.product_dtype, device=self.device)
        in_a = in_b.clone()
        rights: dict[int, Tensor] = {}
        for row in np.flatnonzero(self.used.any(axis=1)).tolist():
            left = self._factors(d, row, i, is_left=True)
            near = range(max(0, row - radius), min(height, row + radius + 1))
            rights = {at: rights[at] if at in rights else other._factors(d, at, j, is_left=False) for at in near}
            for at, right in rights.items():
                for shift in range(max(-radius, 1 - width), min(radius, width - 1) + 1):
                    for own in self._runs(other, (row, at), shift):
                        its = slice(own.start + shift, own.stop + shift)
                        product = torch.bmm(left[own], right[its].transpose(1, 2))
                        places = _places(row, own, width), _places(at, its, width)
                        if self.dtype != torch.int8:
                            self._refine(other, d, product, (i, j), places)
                        for maxima, place in ((in_b, places[0]), (in_a, places[1])):
                            torch.maximum(maxima[place], product, out=maxima[place])
        return in_b, in_a

    def _runs(self, other: Self, rows: tuple[int, int], shift: int) -> list[slice]:
        """List the runs of columns of a row of this grid that meet those `shift` further in a row of the other's."""
        width = self.grid[1]
        columns = slice(max(0, -shift), width - max(0, shift))
        its = slice(columns.start + shift, columns.stop + shift)
        used = np.zeros(width + 2, np.int8)
        used[1:-1][columns] = self.used[rows[0], columns] & other.used[rows[1], its]
        steps = np.diff(used)
        return [slice(*ends) for ends in zip((steps > 0).nonzero()[0], (steps < 0).nonzero()[0], strict=True)]

    @property
    def product_dtype(self) -> torch.dtype:
        """Dtype of products: integers are multiplied in float32."""
        return torch.float32 if self.dtype == torch.int8 else self.dtype

    def _factors(self, d: int, row: int, images: slice, is_left: bool) -> Tensor:
        """Return the factors (w, a, C + extra) of a row of the grid: unit vectors, ones and lengths."""
        places, dtype = _places(row, slice(0, self.grid[1]), self.grid[1]), self.product_dtype
        z = self.operands[d][places, images].to(dtype)
        rest = -self.halves[d][places, images, None]
        pieces = []
        for _ in range(PIECES[dtype]):
            pieces.append(rest.to(dtype))
            rest = rest - pieces[-1].float()
        ones = [torch.ones_like(piece) for piece in pieces]
        padding = z.new_zeros(1, 1, 1).expand(*z.shape[:2], -(self.channels + 2 * len(pieces)) % ROW_ALIGNMENT)
        return torch.cat([z, *ones, *pieces, padding] if is_left else [z, *pieces, *ones, padding], dim=2)

    def _refine(
        self, other: Self, d: int, product: Tensor, images: tuple[slice, slice], places: tuple[slice, slice]
    ) -> None:
        """Compute a product (n, a, b) again in float64, in place, at the places where near duplicates cancel.

        |x - y| from a product in float32 loses sqrt(1e-7) at x = y; duplicates must come out as 0.
        """
        limit = -(MIN_NEAR_DUPLICATE_LIMIT**2) / 2
        if product.amax() <= limit:  # nearly always
            return
        at = (product.amax(dim=(1, 2)) > limit).nonzero().flatten()
        sides = []
        for shard, of_shard, place in zip((self, other), images, places, strict=True):
            z = shard.operands[d][place, of_shard][at].double()
            half = shard.halves[d][place, of_shard][at]
            exact = 0.5 * z.square().sum(dim=2)
            sides.append((z, torch.where(half == EXCLUDED_HALF, half.double(), exact)))
        (x, half_x), (y, half_y) = sides
        exact = torch.bmm(x, y.transpose(1, 2)) - half_x[:, :, None] - half_y[:, None, :]
        product[at] = torch.where(exact > -(EQUAL**2) / 2, 0, exact).to(product.dtype)

    def _distances(self, half_squares: Tensor) -> Tensor:
        """Compute distances from -d^2 / 2 of operands, in place; never -0.0, which sorts last by its bits."""
        scale = self.scale
        return half_squares.mul_(-2.0 / scale**2).clamp_(min=0.0, max=FARTHEST**2).abs_().sqrt_()

    def exclude(self, patches: Tensor) -> None:
        """See PreparedShard; a patch all of whose neighbours are excluded gets the distance FARTHEST."""
        where = torch.from_numpy(self._of_grid(patches)).to(self.device).T
        for half in self.halves:
            half[where] = EXCLUDED_HALF * self.scale**2

    def _of_grid(self, patches: Tensor) -> npt.NDArray[np.bool_]:
        """Return flags (A, K) of vectors as flags (A, L) of the patches of the grid."""
        flags: npt.NDArray[np.bool_] = patches.cpu().numpy()
        return flags if self.kept is None else self.kept.spread(flags, False)

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See PreparedShard; excluded patches have no substitutes here; in int8 they are turned."""
        return self.operands[d][:, image].float() / self.scale


def _places(row: int, columns: slice, width: int) -> slice:
    """Return the places of some columns of a row of the grid, which is `width` wide."""
    return slice(row * width + columns.start, row * width + columns.stop)


def _half_squares(operand: Tensor) -> Tensor:
    """Compute half squared lengths (L, A) float32 of an operand (L, A, C)."""
    halves = [0.5 * of_place.float().square().sum(dim=1) for of_place in operand]
    return torch.stack(halves)
