"""The form of a shard for CPUs: plain patches, whose one product serves all degrees."""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from musc_ray.core.kernels import gram
from musc_ray.core.kernels.onednn import linear
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.operands.base import SMALLEST_NEAR_DUPLICATE, PlainPatches, PreparedShard

IMAGES_AT_ONCE = 16
"""Images prepared at a time: what is made on the way stays in memory that is used again."""

ROUNDING = {torch.float32: 0.0, torch.float16: 2**-12 / 3**0.5, torch.bfloat16: 2**-9 / 3**0.5}
"""Root mean square relative error of rounding to a dtype."""


class GramShard(PreparedShard):
    """One operand: plain patches, and in low precision a shift t, so that G = z.z' - t t' is small.

    A rounded G loses a part of itself only. Near patches have z.z' close to |z|^2, the many others of a box filter
    close to s |z|^2, s the mean cosine of patches: t^2 = |z|^2 (1 + s) / 2 lies between.

    Attributes:
        right: the operand that other shards' left ones are multiplied with: the pieces of t with their signs positive.
    """

    def __init__(
        self,
        tokens: Tensor,
        grid: tuple[int, int],
        degrees: tuple[int, ...],
        dtype: torch.dtype,
        plain_patches: PlainPatches = layer_norm,
    ) -> None:
        images, _, channels = tokens.shape
        super().__init__(images, grid, channels, degrees)
        pieces = 0 if dtype == torch.float32 else 4
        left = torch.empty(images * self.patches + gram.SPARE, channels + pieces, dtype=dtype)
        left[images * self.patches :] = 0
        z = left[: images * self.patches].view(images, self.patches, -1)
        self.right = torch.empty_like(left) if pieces else left
        right = self.right[: images * self.patches].view_as(z)
        lengths, mean = torch.empty(len(degrees), images, self.patches), torch.zeros(channels)
        own = torch.empty(images, self.patches)
        for start in range(0, images, IMAGES_AT_ONCE):
            part = slice(start, start + IMAGES_AT_ONCE)
            z[part, :, :channels] = plain_patches(tokens[part])
            if pieces:
                right[part, :, :channels] = z[part, :, :channels]
            vectors = z[part, :, :channels].float().contiguous()
            own[part] = vectors.norm(dim=2)
            mean += torch.einsum("al,alc->c", _inverse(own[part]), vectors) / own.numel()
            for of_degree, degree in zip(lengths, degrees, strict=True):
                of_degree[part] = torch.from_numpy(gram.box_lengths(vectors.numpy(), grid, degree))
        mean_cosine = float(mean.square().sum())
        shift = torch.zeros_like(own)
        if pieces:
            exact = own * ((1 + mean_cosine) / 2) ** 0.5
            high = exact.to(dtype)
            low = (exact - high.float()).to(dtype)
            shift = high.float() + low.float()
            z[:, :, channels:] = -torch.stack([high, high, low, low], dim=2)
            right[:, :, channels:] = torch.stack([high, low, high, low], dim=2)  # pieces meet each other
        self.operands = [left]
        self.stand_ins: Tensor | None = None
        inverses = _inverse(lengths)
        ratios = torch.stack([_box_sums(shift, grid, degree) for degree in degrees]) * inverses
        self.zero_vectors = (inverses == 0).any(dim=2)
        self.with_zeros = self.zero_vectors.any(dim=1)
        self.left_scales = inverses.numpy(), ratios.where(ratios > 0, 1).numpy()
        self.lines = gram.lines(inverses.numpy(), ratios.numpy(), grid)
        self.near_duplicate = torch.tensor(
            [
                self._near_duplicate(ratio, degree, mean_cosine, ROUNDING[dtype])
                for degree, ratio in zip(degrees, ratios, strict=True)
            ]
        )

    @property
    def nbytes(self) -> int:
        """See PreparedShard; the right operand is the left one only where there is no shift."""
        return super().nbytes * (1 if self.dtype == torch.float32 else 2)

    @staticmethod
    def _near_duplicate(ratio: Tensor, degree: int, mean_cosine: float, rounding: float) -> float:
        """Where -d^2 / 2 is 16 times the error that rounding G leaves in it.

        An entry of G is at most (1 - s) / 2 |z|^2 off zero, and its rounding error averages out over the r^4 entries of
        a box sum, which is divided by n^2 <= r^4 |z|^2.
        """
        shift_square = (1 + mean_cosine) / 2
        error = rounding * (1 - shift_square) * float(ratio.square().mean()) / (shift_square * degree**2)
        return max(SMALLEST_NEAR_DUPLICATE, float((2 * 16 * error) ** 0.5))

    def nearest(self, other: Self, i: slice, j: slice) -> tuple[Tensor, Tensor]:
        """See PreparedShard; all degrees from one product."""
        product = self.product(other, i, j)
        bits = product.view(torch.uint16) if product.dtype == torch.bfloat16 else product.float()
        rows, columns = gram.nearest(bits.numpy(), self.grid, self.degrees, self.left_scales, other.lines, (i, j))
        return torch.from_numpy(rows), torch.from_numpy(columns)

    def product(self, other: Self, i: slice, j: slice) -> Tensor:
        """G of all patches of images i with those of images j of another shard, with spare rows behind."""
        right = self._rows(other.right, j)
        spare = gram.spare_rows(self.grid, len(right))
        return linear(self.operands[0][i.start * self.patches : i.stop * self.patches + spare], right)

    def exclude(self, patches: Tensor) -> None:
        """See PreparedShard; their lines become those of no patch, so box filters still sum all of them."""
        where = patches.view(self.images, *self.grid).numpy()
        inverse, ratio = self.lines
        inverse[..., : self.grid[1]][:, where] = 0
        ratio[..., : self.grid[1]][:, where] = gram.NOWHERE
        self.stand_ins = self._stand_ins(patches)

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See PreparedShard."""
        rows = self._rows(self.operands[0], slice(image, image + 1))[:, : self.channels].float()
        vectors = aggregate(rows[None], self.grid, self.degrees[d])[0]
        return vectors if self.stand_ins is None else vectors[self.stand_ins[image]]


def _inverse(lengths: Tensor) -> Tensor:
    """1 / length, 0 for zero vectors."""
    return torch.where(lengths > 0, 1 / lengths, 0)


def _box_sums(values: Tensor, grid: tuple[int, int], degree: int) -> Tensor:
    """Sums of r x r neighbours (A, L) of (A, L), zeros around the grid."""
    planes = values.view(-1, 1, *grid)
    return F.avg_pool2d(planes, degree, stride=1, padding=degree // 2, divisor_override=1).flatten(1)
