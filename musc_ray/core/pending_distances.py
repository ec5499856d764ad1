"""How many distances wait until an image has met all its references, and how they are kept; needs no torch."""

from musc_ray.core.references import ReferenceWindow

MAX_EXACT_REFERENCES = 4096
"""Up to this many references all distances are kept until the band is complete: 8 kB per patch and degree in
float16."""

SUMMARY_BINS = 512
"""Bins of a `DistanceSummary`, which takes the place of more distances."""

SUMMARY_BYTES = 8 * SUMMARY_BINS
"""Bytes of the summary of one patch and degree."""

SUMMARY_CHUNK = 4096
"""Distances of a patch that are collected before they are added to its summary: twice the summary's size."""


def pending_bytes_per_patch(window: ReferenceWindow, itemsize: int) -> int:
    """Compute the maximum bytes of pending distances of a patch and degree, summed over a group's images.

    Args:
        window: the group's references.
        itemsize: bytes of a distance.
    """
    kept = window.max_pending * itemsize
    if window.references <= MAX_EXACT_REFERENCES:
        return kept
    return min(kept, window.images * (SUMMARY_BYTES + SUMMARY_CHUNK * itemsize))
