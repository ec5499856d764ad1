"""The form of a shard for CPUs: plain patches, whose single product serves all degrees."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from musc_ray.core.kernels import gram
from musc_ray.core.kernels.onednn import linear
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.operands.base import IMAGES_CHUNK, MIN_NEAR_DUPLICATE_LIMIT, PlainPatches, PreparedShard

SHIFT_PIECES = 4
"""Extra channels of an operand in low precision: products of the two pieces of t."""

ROUNDING = {torch.float32: 0.0, torch.float16: 2**-12 / 3**0.5, torch.bfloat16: 2**-9 / 3**0.5}
"""Root mean square relative error of rounding to a dtype."""


class GramShard(PreparedShard):
    """One operand: plain patches, and in low precision a shift t, so that G = z.z' - t t' is small.

    The rounding error of G is relative to G. Near patches have z.z' close to |z|^2, the many others in a box filter
    close to s |z|^2 with s the mean cosine of patches: t^2 = |z|^2 (1 + s) / 2 lies between.

    Attributes:
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
    ) -> None:
        super().__init__(len(tokens), grid, tokens.shape[2], degrees)
        pieces = 0 if dtype == torch.float32 else SHIFT_PIECES
        left = torch.empty(self.images * self.patches + gram.SPARE, self.channels + pieces, dtype=dtype)
        left[self.images * self.patches :] = 0
        self.operands = [left]
        self.right = torch.empty_like(left) if pieces else left
        self.substitutes: Tensor | None = None
        own, lengths, mean_cosine = self._fill(tokens, plain_patches)
        shift = self._add_shift(own, mean_cosine) if pieces else torch.zeros_like(own)
        inverses = _inverse(lengths)
        ratios = torch.stack([_box_sums(shift, grid, degree) for degree in degrees]) * inverses
        self.zero_vectors = (inverses == 0).any(dim=2)
        self.with_zeros = self.zero_vectors.any(dim=1)
        self.left_scales = inverses.numpy(), ratios.where(ratios > 0, 1).numpy()
        self.lines = gram.lines(inverses.numpy(), ratios.numpy(), grid)
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
        own = torch.empty(self.images, self.patches)
        lengths, mean = torch.empty(len(self.degrees), self.images, self.patches), torch.zeros(self.channels)
        for start in range(0, self.images, IMAGES_CHUNK):
            part = slice(start, start + IMAGES_CHUNK)
            z[part, :, : self.channels] = plain_patches(tokens[part])
            if self.right is not self.operands[0]:
                right[part, :, : self.channels] = z[part, :, : self.channels]
            vectors = z[part, :, : self.channels].float().contiguous()
            own[part] = vectors.norm(dim=2)
            mean += torch.einsum("al,alc->c", _inverse(own[part]), vectors) / own.numel()
            for of_degree, degree in zip(lengths, self.degrees, strict=True):
                of_degree[part] = torch.from_numpy(gram.box_lengths(vectors.numpy(), self.grid, degree))
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
        return rows.view(self.images, self.patches, -1)

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
        rows, columns = gram.nearest(bits.numpy(), self.grid, self.degrees, self.left_scales, other.lines, (i, j))
        return torch.from_numpy(rows), torch.from_numpy(columns)

    def product(self, other: Self, i: slice, j: slice) -> Tensor:
        """Compute G of all patches of images i with those of images j of another shard, followed by spare rows."""
        right = self._rows(other.right, j)
        spare = gram.spare_rows(self.grid, len(right))
        return linear(self.operands[0][i.start * self.patches : i.stop * self.patches + spare], right)

    def exclude(self, patches: Tensor) -> None:
        """See PreparedShard; box filters still sum excluded patches, but their scales never give a maximum."""
        where = patches.view(self.images, *self.grid).numpy()
        inverse, ratio = self.lines
        inverse[..., : self.grid[1]][:, where] = 0
        ratio[..., : self.grid[1]][:, where] = gram.NOWHERE
        self.substitutes = self._substitutes(patches)

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See PreparedShard."""
        rows = self._rows(self.operands[0], slice(image, image + 1))[:, : self.channels].float()
        vectors = aggregate(rows[None], self.grid, self.degrees[d])[0]
        return vectors if self.substitutes is None else vectors[self.substitutes[image]]


def _inverse(lengths: Tensor) -> Tensor:
    """Compute 1 / length, 0 for zero vectors."""
    return torch.where(lengths > 0, 1 / lengths, 0)


def _box_sums(values: Tensor, grid: tuple[int, int], degree: int) -> Tensor:
    """Sum r x r neighbours of values (A, L), zeros around the grid: (A, L)."""
    planes = values.view(-1, 1, *grid)
    return F.avg_pool2d(planes, degree, stride=1, padding=degree // 2, divisor_override=1).flatten(1)
