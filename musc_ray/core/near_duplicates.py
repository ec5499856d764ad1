"""Distances of near duplicates, which products are too inexact for: |x - y| loses sqrt(1e-7) at x = y in float32.

Duplicates are common in archives, a background that stays is in every pair of images, and their distances must come
out as 0. Nearly all of them are found at the same place: the distance u = |x_m - y_m| of two patches at one place costs
1 / L of a product. It is the smallest if s_m, the distance of y_m to the nearest other patch of its own image, is at
least 2 u, for then |x_m - y_n| >= |y_m - y_n| - |x_m - y_m| >= s_m - u >= u for every other n. What this leaves open is
computed in float64.
"""

import threading
from collections import OrderedDict

import numpy as np
import torch
from torch import Tensor

from musc_ray.core.kernels.onednn import linear
from musc_ray.core.operands.base import EQUAL, PreparedShard

KEPT_BYTES = 2**28
"""Unit vectors kept for further chunks of a tile."""

TOLERANCE = 1e-3
"""By this much s_m may be too large, as products in float32 are off."""


Side = tuple[PreparedShard, slice]
"""A shard and the images of it that were multiplied."""


class NearDuplicates:
    """Replaces the distances of near duplicates in the chunks of one tile; threads may share it."""

    def __init__(self, a: PreparedShard, b: PreparedShard) -> None:
        self.a, self.b = a, b
        self._vectors: OrderedDict[tuple[int, int, int], Tensor] = OrderedDict()
        self._apart: dict[tuple[int, int, int], Tensor] = {}
        self._lock = threading.Lock()

    def replace(self, d: int, images: tuple[slice, slice], nearest_in_b: Tensor, nearest_in_a: Tensor) -> None:
        """Replace, in place, the distances of near-duplicate patches, and all of images with zero vectors.

        Args:
            d: index of the degree.
            images: of a and of b that were multiplied.
            nearest_in_b: (a, L, b) distances of the images of a.
            nearest_in_a: (b, L, a) distances of the images of b.
        """
        (a, b), (i, j) = (self.a, self.b), images
        limit = torch.maximum(a.near_duplicate_limits[d], b.near_duplicate_limits[d])
        special = a.zero_vectors[d, i][:, None, None] | b.zero_vectors[d, j][None, None, :]
        near_b = ((nearest_in_b < limit) | special) & nearest_in_b.isfinite()
        near_a = ((nearest_in_a < limit) | special.permute(2, 1, 0)) & nearest_in_a.isfinite()
        pairs = near_b.any(dim=1) | near_a.any(dim=1).T
        if not pairs.any():
            return
        x, y = self._vectors_of(d, (a, i), pairs.any(dim=1)), self._vectors_of(d, (b, j), pairs.any(dim=0))
        wanted = _on_grid((a, i), near_b).permute(0, 2, 1) | _on_grid((b, j), near_a).permute(2, 0, 1)
        wanted &= _has_patch((a, i))[:, None] & _has_patch((b, j))
        here = _place_distances(_images_on_grid((a, i), x), _images_on_grid((b, j), y), wanted)
        apart_a, apart_b = self._apart_of(d, (a, i), x), self._apart_of(d, (b, j), y)
        in_b, in_a = here.permute(0, 2, 1), here.permute(1, 2, 0)
        certain_b = (in_b == 0) | (2 * in_b <= _on_grid((b, j), apart_b[:, :, None])[:, :, 0].T - TOLERANCE)
        certain_a = (in_a == 0) | (2 * in_a <= _on_grid((a, i), apart_a[:, :, None])[:, :, 0].T - TOLERANCE)
        in_b, certain_b = _of_vectors((a, i), in_b), _of_vectors((a, i), certain_b)
        in_a, certain_a = _of_vectors((b, j), in_a), _of_vectors((b, j), certain_a)
        nearest_in_b.copy_(torch.where(near_b & certain_b, in_b, nearest_in_b))
        nearest_in_a.copy_(torch.where(near_a & certain_a, in_a, nearest_in_a))
        open_b, open_a = near_b & ~certain_b, near_a & ~certain_a
        for p, q in (open_b.any(dim=1) | open_a.any(dim=1).T).nonzero().tolist():
            left, right = open_b[p, :, q], open_a[q, :, p]
            nearest_in_b[p, left, q] = _differences(x[p][left], y[q])
            nearest_in_a[q, right, p] = _differences(y[q][right], x[p])

    def _vectors_of(self, d: int, side: Side, used: Tensor) -> dict[int, Tensor]:
        """Return the unit vectors (L, C) of the images that are used (n,), by their number from the first on."""
        shard, images = side
        return {
            image: self._unit_vectors(shard, d, images.start + image) for image in used.nonzero().flatten().tolist()
        }

    def _unit_vectors(self, shard: PreparedShard, d: int, image: int) -> Tensor:
        key = id(shard), d, image
        with self._lock:
            if key in self._vectors:
                self._vectors.move_to_end(key)
                return self._vectors[key]
        vectors = shard.unit_vectors(d, image).contiguous()
        with self._lock:
            self._vectors[key] = vectors
            while len(self._vectors) * vectors.numel() * vectors.element_size() > KEPT_BYTES:
                self._vectors.popitem(last=False)
        return vectors

    def _apart_of(self, d: int, side: Side, vectors: dict[int, Tensor]) -> Tensor:
        """Return the distance of each patch to the nearest other one of its own image, (n, L); inf of unused images."""
        shard, images = side
        found = torch.full((images.stop - images.start, shard.patches), torch.inf, device=shard.device)
        for image, of_image in vectors.items():
            key = id(shard), d, images.start + image
            if key not in self._apart:
                self._apart[key] = _apart(of_image)
            found[image] = self._apart[key]
        return found


