"""The compiled part of `gram`: box sums of products in registers, and the maxima of what they scale to.

Indices are unsigned throughout: numba guards signed ones against being negative, which costs.
"""

import numba
import numpy as np

from musc_ray.core.simd import (
    LANES,
    OPTIONS,
    add,
    larger,
    largest,
    load,
    multiply,
    slide,
    splat,
    store,
    sum_across,
    total,
    window_of,
)

U, F32 = np.uintp, np.float32
VECTOR = U(LANES)


@numba.njit(**OPTIONS)
def nearest(product, stride, sizes, left, right, maxima, tail, workspace, images, taps):
    """All image pairs of a block; patches of a two by two, so that what belongs to b is read half as often.

    Args:
        product: flat; stride: length of its rows.
        sizes: h, w, and the length of a line of grid b, a multiple of LANES.
        tail: 1 for the lanes of a line's last vector that are patches, 0 for the others.
    """
    h, w, pitch = sizes
    length, line = h * w, h * pitch
    reach = U(len(taps)) // U(2)
    row = line + U(2) * reach * pitch + VECTOR  # an odd number of cache lines: rows do not compete for places
    for i in range(images[0]):
        for j in range(images[1]):
            start = i * length * stride + j * length
            if reach > U(0):
                for y in range(h):
                    _sum_down(product, start + y * w, stride, sizes, tail, workspace[0], taps)
                    _sum_along(workspace[0], sizes, workspace[1], (reach + y) * pitch, row, taps)
            for m in range(U(0), length, U(2)):
                pair = (m, min(m + U(1), length - U(1)))
                if reach > U(0):
                    tops = _maxima(
                        workspace[1],
                        pair[0] * row,
                        pair[1] * row,
                        pitch,
                        sizes,
                        left,
                        i * length,
                        pair,
                        right,
                        j * line,
                        maxima[1],
                        (j * images[0] + i) * line,
                        taps,
                    )
                else:
                    tops = _maxima(
                        product,
                        start + pair[0] * stride,
                        start + pair[1] * stride,
                        w,
                        sizes,
                        left,
                        i * length,
                        pair,
                        right,
                        j * line,
                        maxima[1],
                        (j * images[0] + i) * line,
                        taps,
                    )
                for k in range(2):
                    maxima[0][(i * length + pair[k]) * images[1] + j] = tops[k]
    for values in maxima:
        for t in range(len(values)):
            values[t] = np.sqrt(F32(-2) * min(values[t], F32(0)))


@numba.njit(**OPTIONS)
def _sum_down(product, start, stride, sizes, tail, target, taps):
    """For one line of grid b: sums down grid a; target (h, w + 1, pitch), the patches of a behind each other."""
    h, w, pitch = sizes
    reach = U(len(taps)) // U(2)
    step, wide = w * stride, (w + U(1)) * pitch
    for c in range(U(0), pitch, VECTOR):
        for x in range(w):
            at, to = start + x * stride + c, x * pitch + c
            window = window_of(taps)
            for y in range(min(reach, h)):
                window = slide(window, load(product, at + y * step))
            for y in range(h):
                below = splat(F32(0))
                if y + reach < h:
                    below = load(product, at + (y + reach) * step)
                window = slide(window, below)
                value = total(window)
                if c + VECTOR > w:
                    value = multiply(value, load(tail, U(0)))
                store(target, y * wide + to, value)


@numba.njit(**OPTIONS)
def _sum_along(source, sizes, target, offset, row, taps):
    """For one line of grid b: sums across it and along grid a; target (L, row), lines from offset on."""
    h, w, pitch = sizes
    reach = U(len(taps)) // U(2)
    wide = (w + U(1)) * pitch
    for y in range(h):
        for c in range(U(0), pitch, VECTOR):
            at, to = y * wide + c, y * w * row + offset + c
            window = window_of(taps)
            for x in range(min(reach, w)):
                window = slide(window, _across(source, at + x * pitch, c, pitch, taps))
            for x in range(w):
                ahead = splat(F32(0))
                if x + reach < w:
                    ahead = _across(source, at + (x + reach) * pitch, c, pitch, taps)
                window = slide(window, ahead)
                store(target, to + x * row, total(window))


