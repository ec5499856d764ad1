"""The compiled part of `int8_dot.nearest_places`: patches compared near their own place alone.

Maxima of a place stay in the first cache while the places around it pass; those of the rows of the grid around it in
the second. Distances are written once, when nothing is left to compare.
"""

import numba
import numpy as np

from musc_ray.core.kernels.int8_tiles import EXACT, FOUR, GROUP, MOST, ONE, ROWS, THREE, TWO, VECTOR
from musc_ray.core.kernels.simd import OPTIONS, pointer
from musc_ray.core.kernels.simd_int8 import ahead, fold_pairs

U, I32, F32 = np.uintp, np.int32, np.float32
LOWEST = I32(-(2**31))


@numba.njit(**OPTIONS)
def nearest_places(left, right, sizes, grid, used, images, room, out, scale, farthest):
    """Compute the distances of patches to the nearest ones within a radius of their place.

    Args:
        left: rows of every place, flat uint8, and their constants, flat int32.
        right: vectors of columns of every place, flat int8, and their constants, flat int32.
        sizes: rows and vectors of a place, groups of four channels.
        grid: h, w and the radius.
        used: which places of a and of b are compared, (L,) bool each.
        images: number of a and b, first row of a, first vector of b.
        room: int32 maxima of a place, (rows, pitch), and of 2 radius + 1 rows of the grid of places; float32 distances
            of a place; flat.
        out: (a, L, b) and (b, L, a) float32.
        scale: of the int8 vectors.
        farthest: distances are at most this.
    """
    rows, vectors, groups = sizes
    h, w, radius = grid
    images_a, images_b, first_a, first_v = images
    own, others, distances = room
    area, span = U(len(own)), U(2) * radius + U(1)
    tile = (images_a, (images_b + VECTOR - U(1)) // VECTOR, groups)
    others[:] = LOWEST
    for y in range(h):
        for x in range(w):
            own[:] = LOWEST
            p = y * w + x
            if not used[0][p]:
                continue
            a = ahead(pointer(left[0]), (p * rows + first_a) * groups * FOUR)
            of_a = ahead(pointer(left[1]), p * rows + first_a)
            for t in range(y - min(radius, y), min(h, y + radius + U(1))):
                for s in range(x - min(radius, x), min(w, x + radius + U(1))):
                    if not used[1][t * w + s]:
                        continue
                    at = (t * w + s) * vectors + first_v
                    b, of_b = ahead(pointer(right[0]), at * groups * GROUP), ahead(pointer(right[1]), at * VECTOR)
                    its = ahead(pointer(others), ((t % span) * w + s) * area)
                    _fold_places(a, b, of_a, of_b, pointer(own), its, tile)
            _write_rows(own, p, out[0], distances, scale, farthest)
        if y >= radius:
            _write_line(others, y - radius, (w, span), out[1], distances, scale, farthest)
    for y in range(h - min(radius, h), h):
        _write_line(others, y, (w, span), out[1], distances, scale, farthest)


@numba.njit(**OPTIONS)
def _fold_places(a, b, of_a, of_b, best_a, best_b, tile):
    """Fold the products of one place of a with one of b into the maxima of both."""
    _, vectors, groups = tile
    strips = (vectors + U(len(MOST)) - U(1)) // U(len(MOST))
    small = vectors // strips
    v = U(0)
    for strip in range(strips):
        width = small + U(1) if strip < vectors - small * strips else small
        columns, constants = ahead(b, v * groups * GROUP), ahead(of_b, v * VECTOR)
        best = ahead(best_a, v * VECTOR), ahead(best_b, v * VECTOR)
        if width == U(4):
            _fold_strip(a, columns, of_a, constants, best, tile, MOST)
        elif width == U(3):
            _fold_strip(a, columns, of_a, constants, best, tile, THREE)
        elif width == U(2):
            _fold_strip(a, columns, of_a, constants, best, tile, TWO)
        else:
            _fold_strip(a, columns, of_a, constants, best, tile, ONE)
        v += width


@numba.njit(**OPTIONS)
def _fold_strip(a, b, of_a, of_b, best, tile, width):
    """Fold the products of all rows of a place with some vectors of another."""
    rows, vectors, groups = tile
    pitch = vectors * VECTOR
    for m in range(U(0), rows, U(len(ROWS))):
        best_a, best_b = ahead(best[0], m * pitch), ahead(best[1], m * pitch)
        fold_pairs(ahead(a, m * groups * FOUR), b, ahead(of_a, m), of_b, best_a, best_b, pitch, groups, ROWS, width)


@numba.njit(**OPTIONS)
def _write_rows(halves, place, out, distances, scale, farthest):
    """Write the distances (a, b) of a place to (a, L, b)."""
    images_a, images_b = U(out.shape[0]), U(out.shape[2])
    pitch = U(len(distances)) // _whole(images_a)
    _to_distances(halves, distances, scale, farthest)
    for i in range(images_a):
        row, values = out[i, place], distances[i * pitch : i * pitch + images_b]
        for j in range(images_b):
            row[j] = values[j]


@numba.njit(**OPTIONS)
def _write_line(halves, y, sizes, out, distances, scale, farthest):
    """Write the distances (a, b) of each place of a row of the grid to (b, L, a), and clear their maxima."""
    w, span = sizes
    images_b, images_a = U(out.shape[0]), U(out.shape[2])
    area = U(len(distances))
    pitch = area // _whole(images_a)
    for x in range(w):
        start = ((y % span) * w + x) * area
        maxima = halves[start : start + area]
        _to_distances(maxima, distances, scale, farthest)
        maxima[:] = LOWEST
        for j in range(images_b):
            row = out[j, y * w + x]
            for i in range(images_a):
                row[i] = distances[i * pitch + j]


@numba.njit(**EXACT)
def _to_distances(halves, distances, scale, farthest):
    """Turn maxima of -|q - p|^2 / 2 into distances; never -0.0, which sorts last by its bits."""
    for t in range(len(halves)):
        distances[t] = min(np.sqrt(F32(2) * abs(F32(halves[t]))) / scale, farthest)


@numba.njit(**OPTIONS)
def _whole(rows):
    """Round a number of rows up to whole micro tiles."""
    return (rows + U(len(ROWS)) - U(1)) // U(len(ROWS)) * U(len(ROWS))
