"""The nearest images of every patch, with their distances: bounded, and mergeable in any order.

A distance is the mean over degrees of the distances of MuSc's eq. 3. Distance and image are one number: the bits of a
float32 that is not negative order as it does, and behind them stands the image's place on the ring, so that equal
distances have one order whatever parts they came in.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from musc_ray.core.bands import Part, condense
from musc_ray.core.distance_summary import BIN_WIDTH, Summary

ABSENT = np.iinfo(np.int64).max
"""Where a patch has fewer images than are kept."""

VALUES_AT_ONCE = 2**24


@dataclass
class Nearest:
    """Keys (A, L, K) int64, ascending: distance bits and ring position; ABSENT where there are no more."""

    keys: Tensor

    @classmethod
    def of(cls, minima: Tensor, positions: Tensor, most: int) -> "Nearest":
        """The nearest images of a part.

        Args:
            minima: (D, A, L, B) distances, +inf where they do not count.
            positions: (B,) places on the ring.
            most: K.
        """
        _, images, length, others = minima.shape
        keys = torch.full((images, length, most), ABSENT, dtype=torch.int64)
        step = max(1, VALUES_AT_ONCE // (length * others))
        for start in range(0, images, step):
            part = slice(start, start + step)
            mean = minima[:, part].float().mean(dim=0)
            packed = (mean.view(torch.int32).long() << 32) | positions.long()
            packed = packed.masked_fill_(~mean.isfinite(), ABSENT)
            kept = min(most, others)
            keys[part, :, :kept] = packed.topk(kept, dim=2, largest=False, sorted=True).values
        return cls(keys)

    def merge(self, other: "Nearest") -> "Nearest":
        """The nearest images of both."""
        both = torch.cat([self.keys, other.keys], dim=2)
        return Nearest(both.topk(self.keys.shape[2], dim=2, largest=False, sorted=True).values)

    @property
    def distances(self) -> Tensor:
        """(A, L, K) float32, +inf where there are no more."""
        bits = (self.keys >> 32).int().view(torch.float32)
        return bits.masked_fill(self.keys == ABSENT, torch.inf)

    @property
    def positions(self) -> Tensor:
        """(A, L, K) int64, -1 where there are no more."""
        return (self.keys & 0xFFFFFFFF).masked_fill(self.keys == ABSENT, -1)


def distance_at(parts: Sequence[Part], rank: int) -> Tensor:
    """The distance of rank `rank` (from 1) of every patch, mean over degrees: (A, L) float32.

    Args:
        parts: of a band, as `bands.patch_scores` takes them; a summary gives the distance within BIN_WIDTH.
        rank: among a patch's references, the nearest is 1.
    """
    tensors = [part for part in parts if isinstance(part, Tensor)]
    if len(tensors) < len(parts):
        return _from_summary(condense(parts), rank)
    degrees, images, length, _ = tensors[0].shape
    found = torch.zeros(images, length, dtype=torch.float64)
    step = max(1, VALUES_AT_ONCE // (length * sum(part.shape[3] for part in tensors)))
    for d in range(degrees):
        for start in range(0, images, step):
            rows = torch.cat([part[d, start : start + step].float() for part in tensors], dim=2)
            found[start : start + step] += rows.kthvalue(rank, dim=2).values
    return (found / degrees).float()


def _from_summary(summary: Summary, rank: int) -> Tensor:
    """The same from bins (D, A, L, BINS): the mean of the bin that the rank falls into."""
    reached = (summary.counts.cumsum(dim=-1) >= rank).byte().argmax(dim=-1, keepdim=True)
    within = summary.excesses.gather(-1, reached) / summary.counts.gather(-1, reached).clamp(min=1)
    return (reached * BIN_WIDTH + within)[..., 0].mean(dim=0).float()
