"""Sums of the k smallest of many rows, compiled and without sorting."""

import numba
import numpy as np

from musc_ray.core.simd import OPTIONS

U = np.uintp

INFINITY = np.uint32(0x7F800000)
"""Bits of +inf. Bits of floats that are not negative order as the floats do."""

HALVES = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(np.float32)
"""The value of each float16 by its bits."""


@numba.njit(**OPTIONS)
def means_of_smallest(values, halves, length, start, stop, means):
    """Means of the values of rank start to stop of each row (R, length), given flat: float32, or float16 as bits."""
    row = np.empty(length, np.float32)
    bits = row.view(np.uint32)
    for r in range(len(means)):
        first = U(r) * U(length)
        _copy(values, first, halves, row, U(length))
        lower = _smallest(row, bits, U(length), start) if start > 0 else 0.0
        means[r] = (_smallest(row, bits, U(length), stop) - lower) / (stop - start)


@numba.njit(**OPTIONS)
def _copy(values, first, halves, row, length):
    """A row as float32."""
    if values.itemsize == 2:
        for t in range(length):
            row[t] = halves[U(values[first + t])]
    else:
        for t in range(length):
            row[t] = values[first + t]


@numba.njit(**OPTIONS)
def _smallest(row, bits, length, k):
    """Sum of the k smallest: the k-th is found by halving the range of bits that it lies in."""
    low, high = np.uint32(0), INFINITY
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
    several_equal = np.array([low]).view(np.float32)[0]
    return _sum(row, bits, length, below) + (k - _count(bits, length, below)) * np.float64(several_equal)


@numba.njit(**OPTIONS)
def _count(bits, length, most):
    """How many are at most this."""
    count = np.uint32(0)
    for t in range(length):
        count += np.uint32(bits[t] <= most)
    return count


@numba.njit(**OPTIONS)
def _sum(row, bits, length, most):
    """Sum of those that are at most this."""
    total = np.float64(0)
    for t in range(length):
        total += np.float64(row[t] if bits[t] <= most else np.float32(0))
    return total
