"""From a shard's distances of one layer, in parts, to its band of patch scores.

Exact up to MAX_EXACT_REFERENCES references, from a `DistanceSummary` beyond.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from musc_ray.core.distance_summary import DistanceSummary
from musc_ray.core.interval_average import interval_average
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
    at_most: Tensor | None = None,
) -> tuple[Tensor, float]:
    """Compute the patch scores of a band: interval average, then mean over degrees (MuSc, eq. 5 and 6).

    Args:
        parts: together they hold every image's distances to all its references.
        references: their number, the same for every image.
        interval: share of the sorted distances to average.
        device: where to sort.
        at_most: (D, A, L) float32, limits of the averages of each degree: distances to the nearest patch that is known
            to be good. None means no limit.

    Returns:
        (A, L) float32 on the CPU, and the largest possible error: 0 when all distances were kept.
    """
    distances = [part for part in parts if isinstance(part, Tensor)]
    if references > MAX_EXACT_REFERENCES or len(distances) < len(parts):
        return _from_summary(summarise(parts), references, interval, at_most)
    return exact_scores(distances, references, interval, device, at_most), 0.0


def exact_scores(
    parts: Sequence[Tensor],
    references: int,
    interval: tuple[float, float],
    device: torch.device,
    at_most: Tensor | None = None,
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
            total[start : start + step] += _limited(average, at_most, (d, slice(start, start + step)))
    return (total / degrees).float()


def _limited(averages: Tensor, at_most: Tensor | None, part: tuple[int | slice, slice]) -> Tensor:
    """Return averages that are at most the limits of a part of the degrees and images."""
    return averages if at_most is None else torch.minimum(averages, at_most[part].to(averages.device))


def _from_summary(
    summary: DistanceSummary, references: int, interval: tuple[float, float], at_most: Tensor | None
) -> tuple[Tensor, float]:
    """Compute `patch_scores` from bins (D, A, L, SUMMARY_BINS), some images at a time."""
    degrees, images, length, bins = summary.counts.shape
    step = max(1, VALUES_CHUNK // (degrees * length * bins))
    scores, largest = torch.empty(images, length), 0.0
    for start in range(0, images, step):
        part = DistanceSummary(summary.counts[:, start : start + step], summary.excesses[:, start : start + step])
        mean, error = part.interval_average(references, interval)
        limited = _limited(mean, at_most, (slice(None), slice(start, start + step)))
        scores[start : start + step] = limited.double().mean(dim=0).float()
        largest = max(largest, float(error.max()))
    return scores, largest