@numba.njit(**OPTIONS)
def _across(source, at, c, pitch, taps):
    """Sums across a line of grid b, for its vector from c on; beyond its ends are zeros."""
    before = behind = splat(F32(0))
    if c > U(0):
        before = load(source, at - VECTOR)
    if c + VECTOR < pitch:
        behind = load(source, at + VECTOR)
    return sum_across(before, load(source, at), behind, taps)


@numba.njit(**OPTIONS)
def _maxima(source, at_m, at_n, step, sizes, left, first, pair, right, other, best, offset, taps):
    """For two patches m, n of a: sums down grid b, scaled to -d^2 / 2 and folded into the column maxima `best`.

    Returns:
        The largest values of m and of n.
    """
    h, pitch = sizes[0], sizes[2]
    inverse_m, inverse_n = splat(left[0][first + pair[0]]), splat(left[0][first + pair[1]])
    ratio_m, ratio_n = splat(left[1][first + pair[0]]), splat(left[1][first + pair[1]])
    top_m = top_n = splat(F32(-np.inf))
    ahead = U(len(taps)) - U(1)
    for c in range(U(0), pitch, VECTOR):
        window_m = window_n = window_of(taps)
        for y in range(ahead):
            window_m = slide(window_m, load(source, at_m + y * step + c))
            window_n = slide(window_n, load(source, at_n + y * step + c))
        for y in range(h):
            window_m = slide(window_m, load(source, at_m + (y + ahead) * step + c))
            window_n = slide(window_n, load(source, at_n + (y + ahead) * step + c))
            at = y * pitch + c
            inverse, ratio = load(right[0], other + at), load(right[1], other + at)
            value_m = _half_square(total(window_m), inverse, inverse_m, ratio, ratio_m)
            value_n = _half_square(total(window_n), inverse, inverse_n, ratio, ratio_n)
            top_m, top_n = larger(top_m, value_m), larger(top_n, value_n)
            store(best, offset + at, larger(load(best, offset + at), larger(value_m, value_n)))
    return largest(top_m), largest(top_n)


@numba.njit(**OPTIONS)
def _half_square(box, inverse, inverse_m, ratio, ratio_m):
    """-d^2 / 2 from a box sum of G."""
    return add(multiply(multiply(box, inverse), inverse_m), add(multiply(ratio, ratio_m), splat(F32(-1))))


@numba.njit(**OPTIONS)
def box_lengths(vectors, images, h, w, channels, lengths, taps):
    """Lengths of box sums of vectors (A, L, C), 16 channels at a time; vectors and lengths flat."""
    length, wide, reach = h * w, w + U(1), U(len(taps)) // U(2)
    down = np.zeros(h * wide * VECTOR, F32)
    squares = np.empty(length * VECTOR, F32)
    for i in range(images):
        squares[:] = F32(0)
        for c in range(U(0), channels, VECTOR):
            for x in range(w):
                at = (i * length + x) * channels + c
                window = window_of(taps)
                for y in range(h + reach):
                    value = splat(F32(0))
                    if y < h:
                        value = load(vectors, at + y * w * channels)
                    window = slide(window, value)
                    if y >= reach:
                        store(down, ((y - reach) * wide + x) * VECTOR, total(window))
            for y in range(h):
                window = window_of(taps)
                for x in range(w + reach):
                    value = splat(F32(0))
                    if x < w:
                        value = load(down, (y * wide + x) * VECTOR)
                    window = slide(window, value)
                    if x >= reach:
                        at, value = (y * w + x - reach) * VECTOR, total(window)
                        store(squares, at, add(load(squares, at), multiply(value, value)))
        for m in range(length):
            square = F32(0)
            for lane in range(VECTOR):
                square += squares[m * VECTOR + lane]
            lengths[i * length + m] = np.sqrt(square)
