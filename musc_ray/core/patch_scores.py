"""From a shard's distances of one layer, in parts, to its band of patch scores.

Exact up to MAX_EXACT_REFERENCES references, from a `DistanceSummary` beyond.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from musc_ray.core.distance_summary import DistanceSummary
from musc_ray.core.interval_average import interval_average
from musc_ray.core.known_good import NearestGood, bounded
from musc_ray.core.pending_distances import MAX_EXACT_REFERENCES

VALUES_CHUNK = 2**26
"""Distances sorted, and bins summed, at a time."""

Part = Tensor | DistanceSummary
"""Distances (D, A, L, B) to B images, +inf where they do not count, or a summary of such distances."""


def summarise(parts: Sequence[Part]) -> DistanceSummary:
    """Merge all parts into one summary."""
    summaries = [part if isinstance(part, DistanceSummary) else DistanceSummary.of(part) for part in parts]
    total = summaries[0]
    for summary in summaries[1:]:
        total = total.merge(summary)
    return total


def patch_scores(
    parts: Sequence[Part],
    references: int,
    interval: tuple[float, float],
    device: torch.device,
    good: NearestGood | None = None,
) -> tuple[Tensor, float]:
    """Compute the patch scores of a band: interval average, then mean over degrees (MuSc, eq. 5 and 6).

    Args:
        parts: together they hold every image's distances to all its references.
        references: their number, the same for every image.
        interval: share of the sorted distances to average.
        device: where to sort.
        good: distances of these images to known good ones, which bound the averages of each degree (`known_good`); None
            without any.

    Returns:
        (A, L) float32 on the CPU, and the largest possible error: 0 when all distances were kept.
    """
    distances = [part for part in parts if isinstance(part, Tensor)]
    if references > MAX_EXACT_REFERENCES or len(distances) < len(parts):
        return _from_summary(summarise(parts), references, interval, good)
    return exact_scores(distances, references, interval, device, good), 0.0


def exact_scores(
    parts: Sequence[Tensor],
    references: int,
    interval: tuple[float, float],
    device: torch.device,
    good: NearestGood | None = None,
) -> Tensor:
    """Compute `patch_scores` from distances (D, A, L, B) alone, some images at a time: (A, L) float32 on the CPU."""
    degrees, images, length, _ = parts[0].shape
    step = max(1, VALUES_CHUNK // (length * sum(part.shape[3] for part in parts)))
    total = torch.zeros(images, length, dtype=torch.float64)
    for d in range(degrees):
        for start in range(0, images, step):
            chunks = [part[d, start : start + step].to(device) for part in parts]
            rows = torch.cat(chunks, dim=2) if len(chunks) > 1 else chunks[0]
            average = interval_average(rows, references, interval).cpu()
            if good is not None:
                average = bounded(average, good.distances[d, start : start + step], good.images)
            total[start : start + step] += average
    return (total / degrees).float()


def _from_summary(
    summary: DistanceSummary, references: int, interval: tuple[float, float], good: NearestGood | None
) -> tuple[Tensor, float]:
    """Compute `patch_scores` from bins (D, A, L, SUMMARY_BINS), some images at a time."""
    degrees, images, length, bins = summary.counts.shape
    step = max(1, VALUES_CHUNK // (degrees * length * bins))
    scores, largest = torch.empty(images, length), 0.0
    for start in range(0, images, step):
        part = DistanceSummary(summary.counts[:, start : start + step], summary.excesses[:, start : start + step])
        mean, error = part.interval_average(references, interval)
        if good is not None:
            mean = bounded(mean.cpu(), good.distances[:, start : start + step], good.images)
        scores[start : start + step] = mean.double().mean(dim=0).float()
        largest = max(largest, float(error.max()))
    return scores, largest