def _on_grid(side: Side, values: Tensor) -> Tensor:
    """Put values (n, K, m) of the vectors of some images in their places (n, L, m); 0 where there is no vector."""
    shard, images = side
    if shard.kept is None:
        return values
    return torch.from_numpy(shard.kept.rows(images).spread(values.cpu().numpy(), 0)).to(values.device)


def _of_vectors(side: Side, values: Tensor) -> Tensor:
    """Select the values (n, K, m) of the vectors of some images from those of all places (n, L, m)."""
    shard, images = side
    if shard.kept is None:
        return values
    index = torch.from_numpy(shard.kept.index[images]).to(values.device)
    return values.gather(1, index[:, :, None].expand(-1, -1, values.shape[2]))


def _has_patch(side: Side) -> Tensor:
    """Tell where some images have vectors, (n, L) bool."""
    shard, images = side
    if shard.kept is None:
        return torch.ones(images.stop - images.start, shard.patches, dtype=torch.bool, device=shard.device)
    return torch.from_numpy(shard.kept.flags[images]).to(shard.device)


def _images_on_grid(side: Side, vectors: dict[int, Tensor]) -> dict[int, Tensor]:
    """Put the vectors (K, C) of images in their places (L, C)."""
    shard, images = side
    if shard.kept is None:
        return vectors
    first = images.start
    return {
        number: _on_grid((shard, slice(first + number, first + number + 1)), of_image[None])[0]
        for number, of_image in vectors.items()
    }


def _apart(vectors: Tensor) -> Tensor:
    """Compute the distance of each of L vectors (L, C) to the nearest other one; inf where there is only one."""
    lengths = vectors.square().sum(dim=1)
    square = linear(vectors, vectors).mul_(-2).add_(lengths)
    square.fill_diagonal_(torch.inf)
    return (square.amin(dim=1) + lengths).clamp_(min=0).sqrt_()


def _place_distances(x: dict[int, Tensor], y: dict[int, Tensor], wanted: Tensor) -> Tensor:
    """Compute |x - y| at the same place of images (L, C), where wanted (a, b, L); else inf."""
    out = torch.full(wanted.shape, torch.inf, device=wanted.device)
    if wanted.device.type == "cpu":
        from musc_ray.core.kernels.differences import place_distances  # here: imports numba, which a GPU does without

        sides = zip(wanted.shape, (x, y), strict=False)
        addresses = [
            np.array([vectors[n].data_ptr() if n in vectors else 0 for n in range(size)], np.uintp)
            for size, vectors in sides
        ]
        channels = np.uintp(next(iter(x.values())).shape[1])
        place_distances(*addresses, channels, wanted.contiguous().numpy(), out.numpy())
        return out
    for p, of_p in x.items():
        for q, of_q in y.items():
            out[p, q] = torch.linalg.vector_norm(of_p - of_q, dim=1)
    return out.masked_fill_(~wanted, torch.inf)


def _differences(x: Tensor, y: Tensor) -> Tensor:
    """Compute the distance of each x (n, C) to its nearest y (m, C) without the cancellation of a float32 product."""
    if len(x) == 0:
        return x.new_empty(0)
    x, y = x.double(), y.double()
    square = (x @ y.T).mul_(-2).add_(y.square().sum(dim=1)).amin(dim=1) + x.square().sum(dim=1)
    return torch.where(square < EQUAL**2, 0, square).sqrt().float()
