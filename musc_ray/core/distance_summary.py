"""A mergeable summary of distances: per bin their number and their summed excess over the bin's lower edge.

The interval average needs the sum of the k smallest distances. Whole bins give theirs exactly; of the bin that holds
rank k only a part counts, whose sum is known within bounds. So memory is bounded for any number of references; the
error is at most BIN_WIDTH / 2 times the share of the averaged values that lie in that bin.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from musc_ray.core.interval_average import interval_bounds
from musc_ray.core.pending_distances import SUMMARY_BINS

MAX_DISTANCE = 2.0
"""Of unit vectors."""

BIN_WIDTH = MAX_DISTANCE / SUMMARY_BINS
VALUES_CHUNK = 2**24
"""Distances and bins held at a time."""


@dataclass
class DistanceSummary:
    """Histogram of distances.

    Attributes:
        counts: (..., SUMMARY_BINS) int32, distances in each bin.
        excesses: (..., SUMMARY_BINS) float32, sums of distance minus lower bin edge: small numbers, for which float32
            suffices.
    """

    counts: Tensor
    excesses: Tensor

    @classmethod
    def of(cls, distances: Tensor) -> "DistanceSummary":
        """Summarise (..., n) distances; +inf does not count."""
        *shape, n = distances.shape
        rows = distances.reshape(-1, n)
        counts = torch.empty(len(rows), SUMMARY_BINS, dtype=torch.int32, device=distances.device)
        excesses = torch.empty(len(rows), SUMMARY_BINS, dtype=torch.float32, device=distances.device)
        step = max(1, VALUES_CHUNK // max(n, SUMMARY_BINS))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            counts[part], excesses[part] = _histogram(rows[part].float())
        return cls(counts.view(*shape, SUMMARY_BINS), excesses.view(*shape, SUMMARY_BINS))

    def merge(self, other: "DistanceSummary") -> "DistanceSummary":
        """Add up two summaries."""
        return DistanceSummary(self.counts + other.counts, self.excesses + other.excesses)

    def interval_average(self, references: int, interval: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Average the selected smallest distances (MuSc, eq. 5); returns means and largest possible errors, (...)."""
        start, stop = interval_bounds(references, interval)
        upper, upper_error = self._smallest(stop)
        lower, lower_error = self._smallest(start)
        mean = (upper - lower) / (stop - start)
        return mean.float(), ((upper_error + lower_error) / (stop - start)).float()

    def _smallest(self, k: int) -> tuple[Tensor, Tensor]:
        """Sum the k smallest values; returns the sum and its largest possible error."""
        counts, excesses = self.counts.double(), self.excesses.double()
        edges = torch.arange(SUMMARY_BINS, device=counts.device) * BIN_WIDTH
        before = counts.cumsum(dim=-1) - counts
        taken = (k - before).clamp(min=0).minimum(counts)
        whole = torch.where(taken == counts, excesses, 0.0)
        part = (taken > 0) & (taken < counts)
        most = taken * excesses / counts.clamp(min=1)  # the smallest are no larger than the mean
        least = (excesses - (counts - taken) * BIN_WIDTH).clamp(min=0).minimum(most)
        middle = torch.where(part, (most + least) / 2, 0.0)
        error = torch.where(part, (most - least) / 2, 0.0)
        return (taken * edges + whole + middle).sum(dim=-1), error.sum(dim=-1)


def _histogram(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Compute counts and excesses (R, SUMMARY_BINS) of (R, n) float32; an extra last bin takes non-finite values."""
    counted = rows.isfinite()
    bins = torch.where(counted, (rows / BIN_WIDTH).clamp(0, SUMMARY_BINS - 1), SUMMARY_BINS).long()
    counts = torch.zeros(len(rows), SUMMARY_BINS + 1, dtype=torch.int32, device=rows.device)
    excesses = torch.zeros(len(rows), SUMMARY_BINS + 1, dtype=torch.float32, device=rows.device)
    counts.scatter_add_(1, bins, counted.int())
    excesses.scatter_add_(1, bins, torch.where(counted, rows - bins * BIN_WIDTH, 0.0))
    return counts[:, :SUMMARY_BINS], excesses[:, :SUMMARY_BINS]
