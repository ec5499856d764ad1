"""The form of a shard for CPUs: plain patches, whose single product serves all degrees."""

from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from musc_ray.core.kept_patches import KeptPatches
from musc_ray.core.kernels import gram
from musc_ray.core.kernels.onednn import linear
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.operands.base import (
    IMAGES_CHUNK,
    MIN_NEAR_DUPLICATE_LIMIT,
    PRODUCT_CHUNK,
    PlainPatches,
    PreparedShard,
)

SHIFT_PIECES = 4
"""Extra channels of an operand in low precision: products of the two pieces of t."""

ROUNDING = {torch.float32: 0.0, torch.float16: 2**-12 / 3**0.5, torch.bfloat16: 2**-9 / 3**0.5}
"""Root mean square relative error of rounding to a dtype."""


class GramShard(PreparedShard):
    """One operand: plain patches, and in low precision a shift t, so that G = z.z' - t t' is small.

    The rounding error of G is relative to G. Near patches have z.z' close to |z|^2, the many others in a box filter
    close to s |z|^2 with s the mean cosine of patches: t^2 = |z|^2 (1 + s) / 2 lies between.

    Where only some patches are kept, products and box filters are of the smallest rectangle of the grid that holds the
    used places and the neighbours that they are averaged with; what else it holds is never the nearest.

    Attributes:
        box: (h, w) of this rectangle, or of the whole grid.
        right: the operand that other shards' left ones are multiplied with; its pieces of t are positive. The left
            operand itself in float32, which has no shift.
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
        super().__init__(len(tokens), grid, tokens.shape[2], degrees, kept)
        self.rectangle = _rectangle(kept, grid, max(degrees) // 2)
        self.box = self.rectangle[0].stop - self.rectangle[0].start, self.rectangle[1].stop - self.rectangle[1].start
        self.box_patches = self.box[0] * self.box[1]
        self.kept_in_box = None if kept is None else KeptPatches(self._in_box(kept.flags))
        pieces = 0 if dtype == torch.float32 else SHIFT_PIECES
        left = torch.empty(self.images * self.box_patches + gram.SPARE, self.channels + pieces, dtype=dtype)
        left[self.images * self.box_patches :] = 0
        self.operands = [left]
        self.right = torch.empty_like(left) if pieces else left
        self.substitutes: Tensor | None = None
        own, lengths, mean_cosine = self._fill(tokens, plain_patches)
        shift = self._add_shift(own, mean_cosine) if pieces else torch.zeros_like(own)
        inverses = _inverse(lengths)
        ratios = torch.stack([_box_sums(shift, self.box, degree) for degree in degrees]) * inverses
        hidden = torch.zeros_like(own, dtype=torch.bool)
        if self.kept_in_box is not None:
            hidden = torch.from_numpy(~self.kept_in_box.flags)
        self.zero_vectors = ((inverses == 0) & ~hidden).any(dim=2)
        self.with_zeros = self.zero_vectors.any(dim=1)
        left_ratios = ratios.where(ratios > 0, 1).masked_fill_(hidden, float(gram.NOWHERE))
        self.left_scales = inverses.numpy(), left_ratios.numpy()
        self.lines = gram.lines(inverses.numpy(), ratios.numpy(), self.box)
        self._hide(hidden)
        limits = [
            self._near_duplicate_limit(ratio, degree, mean_cosine, ROUNDING[dtype])
            for degree, ratio in zip(degrees, ratios, strict=True)
        ]
        self.near_duplicate_limits = torch.tensor(limits)

    def _fill(self, tokens: Tensor, plain_patches: PlainPatches) -> tuple[Tensor, Tensor, float]:
        """Write the patches to both operands.

        Returns:
            Lengths of patches (A, L), of their box sums for every degree (D, A, L), and the mean cosine of patches.
        """
        z, right = self._by_image(self.operands[0]), self._by_image(self.right)
        own = torch.empty(self.images, self.box_patches)
        lengths, mean = torch.empty(len(self.degrees), self.images, self.box_patches), torch.zeros(self.channels)
        for start in range(0, self.images, IMAGES_CHUNK):
            part = slice(start, start + IMAGES_CHUNK)
            z[part, :, : self.channels] = self._in_box(plain_patches(tokens[part]))
            if self.right is not self.operands[0]:
                right[part, :, : self.channels] = z[part, :, : self.channels]
            vectors = z[part, :, : self.channels].float().contiguous()
            own[part] = vectors.norm(dim=2)
            mean += torch.einsum("al,alc->c", _inverse(own[part]), vectors) / own.numel()
            for of_degree, degree in zip(lengths, self.degrees, strict=True):
                of_degree[part] = torch.from_numpy(gram.box_lengths(vectors.numpy(), self.box, degree))
        return own, lengths, float(mean.square().sum())

    def _add_shift(self, own: Tensor, mean_cosine: float) -> Tensor:
        """Append the pieces of the shift to both operands; returns t (A, L) float32 as the product sees it."""
        z, right = self._by_image(self.operands[0]), self._by_image(self.right)
        exact = own * ((1 + mean_cosine) / 2) ** 0.5
        high = exact.to(self.dtype)
        low = (exact - high.float()).to(self.dtype)
        z[:, :, self.channels :] = -torch.stack([high, high, low, low], dim=2)
        right[:, :, self.channels :] = torch.stack([high, low, high, low], dim=2)  # each piece meets each other
        shift: Tensor = high.float() + low.float()
        return shift

    def _by_image(self, operand: Tensor) -> Tensor:
        """View an operand as (A, L, C + extra), without its spare rows."""
        rows = self._rows(operand, slice(0, self.images))
        return rows.view(self.images, self.box_patches, -1)

    def _rows(self, operand: Tensor, images: slice) -> Tensor:
        return operand[images.start * self.box_patches : images.stop * self.box_patches]

    def _in_box(self, values: Any) -> Any:
        """Return values (a, L, ...) of the grid's patches, an array or a tensor, in the rectangle alone."""
        by_row = values.reshape(len(values), *self.grid, *values.shape[2:])
        return by_row[:, self.rectangle[0], self.rectangle[1]].reshape(len(values), -1, *values.shape[2:])

    @property
    def chunk_side(self) -> int:
        """See PreparedShard; the product is of the rectangle's patches."""
        return max(1, int((PRODUCT_CHUNK["cpu"] / self.box_patches**2) ** 0.5))

    @property
    def nbytes(self) -> int:
        """See PreparedShard; counts the right operand if it is not the left one."""
        return super().nbytes * (1 if self.dtype == torch.float32 else 2)

    @staticmethod
    def _near_duplicate_limit(ratio: Tensor, degree: int, mean_cosine: float, rounding: float) -> float:
        """Compute the distance d at which -d^2 / 2 is 16 times its error from rounding G.

        An entry of G is at most (1 - s) / 2 |z|^2, and its rounding error averages out over the r^4 entries of a box
        sum, which is divided by n^2 <= r^4 |z|^2.
        """
        shift_square = (1 + mean_cosine) / 2
        error = rounding * (1 - shift_square) * float(ratio.square().mean()) / (shift_square * degree**2)
        return max(MIN_NEAR_DUPLICATE_LIMIT, float((2 * 16 * error) ** 0.5))

    def nearest_distances(self, other: Self, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """See PreparedShard; all degrees from one product."""
        product = self.product(other, i, j)
        bits = product.view(torch.uint16) if product.dtype == torch.bfloat16 else product.float()
        rows, columns = gram.nearest(bits.numpy(), self.box, self.degrees, self.left_scales, other.lines, (i, j))
        return self._of_kept(torch.from_numpy(rows), i), other._of_kept(torch.from_numpy(columns), j)

    def _of_kept(self, distances: Tensor, images: slice) -> Tensor:
        """Select the distances (D, a, K, b) of kept patches from those of the rectangle (D, a, L, b)."""
        if self.kept_in_box is None:
            return distances
        index = torch.from_numpy(self.kept_in_box.index[images])
        if (index == index[0]).all():
            return distances[:, :, index[0]]
        where = index[None, :, :, None].expand(len(distances), -1, -1, distances.shape[3])
        return distances.gather(2, where)

    def product(self, other: Self, i: slice, j: slice) -> Tensor:
        """Compute G of all patches of images i with those of images j of another shard, followed by spare rows."""
        right = self._rows(other.right, j)
        spare = gram.spare_rows(self.box, len(right))
        return linear(self.operands[0][i.start * self.box_patches : i.stop * self.box_patches + spare], right)

    def exclude(self, patches: Tensor) -> None:
        """See PreparedShard; box filters still sum excluded patches, but their scales never give a maximum."""
        self.substitutes = self._substitutes(patches)
        if self.kept_in_box is not None:
            patches = torch.from_numpy(self.kept_in_box.spread(patches.numpy(), True))
        self._hide(patches)

    def _hide(self, patches: Tensor) -> None:
        """Make patches (A, L) of the rectangle nobody's nearest when this shard is the right side."""
        where = patches.view(self.images, *self.box).numpy()
        inverse, ratio = self.lines
        inverse[..., : self.box[1]][:, where] = 0
        ratio[..., : self.box[1]][:, where] = gram.NOWHERE

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See PreparedShard."""
        rows = self._rows(self.operands[0], slice(image, image + 1))[:, : self.channels].float()
        vectors = aggregate(rows[None], self.box, self.degrees[d])[0]
        if self.kept_in_box is not None:
            vectors = vectors[torch.from_numpy(self.kept_in_box.index[image])]
        return vectors if self.substitutes is None else vectors[self.substitutes[image]]


def _inverse(lengths: Tensor) -> Tensor:
    """Compute 1 / length, 0 for zero vectors."""
    return torch.where(lengths > 0, 1 / lengths, 0)


def _rectangle(kept: KeptPatches | None, grid: tuple[int, int], reach: int) -> tuple[slice, slice]:
    """Return the rows and columns of the grid that hold used places and their neighbours within reach."""
    if kept is None or kept.used is None or not kept.used.any():
        return slice(0, grid[0]), slice(0, grid[1])
    used = kept.used.reshape(grid)
    sides = []
    for axis, size in ((1, grid[0]), (0, grid[1])):
        places = np.flatnonzero(used.any(axis=axis))
        sides.append(slice(max(0, int(places[0]) - reach), min(size, int(places[-1]) + reach + 1)))
    return sides[0], sides[1]


def _box_sums(values: Tensor, grid: tuple[int, int], degree: int) -> Tensor:
    """Sum r x r neighbours of values (A, L), zeros around the grid: (A, L)."""
    planes = values.view(-1, 1, *grid)
    return F.avg_pool2d(planes, degree, stride=1, padding=degree // 2, divisor_override=1).flatten(1)
