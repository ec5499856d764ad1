"""A shard's layer as operands of matrix products whose entries are large where patches are near.

Two forms with one result. On a CPU one product of plain patches serves all degrees (`GramShard`, see `gram`). On a GPU,
where products are cheap and passes over memory are not, each degree has its own (`ProductShard`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from musc_ray.core import gram
from musc_ray.core.lnamd import aggregate, layer_norm
from musc_ray.core.onednn import linear

SMALLEST_NEAR_DUPLICATE = 1e-2
"""Below this distance float32 cancellation costs more than 1e-5."""

IMAGES_AT_ONCE = 16
"""Images prepared at a time on a CPU: what is made on the way stays in memory that is used again."""

ROUNDING = {torch.float32: 0.0, torch.float16: 2**-12 / 3**0.5, torch.bfloat16: 2**-9 / 3**0.5}
"""Root mean square relative error of rounding to a dtype."""

PIECES = {torch.float32: 1, torch.float16: 3, torch.bfloat16: 3}
"""How many numbers of a dtype add up to a float32 without loss (24 bits in pieces of 8 or 11)."""


def prepare(
    tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int], dtype: torch.dtype = torch.float32
) -> "PreparedShard":
    """LayerNorm and, for every degree, what LNAMD needs to become a product.

    Args:
        tokens: (A, h*w, C) raw patch tokens on the device that will multiply them.
        grid: (h, w).
        degrees: odd neighbourhood sizes.
        dtype: float32, bfloat16 or float16: what the product reads.
    """
    form = GramShard if tokens.device.type == "cpu" else ProductShard
    return form(tokens, grid, tuple(degrees), dtype)


class PreparedShard(ABC):
    """One layer of A images, ready to be multiplied.

    Attributes:
        operands: left operands (A * L, C + extra), images row-major.
        near_duplicate: for each degree, the distance below which a product loses too much of it.
    """

    operands: list[Tensor]
    near_duplicate: list[float]

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

    def _rows(self, operand: Tensor, images: slice) -> Tensor:
        return operand[images.start * self.patches : images.stop * self.patches]

    @abstractmethod
    def nearest(self, other: Self, i: slice, j: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """For each degree the distances |a - b| of nearest patches between images i of this shard and j of another one.

        Yields:
            (a, L, b), the least over the patches of b, and (b, L, a), the least over the patches of a, float32.
        """

    @abstractmethod
    def unit_vectors(self, d: int, image: int) -> Tensor:
        """The unit vectors (L, C) float32 of an image for the d-th degree."""

    @abstractmethod
    def zero_vectors(self, d: int) -> Tensor:
        """Which images (A,) hold a zero vector for which the product's distances do not hold."""


