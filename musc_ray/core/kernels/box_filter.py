"""The compiled part of `gram`: box sums of products in registers, scaled to -d^2 / 2, and their maxima.

Indices are unsigned throughout: numba guards signed ones against being negative, which costs.
"""

import numba
import numpy as np
from numba import literal_unroll

from musc_ray.core.kernels.simd import (
    LANES,
    OPTIONS,
    add,
    larger,
    largest,
    load,
    multiply,
    pointer,
    slide,
    splat,
    store,
    sum_across,
    sum_of,
    total,
    window_of,
)

U, F32 = np.uintp, np.float32
VECTOR = U(LANES)
PADDING = 5
"""Vectors between the buffers of two rows: at multiples of 4 kB they would evict each other from the cache."""


def plane(strip: int, w: int, pitch: int) -> int:
    """Compute the buffer size of a row of grid a for a strip of lines of grid b."""
    return strip * pitch * w + PADDING * LANES


@numba.njit(**OPTIONS)
def nearest(product, stride, sizes, left, right, maxima, tail, strips, workspace, images, degrees):
    """Process all image pairs of a product, all degrees while a pair's products are in the cache.

    Args:
        product: flat; stride: length of its rows.
        sizes: h, w, and the length of a line of grid b, a multiple of LANES.
        left: 1 / n and T / n of all patches of shard a, flat; right: those of b, in lines.
        maxima: of rows and of columns, flat; their -d^2 / 2 become distances at the end.
        tail: 1 for the lanes of a line's last vector that are patches, 0 for the others.
        strips: for each degree, the lines of grid b processed at a time.
        images: number of a and b, first of each, and number in the shards.
        degrees: a tuple of r numbers for each degree r.
    """
    h, w, pitch = sizes
    length, line = h * w, h * pitch
    (images_a, images_b), (first_a, first_b), (all_a, all_b) = images
    values, ends = pointer(product), pointer(tail)
    scales = (pointer(left[0]), pointer(left[1])), (pointer(right[0]), pointer(right[1]))
    best, room = (pointer(maxima[0]), pointer(maxima[1])), (pointer(workspace[0]), pointer(workspace[1]))
    for i in range(images_a):
        for j in range(images_b):
            block = (i * length * stride + j * length, stride)
            d = U(0)
            for taps in literal_unroll(degrees):
                own, other = (d * all_a + first_a + i) * length, (d * all_b + first_b + j) * line
                row, column = (d * images_a + i) * length * images_b + j, ((d * images_b + j) * images_a + i) * line
                places = (own, other, column, row, images_b)
                if len(taps) == 1:
                    _maxima(values, block, sizes, scales, best, places)
                else:
                    for first in range(U(0), h, strips[d]):
                        lines = (first, min(first + strips[d], h))
                        _box_maxima(values, block, sizes, scales, best, places, ends, lines, room, taps)
                d += U(1)
    for values in maxima:
        for t in range(len(values)):
            values[t] = np.sqrt(F32(-2) * min(values[t], F32(0)))


