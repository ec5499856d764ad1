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

SMALLEST_NEAR_DUPLICATE = 1e-2
"""Below this distance float32 cancellation costs more than 1e-5."""

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
    return form(layer_norm(tokens), grid, tuple(degrees), dtype)


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
        """For each degree the maxima of -|a - b|^2 / 2 between images i of this shard and j of another one.

        Yields:
            (a, L, b) over the patches of b, and (b, L, a) over the patches of a, float32.
        """

    @abstractmethod
    def unit_vectors(self, d: int, image: int) -> Tensor:
        """The unit vectors (L, C) float32 of an image for the d-th degree."""

    @abstractmethod
    def zero_vectors(self, d: int, images: slice) -> Tensor:
        """Which images (a,) hold a zero vector for which the product's distances do not hold."""


class GramShard(PreparedShard):
    """One operand: plain layer-normalised patches, and in low precision a shift t, so that G = z.z' - t t' is small.

    A rounded G loses a part of itself only. Near patches have z.z' close to |z|^2, the many others of a box filter
    close to s |z|^2, s the mean cosine of patches: t^2 = |z|^2 (1 + s) / 2 lies between.
    """

    def __init__(self, normalised: Tensor, grid: tuple[int, int], degrees: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__(normalised.shape[0], grid, normalised.shape[2], degrees)
        z = normalised.to(dtype)
        vectors, shift, pieces = z.float(), torch.zeros(z.shape[:2]), []
        mean_cosine = float(F.normalize(vectors, dim=2).mean(dim=(0, 1)).square().sum())
        if dtype != torch.float32:
            exact = vectors.norm(dim=2) * ((1 + mean_cosine) / 2) ** 0.5
            high = exact.to(dtype)
            low = (exact - high.float()).to(dtype)
            shift, pieces = high.float() + low.float(), [high, high, low, low]
        left = torch.cat([z, *(-piece[:, :, None] for piece in pieces)], dim=2)
        self.operands = [left.view(-1, left.shape[2])]
        self.scales = [self._scale(vectors, shift, degree) for degree in degrees]
        self.near_duplicate = [
            self._near_duplicate(ratio, degree, mean_cosine, ROUNDING[dtype])
            for degree, (_, ratio) in zip(degrees, self.scales, strict=True)
        ]

    def _scale(self, vectors: Tensor, shift: Tensor, degree: int) -> tuple[Tensor, Tensor]:
        """1 / n and T / n (A, L) of the degree-r patches; 0 for zero vectors."""
        sums = _box_sums(torch.cat([vectors, shift[:, :, None]], dim=2), self.grid, degree)
        lengths, shifts = sums[:, :, :-1].norm(dim=2), sums[:, :, -1]
        inverse = torch.where(lengths > 0, 1 / lengths, 0)
        return inverse, shifts * inverse

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
        left = self.operands[0]
        if left.shape[1] == self.channels:
            return left
        high, low = -left[:, self.channels, None], -left[:, self.channels + 2, None]
        return torch.cat([left[:, : self.channels], high, low, high, low], dim=1)

    def nearest(self, other: Self, i: slice, j: slice) -> Iterator[tuple[Tensor, Tensor]]:
        """See PreparedShard; all degrees from one product."""
        product = self._rows(self.operands[0], i) @ self._rows(other.right, j).T
        bits = product.view(torch.uint16) if product.dtype == torch.bfloat16 else product.float()
        for degree, own, others in zip(self.degrees, self.scales, other.scales, strict=True):
            left = (own[0][i].numpy(), own[1][i].numpy())
            right = (others[0][j].numpy(), others[1][j].numpy())
            rows, columns = gram.nearest(bits.numpy(), self.grid, degree, left, right)
            yield torch.from_numpy(rows), torch.from_numpy(columns)

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See PreparedShard."""
        rows = self._rows(self.operands[0], slice(image, image + 1))[:, : self.channels].float()
        return aggregate(rows[None], self.grid, self.degrees[d])[0]

    def zero_vectors(self, d: int, images: slice) -> Tensor:
        """See PreparedShard."""
        return (self.scales[d][0][images] == 0).any(dim=1)


def _box_sums(maps: Tensor, grid: tuple[int, int], degree: int) -> Tensor:
    """r x r sums over the grid of (A, L, C), zeros around."""
    if degree == 1:
        return maps
    images, length, channels = maps.shape
    planes = maps.transpose(1, 2).reshape(images, channels, *grid)
    sums = F.avg_pool2d(planes, degree, stride=1, padding=degree // 2, divisor_override=1)
    return sums.reshape(images, channels, length).transpose(1, 2)


class ProductShard(PreparedShard):
    """One operand a degree: unit vectors z that carry their half squared length along, so that

    [z_a, 1, -|z_a|^2 / 2] . [z_b, -|z_b|^2 / 2, 1]  =  -|z_a - z_b|^2 / 2

    with lengths split into pieces that keep them exact to float32.
    """

    def __init__(self, normalised: Tensor, grid: tuple[int, int], degrees: tuple[int, ...], dtype: torch.dtype) -> None:
        super().__init__(normalised.shape[0], grid, normalised.shape[2], degrees)
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
            yield product.amax(dim=3).float(), product.amax(dim=1).permute(1, 2, 0).float()

    def unit_vectors(self, d: int, image: int) -> Tensor:
        """See PreparedShard."""
        return self._rows(self.operands[d], slice(image, image + 1))[:, : self.channels].float()

    def zero_vectors(self, d: int, images: slice) -> Tensor:
        """None: lengths travel along in the product."""
        return torch.zeros(images.stop - images.start, dtype=torch.bool, device=self.device)
