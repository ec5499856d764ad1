"""Sums of the k smallest of many rows, compiled and without sorting."""

import numba
import numpy as np

from musc_ray.core.kernels.simd import OPTIONS

U, F32 = np.uintp, np.float32

HALF_MAGNITUDE, MAGNITUDE = np.uint32(0x7FFF), np.uint32(0x7FFFFFFF)
"""All bits but the sign."""

INFINITY = np.uint32(0x7F800000)
"""Bits of +inf. Bits of floats that are not negative order as the floats do."""

HALF_SHIFT, HALF_SCALE = np.uint32(13), F32(2.0**112)
"""Float16 bits shifted to a float32's position scale the value by the difference of exponent offsets, 127 - 15."""

SCALED_INFINITY = np.uint32(0x47800000)
"""Bits of 2^16, which a float16's infinity becomes by this shift."""


@numba.njit(**OPTIONS)
def means_of_smallest(values, length, start, stop, means):
    """Average the values of rank start to stop of each row (R, length), given flat: float32, or float16 as bits.

    Values are not negative; -0.0 counts as 0, although its bits are the largest of all. At least `stop` values of a row
    must be finite.
    """
    row = np.empty(length, F32)
    bits = row.view(np.uint32)
    for r in range(len(means)):
        _copy(values, U(r) * U(length), row, bits, U(length))
        lower = _smallest(row, bits, U(length), start) if start > 0 else 0.0
        means[r] = (_smallest(row, bits, U(length), stop) - lower) / (stop - start)


@numba.njit(**OPTIONS)
def _copy(values, first, row, bits, length):
    """Copy a row as float32."""
    if values.itemsize == 2:
        for t in range(length):
            bits[t] = (np.uint32(values[first + t]) & HALF_MAGNITUDE) << HALF_SHIFT
        for t in range(length):
            row[t] *= HALF_SCALE
        for t in range(length):
            bits[t] = bits[t] if bits[t] < SCALED_INFINITY else INFINITY
    else:
        for t in range(length):
            row[t] = values[first + t]
        for t in range(length):
            bits[t] &= MAGNITUDE


@numba.njit(**OPTIONS)
def _smallest(row, bits, length, k):
    """Sum the k smallest: the k-th is found by bisecting the range of bits."""
    low, high = _range(bits, length)
    while low < high:
        middle = low + (high - low) // np.uint32(2)
        count = _count(bits, length, middle)
        if count == k:
            return _sum(row, bits, length, middle)
        if count > k:
            high = middle
        else:
            low = middle + np.uint32(1)
    if low == 0:  # at least k zeros
        return 0.0
    below = low - np.uint32(1)
    several_equal = np.array([low]).view(F32)[0]
    return _sum(row, bits, length, below) + (k - _count(bits, length, below)) * np.float64(several_equal)


@numba.njit(**OPTIONS)
def _range(bits, length):
    """Find the bits of the smallest and of the largest finite value."""
    low, high = INFINITY, np.uint32(0)
    for t in range(length):
        low = min(low, bits[t])
        high = max(high, bits[t] if bits[t] < INFINITY else np.uint32(0))
    return low, high


@numba.njit(**OPTIONS)
def _count(bits, length, most):
    """Count the values that are at most `most`."""
    count = np.uint32(0)
    for t in range(length):
        count += np.uint32(bits[t] <= most)
    return count


@numba.njit(**OPTIONS)
def _sum(row, bits, length, most):
    """Sum the values that are at most `most`."""
    total = np.float64(0)
    for t in range(length):
        total += np.float64(row[t] if bits[t] <= most else F32(0))
    return total
