"""A mergeable summary of distances: how many fall in each bin, and by how much they exceed its edge in sum.

The interval average needs the sum of the k smallest distances. Whole bins give theirs exactly; of the one bin that rank
k falls into only a part counts, and its sum is known within bounds. So memory is bounded however many references there
are, at an error that is at most BIN_WIDTH / 2 times the share of the averaged values that lie in that bin.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from musc_ray.core.interval import interval_bounds

BINS = 512
LARGEST = 2.0
"""Unit vectors are at most 2 apart."""

BIN_WIDTH = LARGEST / BINS
SUMMARY_BYTES = 8 * BINS
"""Of one patch and degree."""

VALUES_AT_ONCE = 2**24


@dataclass
class Summary:
    """Counts (..., BINS) int32 of distances, and excesses (..., BINS) float32: sums of distance minus lower bin edge.

    Excesses, not distances: float32 sums of many small numbers lose nothing that matters.
    """

    counts: Tensor
    excesses: Tensor

    @classmethod
    def of(cls, minima: Tensor) -> "Summary":
        """Summarise (..., n) distances; +inf does not count."""
        *shape, n = minima.shape
        rows = minima.reshape(-1, n)
        counts = torch.empty(len(rows), BINS, dtype=torch.int32, device=minima.device)
        excesses = torch.empty(len(rows), BINS, dtype=torch.float32, device=minima.device)
        step = max(1, VALUES_AT_ONCE // max(n, BINS))
        for start in range(0, len(rows), step):
            part = slice(start, start + step)
            counts[part], excesses[part] = _histogram(rows[part].float())
        return cls(counts.view(*shape, BINS), excesses.view(*shape, BINS))

    def merge(self, other: "Summary") -> "Summary":
        """The summary of both."""
        return Summary(self.counts + other.counts, self.excesses + other.excesses)

    def interval_average(self, references: int, interval: tuple[float, float]) -> tuple[Tensor, Tensor]:
        """Mean of the selected smallest distances (MuSc, eq. 5), and the most that it can be wrong: both (...)."""
        start, stop = interval_bounds(references, interval)
        upper, upper_error = self._smallest(stop)
        lower, lower_error = self._smallest(start)
        mean = (upper - lower) / (stop - start)
        return mean.float(), ((upper_error + lower_error) / (stop - start)).float()

    def _smallest(self, k: int) -> tuple[Tensor, Tensor]:
        """Sum of the k smallest values and its largest error."""
        counts, excesses = self.counts.double(), self.excesses.double()
        edges = torch.arange(BINS, device=counts.device) * BIN_WIDTH
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
    """Counts and excesses (R, BINS) of (R, n) float32; what does not count goes to a bin behind the last."""
    counted = rows.isfinite()
    bins = torch.where(counted, (rows / BIN_WIDTH).clamp(0, BINS - 1), BINS).long()
    counts = torch.zeros(len(rows), BINS + 1, dtype=torch.int32, device=rows.device)
    excesses = torch.zeros(len(rows), BINS + 1, dtype=torch.float32, device=rows.device)
    counts.scatter_add_(1, bins, counted.int())
    excesses.scatter_add_(1, bins, torch.where(counted, rows - bins * BIN_WIDTH, 0.0))
    return counts[:, :BINS], excesses[:, :BINS]
