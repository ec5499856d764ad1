"""From a band's distances, in parts, to patch scores: exact up to a number of references, from a summary beyond."""

from collections.abc import Sequence

import torch
from torch import Tensor

from musc_ray.core.distance_summary import SUMMARY_BYTES, Summary
from musc_ray.core.interval import interval_average
from musc_ray.core.references import Window

EXACT_REFERENCES = 4096
"""Up to so many references all distances are kept until the band is complete: 8 kB a patch and degree in float16."""

CONDENSE_COLUMNS = 4096
"""Where a summary is kept, so many distances of a patch wait before they are added to it: twice its size."""

VALUES_AT_ONCE = 2**26
"""Distances sorted, and bins summed, at a time."""

Part = Tensor | Summary
"""Distances (D, A, L, B) to B images, +inf where they do not count, or a summary of such."""


def condense(parts: Sequence[Part]) -> Summary:
    """One summary of all parts."""
    summaries = [part if isinstance(part, Summary) else Summary.of(part) for part in parts]
    total = summaries[0]
    for summary in summaries[1:]:
        total = total.merge(summary)
    return total


def waiting_bytes(window: Window, itemsize: int) -> int:
    """Bytes that the distances of a patch and degree, summed over a group's images, take at most while they wait.

    Args:
        window: the group's references.
        itemsize: bytes of a distance.
    """
    kept = window.most_waiting * itemsize
    if window.references <= EXACT_REFERENCES:
        return kept
    return min(kept, window.images * (SUMMARY_BYTES + CONDENSE_COLUMNS * itemsize))


def patch_scores(
    parts: Sequence[Part], references: int, interval: tuple[float, float], device: torch.device
) -> tuple[Tensor, float]:
    """Interval average of a band, mean over degrees (MuSc, eq. 5 and 6).

    Args:
        parts: together hold every image's distances to all its references.
        references: how many those are, for every image.
        interval: share of the sorted distances.
        device: where to sort.

    Returns:
        (A, L) float32 on the CPU, and the largest possible error: 0 when distances were kept.
    """
    if references > EXACT_REFERENCES:
        return _from_summary(condense(parts), references, interval)
    return exact_scores([part for part in parts if isinstance(part, Tensor)], references, interval, device), 0.0


def exact_scores(
    parts: Sequence[Tensor], references: int, interval: tuple[float, float], device: torch.device
) -> Tensor:
    """`patch_scores` from distances (D, A, L, B) alone, some images at a time: (A, L) float32 on the CPU."""
    degrees, images, length, _ = parts[0].shape
    step = max(1, VALUES_AT_ONCE // (length * sum(part.shape[3] for part in parts)))
    total = torch.zeros(images, length, dtype=torch.float64)
    for d in range(degrees):
        for start in range(0, images, step):
            found = [part[d, start : start + step].to(device) for part in parts]
            rows = torch.cat(found, dim=2) if len(found) > 1 else found[0]
            total[start : start + step] += interval_average(rows, references, interval).cpu()
    return (total / degrees).float()


def _from_summary(summary: Summary, references: int, interval: tuple[float, float]) -> tuple[Tensor, float]:
    """The same from bins (D, A, L, BINS), some images at a time."""
    degrees, images, length, bins = summary.counts.shape
    step = max(1, VALUES_AT_ONCE // (degrees * length * bins))
    scores, largest = torch.empty(images, length), 0.0
    for start in range(0, images, step):
        part = Summary(summary.counts[:, start : start + step], summary.excesses[:, start : start + step])
        mean, error = part.interval_average(references, interval)
        scores[start : start + step] = mean.double().mean(dim=0).float()
        largest = max(largest, float(error.max()))
    return scores, largest
