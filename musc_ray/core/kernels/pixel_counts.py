"""Count pixels by their scores' bins and places (see `metrics/counting.py`), compiled."""

import numba
import numpy as np

from musc_ray.core.kernels.simd import OPTIONS

COMPILED = {name: value for name, value in OPTIONS.items() if name != "fastmath"}
"""Without fast arithmetic: it assumes that there is no NaN, which is searched for here."""


@numba.njit(**COMPILED)
def count_bins(values, regions, shares, negatives, positives, overlaps):
    """Count an image's pixels by bin, in place; returns False if a score is NaN."""
    masked = len(regions) > 0
    bits = values.view(np.uint32)
    for i in range(len(values)):
        if values[i] != values[i]:
            return False
        place = _key(values[i], bits[i]) >> np.uint32(16)
        region = regions[i] if masked else 0
        if region:
            positives[place] += 1
            overlaps[place] += shares[region]
        else:
            negatives[place] += 1
    return True


@numba.njit(**COMPILED)
def count_places(values, regions, shares, rows, negatives, positives, overlaps):
    """Count an image's pixels by row of their bin (-1: not counted) and place, in place."""
    masked = len(regions) > 0
    bits = values.view(np.uint32)
    for i in range(len(values)):
        key = _key(values[i], bits[i])
        row = rows[key >> np.uint32(16)]
        if row < 0:
            continue
        place = key & np.uint32(0xFFFF)
        region = regions[i] if masked else 0
        if region:
            positives[row, place] += 1
            overlaps[row, place] += shares[region]
        else:
            negatives[row, place] += 1


@numba.njit(inline="always", **COMPILED)
def _key(value, bits):
    """Compute the key of a value, as `keys_of`."""
    if value == np.float32(0):
        return np.uint32(0x80000000)
    if bits >> np.uint32(31):
        return ~bits
    return bits | np.uint32(0x80000000)