class GramShard(PreparedShard):
    """One operand: plain layer-normalised patches, and in low precision a shift t, so that G = z.z' - t t' is small.

    A rounded G loses a part of itself only. Near patches have z.z' close to |z|^2, the many others of a box filter
    close to s |z|^2, s the mean cosine of patches: t^2 = |z|^2 (1 + s) / 2 lies between.
    """

    def __init__(self, tokens: Tensor, grid: tuple[int, int], degrees: tuple[int, ...], dtype: torch.dtype) -> None:
        images, _, channels = tokens.shape
        super().__init__(images, grid, channels, degrees)
        pieces = 0 if dtype == torch.float32 else 4
        left = torch.zeros(images * self.patches + gram.SPARE, channels + pieces, dtype=dtype)
        z = left[: images * self.patches].view(images, self.patches, -1)
        lengths, mean = [torch.empty(images, self.patches) for _ in degrees], torch.zeros(channels)
        own = torch.empty(images, self.patches)
        for start in range(0, images, IMAGES_AT_ONCE):
            part = slice(start, start + IMAGES_AT_ONCE)
            z[part, :, :channels] = layer_norm(tokens[part])
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
        self.operands = [left]
        inverses = [_inverse(of_degree) for of_degree in lengths]
        ratios = [_box_sums(shift, grid, r) * inverse for r, inverse in zip(degrees, inverses, strict=True)]
        self._with_zeros = [(inverse == 0).any(dim=1) for inverse in inverses]
        scales = list(zip(inverses, ratios, strict=True))
        self.left_scales = [(inverse.numpy(), ratio.where(ratio > 0, 1).numpy()) for inverse, ratio in scales]
        self.lines = [gram.lines(inverse.numpy(), ratio.numpy(), grid) for inverse, ratio in scales]
        self.near_duplicate = [
            self._near_duplicate(ratio, degree, mean_cosine, ROUNDING[dtype])
            for degree, ratio in zip(degrees, ratios, strict=True)
        ]

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

    @cached_property
    def right(self) -> Tensor:
        """As the other shard's operand: high and low pieces meet each other, their signs positive."""
        left = self.operands[0][: self.images * self.patches]
        if left.shape[1] == self.channels:
            return left
        high, low = -left[:, self.channels, None], -left[:, self.channels + 2, None]
        return torch.cat([left[:, : self.channels], high, low, high, low], dim=1)

    def nearest(self, other: Self, i: slice, j: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """See PreparedShard; all degrees from one product."""
        right = self._rows(other.right, j)
        spare = -(-gram.SPARE // len(right))
        left = self.operands[0][i.start * self.patches : i.stop * self.patches + spare]
        product = linear(left, right)
        bits = product.view(torch.uint16) if product.dtype == torch.bfloat16 else product.float()
        for degree, (inverse, ratio), lines in zip(self.degrees, self.left_scales, other.lines, strict=True):
            own, others = (inverse[i], ratio[i]), (lines[0][j], lines[1][j])
            rows, columns = gram.nearest(bits.numpy(), self.grid, degree, own, others)
            yield torch.from_numpy(rows), torch.from_numpy(columns)

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See PreparedShard."""
        rows = self._rows(self.operands[0], slice(image, image + 1))[:, : self.channels].float()
        return aggregate(rows[None], self.grid, self.degrees[d])[0]

    def zero_vectors(self, d: int) -> Tensor:
        """See PreparedShard."""
        return self._with_zeros[d]


def _inverse(lengths: Tensor) -> Tensor:
    """1 / length, 0 for zero vectors."""
    return torch.where(lengths > 0, 1 / lengths, 0)


def _box_sums(values: Tensor, grid: tuple[int, int], degree: int) -> Tensor:
    """Sums of r x r neighbours (A, L) of (A, L), zeros around the grid."""
    planes = values.view(-1, 1, *grid)
    return F.avg_pool2d(planes, degree, stride=1, padding=degree // 2, divisor_override=1).flatten(1)


class ProductShard(PreparedShard):
    """One operand a degree: unit vectors z that carry their half squared length along, so that

    [z_a, 1, -|z_a|^2 / 2] . [z_b, -|z_b|^2 / 2, 1]  =  -|z_a - z_b|^2 / 2

    with lengths split into pieces that keep them exact to float32.
    """

    def __init__(self, tokens: Tensor, grid: tuple[int, int], degrees: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__(tokens.shape[0], grid, tokens.shape[2], degrees)
        normalised = layer_norm(tokens)
        self.operands = [self._operand(aggregate(normalised, grid, degree), dtype) for degree in degrees]
        self.near_duplicate = [SMALLEST_NEAR_DUPLICATE] * len(degrees)

    def _operand(self, z: Tensor, dtype: torch.dtype) -> Tensor:
        z = z.reshape(-1, self.channels).to(dtype)
        rest = -0.5 * z.float().square().sum(dim=1, keepdim=True)
        pieces = []
        for _ in range(PIECES[dtype]):
            pieces.append(rest.to(dtype))
            rest = rest - pieces[-1].float()
        return torch.cat([z, torch.ones_like(pieces[0]).expand(-1, len(pieces)), *pieces], dim=1)

    def nearest(self, other: Self, i: slice, j: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """See PreparedShard; a product for each degree."""
        for own, others in zip(self.operands, other.operands, strict=True):
            z, ones, lengths = self._rows(others, j).tensor_split(
                (self.channels, (self.channels + others.shape[1]) // 2), dim=1
            )
            product = self._rows(own, i) @ torch.cat([z, lengths, ones], dim=1).T
            product = product.view(i.stop - i.start, self.patches, j.stop - j.start, self.patches)
            maxima = product.amax(dim=3), product.amax(dim=1).permute(1, 2, 0)
            in_b, in_a = (part.float().mul_(-2.0).clamp_(min=0.0).sqrt_() for part in maxima)
            yield in_b, in_a

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See PreparedShard."""
        return self._rows(self.operands[d], slice(image, image + 1))[:, : self.channels].float()

    def zero_vectors(self, d: int) -> Tensor:
        """None: lengths travel along in the product."""
        return torch.zeros(self.images, dtype=torch.bool, device=self.device)
