"""The nearest images of every patch, with their distances: bounded, and mergeable in any order.

A distance is the mean over degrees of the distances of MuSc's eq. 3. Distance and image are packed into one int64: the
bits of a non-negative float32 sort as the float does, and the image's position on the ring follows in the low bits, so
that equal distances have one order however the images were split into parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from musc_ray.core.distance_summary import BIN_WIDTH, DistanceSummary
from musc_ray.core.patch_scores import Part, summarise

ABSENT = np.iinfo(np.int64).max
"""Fills the keys of a patch that has fewer images than are kept."""

VALUES_CHUNK = 2**24
"""Distances held at a time."""


@dataclass
class NearestImages:
    """The K nearest images of each patch.

    Attributes:
        keys: (A, L, K) int64, ascending: distance bits and ring position, or ABSENT.
    """

    keys: Tensor

    @classmethod
    def of(cls, distances: Tensor, positions: Tensor, count: int) -> "NearestImages":
        """Select the nearest images of a part.

        Args:
            distances: (D, A, L, B), +inf where they do not count.
            positions: (B,) positions on the ring.
            count: K.
        """
        _, images, length, others = distances.shape
        keys = torch.full((images, length, count), ABSENT, dtype=torch.int64)
        step = max(1, VALUES_CHUNK // (length * others))
        for start in range(0, images, step):
            part = slice(start, start + step)
            mean = distances[:, part].float().mean(dim=0)
            packed = (mean.view(torch.int32).long() << 32) | positions.long()
            packed = packed.masked_fill_(~mean.isfinite(), ABSENT)
            kept = min(count, others)
            keys[part, :, :kept] = packed.topk(kept, dim=2, largest=False, sorted=True).values
        return cls(keys)

    def merge(self, other: "NearestImages") -> "NearestImages":
        """Select the nearest images of both."""
        both = torch.cat([self.keys, other.keys], dim=2)
        return NearestImages(both.topk(self.keys.shape[2], dim=2, largest=False, sorted=True).values)

    @property
    def distances(self) -> Tensor:
        """(A, L, K) float32, +inf where absent."""
        bits = (self.keys >> 32).int().view(torch.float32)
        return bits.masked_fill(self.keys == ABSENT, torch.inf)

    @property
    def positions(self) -> Tensor:
        """(A, L, K) int64, -1 where absent."""
        return (self.keys & 0xFFFFFFFF).masked_fill(self.keys == ABSENT, -1)


def distance_of_rank(parts: Sequence[Part], rank: int) -> Tensor:
    """Compute the distance of a rank for every patch, mean over degrees.

    Args:
        parts: of a band, as for `patch_scores`; a summary gives the distance within BIN_WIDTH.
        rank: among a patch's references, 1 = nearest.

    Returns:
        (A, L) float32.
    """
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) < len(parts):
        return _from_summary(summarise(parts), rank)
    degrees, images, length, _ = tensors[0].shape
    total = torch.zeros(images, length, dtype=torch.float64)
    step = max(1, VALUES_CHUNK // (length * sum(part.shape[3] for part in tensors)))
    for d in range(degrees):
        for start in range(0, images, step):
            rows = torch.cat([part[d, start : start + step].float() for part in tensors], dim=2)
            total[start : start + step] += rows.kthvalue(rank, dim=2).values
    return (total / degrees).float()


def _from_summary(summary: DistanceSummary, rank: int) -> Tensor:
    """Compute `distance_of_rank` from bins (D, A, L, SUMMARY_BINS): the mean of the bin that holds the rank."""
    reached = (summary.counts.cumsum(dim=-1) >= rank).byte().argmax(dim=-1, keepdim=True)
    within = summary.excesses.gather(-1, reached) / summary.counts.gather(-1, reached).clamp(min=1)
    return (reached * BIN_WIDTH + within)[..., 0].mean(dim=0).float()
