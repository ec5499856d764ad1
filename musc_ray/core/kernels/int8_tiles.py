"""The compiled part of `int8_dot`: products of int8 in registers and their maxima, as exact integers.

Indices are unsigned throughout: numba guards signed ones against being negative, which costs.
"""

import numba
import numpy as np

from musc_ray.core.kernels.simd import LANES, OPTIONS, pointer
from musc_ray.core.kernels.simd_int8 import ahead, fold_products, fold_values, largest_of_each

U, I32, F32 = np.uintp, np.int32, np.float32
FOUR = U(4)
VECTOR, GROUP = U(LANES), U(4 * LANES)

ROWS = tuple(range(6))
ONE, TWO, THREE, MOST = (tuple(range(vectors)) for vectors in (1, 2, 3, 4))
"""Micro tiles: 6 rows by up to 4 vectors of columns, 24 of the 32 registers."""

EXACT = {**OPTIONS, "fastmath": False}
"""Square roots and quotients as IEEE rounds them: equal on every machine."""


@numba.njit(**OPTIONS)
def nearest(left, right, sizes, images, room, out, scale):
    """Compute the distances of all pairs of images, pair by pair; nothing of the products is written.

    Args:
        left: rows, flat uint8, and their constants, flat int32.
        right: vectors of columns, flat int8, and their constants, flat int32.
        sizes: patches of an image of a and of b, rows and vectors of columns of an image, groups of four channels.
        images: number of a and b, first of each.
        room: buffers of this thread: int32 maxima of rows lane by lane, of rows, and of columns; float32 distances.
        out: (a, L, b) and (b, L, a) float32, flat.
        scale: of the int8 vectors.
    """
    patches_a, patches_b, rows, vectors, groups = sizes
    images_a, images_b, first_a, first_b = images
    lanes, tops, columns, distances = room
    for i in range(images_a):
        a = ahead(pointer(left[0]), (first_a + i) * rows * groups * FOUR)
        of_a = ahead(pointer(left[1]), (first_a + i) * rows)
        for j in range(images_b):
            b = ahead(pointer(right[0]), (first_b + j) * vectors * groups * GROUP)
            of_b = ahead(pointer(right[1]), (first_b + j) * vectors * VECTOR)
            lanes[:] = I32(-(2**31))
            columns[:] = I32(-(2**31))
            _fold_pair(a, b, of_a, of_b, pointer(lanes), pointer(columns), (rows, vectors, groups))
            for m in range(U(0), rows, VECTOR):
                largest_of_each(ahead(pointer(lanes), m * VECTOR), ahead(pointer(tops), m))
            _write_distances(tops, distances, patches_a, scale, out[0], i * patches_a * images_b + j, images_b)
            _write_distances(columns, distances, patches_b, scale, out[1], j * patches_b * images_a + i, images_a)


@numba.njit(**OPTIONS)
def _fold_pair(a, b, of_a, of_b, best_a, best_b, sizes):
    """Fold the products of one pair of images into their maxima, some vectors of columns at a time.

    The vectors stay in the core's first cache while all rows pass them.
    """
    vectors = sizes[1]
    strips = (vectors + U(len(MOST)) - U(1)) // U(len(MOST))
    small = vectors // strips
    v = U(0)
    for strip in range(strips):
        width = small + U(1) if strip < vectors - small * strips else small
        columns, of_columns, best = ahead(b, v * sizes[2] * GROUP), ahead(of_b, v * VECTOR), ahead(best_b, v * VECTOR)
        if width == U(4):
            _fold_strip(a, columns, of_a, of_columns, best_a, best, sizes, MOST)
        elif width == U(3):
            _fold_strip(a, columns, of_a, of_columns, best_a, best, sizes, THREE)
        elif width == U(2):
            _fold_strip(a, columns, of_a, of_columns, best_a, best, sizes, TWO)
        else:
            _fold_strip(a, columns, of_a, of_columns, best_a, best, sizes, ONE)
        v += width


@numba.njit(**OPTIONS)
def _fold_strip(a, b, of_a, of_b, best_a, best_b, sizes, width):
    """Fold the products of all rows with some vectors of columns."""
    rows, _, groups = sizes
    for m in range(U(0), rows, U(len(ROWS))):
        at = ahead(a, m * groups * FOUR)
        fold_products(at, b, ahead(of_a, m), of_b, ahead(best_a, m * VECTOR), best_b, groups, ROWS, width)


@numba.njit(**EXACT)
def _write_distances(halves, distances, patches, scale, out, start, step):
    """Turn maxima of -|q - p|^2 / 2 into distances, one every `step` values of `out`."""
    for m in range(patches):
        distances[m] = np.sqrt(F32(I32(-2) * halves[m])) / scale
    for m in range(patches):
        out[start + m * step] = distances[m]


@numba.njit(**EXACT)
def nearest_of_product(product, left, right, sizes, room, out, scale):
    """Compute the distances of all pairs of images from a product of their int8 vectors, on any CPU.

    Args:
        product: (a * L, b * L) int32, flat.
        left, right: constants of its rows and columns, int32.
        sizes: patches of an image of a and of b, number of images a and b.
        room: int32 maxima of rows and of columns (L,), lanes (16,), and float32 distances (L of either).
        out: (a, L, b) and (b, L, a) float32, flat.
        scale: of the int8 vectors.
    """
    patches_a, patches_b, images_a, images_b = sizes
    tops, columns, lanes, distances = room
    whole = patches_b // VECTOR * VECTOR
    for i in range(images_a):
        for j in range(images_b):
            of_right = ahead(pointer(right), j * patches_b)
            columns[:] = I32(-(2**31))
            for m in range(patches_a):
                at, own = (i * patches_a + m) * images_b * patches_b + j * patches_b, left[i * patches_a + m]
                lanes[:] = I32(-(2**31))
                row = ahead(pointer(product), at)
                for n in range(U(0), whole, VECTOR):
                    best = ahead(pointer(columns), n)
                    fold_values(ahead(row, n), own, ahead(of_right, n), best, pointer(lanes))
                top = lanes.max()
                for n in range(whole, patches_b):
                    value = I32(row[n] + own + of_right[n])
                    top, columns[n] = max(top, value), max(columns[n], value)
                tops[m] = top
            _write_distances(tops, distances, patches_a, scale, out[0], i * patches_a * images_b + j, images_b)
            _write_distances(columns, distances, patches_b, scale, out[1], j * patches_b * images_a + i, images_a)