@numba.njit(**OPTIONS)
def _box_maxima(product, block, sizes, scales, maxima, places, tail, lines, workspace, taps):
    """Compute, for one image pair and some lines of grid b, box sums, scaled to -d^2 / 2, and their maxima.

    Walks down grid a. Of the last r of its rows the sums over grid b and along the row are kept, for each vector of b
    those of the row's patches contiguously: (r, vectors of b, w, LANES). The sum of the r rows is the box sum for the
    middle row.
    """
    h, w, pitch = sizes
    reach = U(len(taps)) // U(2)
    kept, tops = workspace
    vectors = (lines[1] - lines[0]) * (pitch // VECTOR)
    plane = (vectors * w + U(PADDING)) * VECTOR
    _clear(kept, U(0), U(len(taps)) * plane)
    slot = U(0)
    for y in range(h + reach):
        here = slot * plane
        if y < h:
            row = (block[0] + y * w * block[1], block[1])
            _sum_over_b(product, row, sizes, tail, lines, kept, here, taps)
            _sum_along(kept, here, vectors, w, taps)
        else:
            _clear(kept, here, here + plane)
        if y >= reach:
            for x in range(w):
                store(tops, x * VECTOR, splat(F32(-np.inf)))
            first, skipped = (y - reach) * w, lines[0] * pitch
            to = (places[0] + first, places[1] + skipped, places[2] + skipped)
            _fold(kept, plane, vectors, w, scales, to, maxima[1], tops, taps)
            for x in range(w):
                t = places[3] + (first + x) * places[4]
                top = largest(load(tops, x * VECTOR))
                maxima[0][t] = max(top, maxima[0][t]) if lines[0] > U(0) else top
        slot = slot + U(1) if slot + U(1) < U(len(taps)) else U(0)


@numba.njit(**OPTIONS)
def _clear(kept, start, stop):
    """Fill with zeros."""
    for t in range(start, stop, VECTOR):
        store(kept, t, splat(F32(0)))


@numba.njit(**OPTIONS)
def _sum_over_b(product, row, sizes, tail, lines, kept, here, taps):
    """Sum over grid b, across and down, for a row of patches of a."""
    h, w, pitch = sizes
    reach = U(len(taps)) // U(2)
    line = (pitch // VECTOR) * w * VECTOR
    start = lines[0] - min(reach, lines[0])
    for x in range(w):
        for c in range(U(0), pitch, VECTOR):
            at, to = row[0] + x * row[1], here + x * VECTOR + c * w
            window = window_of(taps)
            for y in range(start, min(lines[0] + reach, h)):
                window = slide(window, _across(product, at + y * w, c, sizes, tail, taps))
            for y in range(lines[0], lines[1]):
                below = splat(F32(0))
                if y + reach < h:
                    below = _across(product, at + (y + reach) * w, c, sizes, tail, taps)
                window = slide(window, below)
                store(kept, to, total(window))
                to += line


@numba.njit(**OPTIONS)
def _across(product, line, c, sizes, tail, taps):
    """Sum across a line of grid b, for its vector from c on, zeros beyond its ends."""
    w = sizes[1]
    before = behind = splat(F32(0))
    here = load(product, line + c)
    if c > U(0):
        before = load(product, line + c - VECTOR)
    if c + VECTOR > w:
        here = multiply(here, load(tail, U(0)))
    elif c + VECTOR < w:
        behind = load(product, line + c + VECTOR)
        if c + VECTOR + VECTOR > w:
            behind = multiply(behind, load(tail, U(0)))
    return sum_across(before, here, behind, taps)


@numba.njit(**OPTIONS)
def _sum_along(kept, here, vectors, w, taps):
    """Sum along a row of grid a, in place."""
    reach = U(len(taps)) // U(2)
    for v in range(vectors):
        at = here + v * w * VECTOR
        window = window_of(taps)
        for x in range(min(reach, w)):
            window = slide(window, load(kept, at + x * VECTOR))
        for x in range(w):
            ahead = splat(F32(0))
            if x + reach < w:
                ahead = load(kept, at + (x + reach) * VECTOR)
            window = slide(window, ahead)
            store(kept, at + x * VECTOR, total(window))


@numba.njit(**OPTIONS)
def _fold(kept, plane, vectors, w, scales, to, best, tops, taps):
    """Sum down grid a, scale to -d^2 / 2 and update both maxima."""
    left, right = scales
    for v in range(vectors):
        inverse, ratio = load(right[0], to[1] + v * VECTOR), load(right[1], to[1] + v * VECTOR)
        top_n = load(best, to[2] + v * VECTOR)
        for x in range(w):
            if left[1][to[0] + x] <= F32(0):
                continue  # hidden: nobody's nearest, and its own distances are not used
            box = sum_of(kept, (v * w + x) * VECTOR, plane, taps)
            value = _half_square(box, inverse, splat(left[0][to[0] + x]), ratio, splat(left[1][to[0] + x]))
            top_n = larger(top_n, value)
            store(tops, x * VECTOR, larger(load(tops, x * VECTOR), value))
        store(best, to[2] + v * VECTOR, top_n)


@numba.njit(**OPTIONS)
def _maxima(product, block, sizes, scales, maxima, places):
    """Scale products of one image pair, degree 1, to -d^2 / 2 and compute their maxima.

    Takes two patches of a at a time, so that data of b is read half as often.
    """
    h, w, pitch = sizes
    left, right = scales
    for m in range(U(0), h * w, U(2)):
        n = min(m + U(1), h * w - U(1))
        if left[1][places[0] + n] <= F32(0):
            n = m
        if left[1][places[0] + m] <= F32(0):
            m = n
        if left[1][places[0] + m] <= F32(0):
            continue  # both are hidden: nobody's nearest, and their own distances are not used
        at_m, at_n = block[0] + m * block[1], block[0] + n * block[1]
        inverse_m, inverse_n = splat(left[0][places[0] + m]), splat(left[0][places[0] + n])
        ratio_m, ratio_n = splat(left[1][places[0] + m]), splat(left[1][places[0] + n])
        top_m = top_n = splat(F32(-np.inf))
        for y in range(h):
            for c in range(U(0), pitch, VECTOR):
                at, here = y * pitch + c, y * w + c
                inverse, ratio = load(right[0], places[1] + at), load(right[1], places[1] + at)
                value_m = _half_square(load(product, at_m + here), inverse, inverse_m, ratio, ratio_m)
                value_n = _half_square(load(product, at_n + here), inverse, inverse_n, ratio, ratio_n)
                top_m, top_n = larger(top_m, value_m), larger(top_n, value_n)
                best = larger(load(maxima[1], places[2] + at), larger(value_m, value_n))
                store(maxima[1], places[2] + at, best)
        maxima[0][places[3] + m * places[4]] = largest(top_m)
        maxima[0][places[3] + n * places[4]] = largest(top_n)


@numba.njit(**OPTIONS)
def _half_square(box, inverse, inverse_m, ratio, ratio_m):
    """Compute -d^2 / 2 from a box sum of G."""
    return add(multiply(multiply(box, inverse), inverse_m), add(multiply(ratio, ratio_m), splat(F32(-1))))


@numba.njit(**OPTIONS)
def box_lengths(vectors, images, h, w, channels, lengths, room, taps):
    """Compute lengths of box sums of vectors (A, L, C), 16 channels at a time; vectors and lengths flat.

    Args:
        room: flat buffers of h * (w + 1) and h * w vectors. Arrays of this function's own would be freed once their
            last use is behind, and what is read and written through a pointer does not count as one.
    """
    length, wide, reach = h * w, w + U(1), U(len(taps)) // U(2)
    down, squares = room
    source, down_at, squares_at = pointer(vectors), pointer(down), pointer(squares)
    for i in range(images):
        squares[:] = F32(0)
        for c in range(U(0), channels, VECTOR):
            for x in range(w):
                at = (i * length + x) * channels + c
                window = window_of(taps)
                for y in range(h + reach):
                    value = splat(F32(0))
                    if y < h:
                        value = load(source, at + y * w * channels)
                    window = slide(window, value)
                    if y >= reach:
                        store(down_at, ((y - reach) * wide + x) * VECTOR, total(window))
            for y in range(h):
                window = window_of(taps)
                for x in range(w + reach):
                    value = splat(F32(0))
                    if x < w:
                        value = load(down_at, (y * wide + x) * VECTOR)
                    window = slide(window, value)
                    if x >= reach:
                        at, value = (y * w + x - reach) * VECTOR, total(window)
                        store(squares_at, at, add(load(squares_at, at), multiply(value, value)))
        for m in range(length):
            square = F32(0)
            for lane in range(VECTOR):
                square += squares[m * VECTOR + lane]
            lengths[i * length + m] = np.sqrt(square)
