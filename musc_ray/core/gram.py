"""The tile kernel's inner part on a CPU: from one product of plain patches to the nearest patches of every degree.

A degree-r patch is the sum of its r x r neighbours, so the products of all pairs of degree-r patches are the r x r box
filter, over both grids, of the products G of the plain patches: one matrix product serves every degree. With t the
shift that keeps G small in low precision (see `mutual`), n the length of a degree-r patch and T the box sum of t,

    -|a - b|^2 / 2  =  box(G)[a, b] / (n_a n_b)  +  (T_a / n_a) (T_b / n_b)  -  1

for the unit vectors of patches a and b. The box filter is four passes of r taps along contiguous rows, which become
vector instructions. Indices are unsigned throughout: numba guards signed ones against being negative and then cannot
vectorise (measured: 4 times slower).
"""

from typing import Any

import numba
import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import types
from numba.extending import intrinsic


def _can_cache() -> bool:
    """Whether numba finds a writable place for compiled code; without one every process compiles anew, for seconds."""
    try:
        numba.njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


OPTIONS: dict[str, Any] = {
    "fastmath": {"nnan", "ninf", "nsz", "reassoc", "contract", "arcp"},
    "nogil": True,
    "cache": _can_cache(),
    "error_model": "numpy",
}
CHUNK = 256
"""Columns filtered at a time over the rows' grid, so that they stay in the level-2 cache."""

U, F32 = np.uintp, np.float32
Floats = npt.NDArray[np.float32]


def nearest(
    product: npt.NDArray[Any],
    grid: tuple[int, int],
    degree: int,
    left: tuple[Floats, Floats],
    right: tuple[Floats, Floats],
) -> tuple[Floats, Floats]:
    """Row and column maxima of -|a - b|^2 / 2 over all patches of all image pairs of a block, for one degree.

    Args:
        product: (A * L, B * L) products G of plain patches, float32, or bfloat16 as its uint16 bits; C-contiguous.
        grid: (h, w), L = h * w.
        degree: odd r.
        left: 1 / n and T / n of the A images' patches, each (A, L); both 0 for a zero vector.
        right: the same of the B images.

    Returns:
        (A, L, B) the maximum over the patches of b, and (B, L, A) the maximum over the patches of a, float32.
    """
    h, w = grid
    images_a, images_b = len(left[0]), len(right[0])
    rows = np.empty((images_a, h * w, images_b), np.float32)
    columns = np.empty((images_b, h * w, images_a), np.float32)
    bits = product.dtype == np.uint16
    arguments = (product.reshape(-1), bits, U(h), U(w), *(part.reshape(-1) for part in (*left, *right)))
    if degree == 1:
        _nearest_plain(*arguments, rows, columns)
        return rows, columns
    reach = degree // 2
    shifted = np.arange(w)[:, None] + np.arange(-reach, reach + 1)
    inside = ((shifted >= 0) & (shifted < w)).astype(np.float32)  # (w, r): does the tap stay in its grid row?
    masks = np.ascontiguousarray(np.tile(inside, (h, 1)).T)
    taps = tuple(U(tap) for tap in range(degree))
    _nearest_filtered(*arguments, rows, columns, taps, inside.reshape(-1), masks.reshape(-1))
    return rows, columns


@intrinsic
def _larger(_context: Any, a: Any, b: Any) -> Any:
    """max(a, b) as LLVM's maxnum without NaN: unlike Python's max, a reduction with it is vectorised."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        f32 = ir.FloatType()
        function = builder.module.declare_intrinsic("llvm.maxnum", [f32], ir.FunctionType(f32, [f32, f32]))
        return builder.call(function, arguments, fastmath=("nnan", "ninf", "nsz"))

    return types.float32(types.float32, types.float32), generate


@numba.njit(**OPTIONS)
def _copy_row(source, start, bits, target, offset, count):  # type: ignore[no-untyped-def]
    """A row of products as float32; bfloat16 bits are the upper half of float32's."""
    if bits:
        for t in range(count):
            target[offset + t] = np.uint32(np.uint32(source[start + t]) << np.uint32(16)).view(np.float32)
    else:
        for t in range(count):
            target[offset + t] = source[start + t]


@numba.njit(**OPTIONS)
def _maxima(values, start, step, taps, inverse, ratio, first, inverse_m, ratio_m, best, offset, count, largest):  # type: ignore[no-untyped-def]
    """Sum the taps of one row, scale to -d^2 / 2, fold into the column maxima `best`; returns the row maximum."""
    for t in range(count):
        total = F32(0)
        for tap in numba.literal_unroll(taps):
            total += values[start + t + tap * step]
        value = total * inverse[first + t] * inverse_m + (ratio_m * ratio[first + t] - F32(1))
        largest = _larger(largest, value)  # type: ignore[call-arg]
        best[offset + t] = _larger(best[offset + t], value)
    return largest


@numba.njit(**OPTIONS)
def _nearest_plain(product, bits, h, w, inverse_a, ratio_a, inverse_b, ratio_b, rows, columns):  # type: ignore[no-untyped-def]
    """`nearest` for degree 1: no filter."""
    length = h * w
    images_a, images_b = rows.shape[0], rows.shape[2]
    taps = (U(0),)
    row, best = np.empty(length, F32), np.empty(length, F32)
    for i in range(images_a):
        for j in range(images_b):
            best[:] = -np.inf
            for m in range(length):
                a = U(i) * length + m
                _copy_row(product, (a * U(images_b) + U(j)) * length, bits, row, U(0), length)
                rows[i, m, j] = _maxima(
                    row,
                    U(0),
                    U(0),
                    taps,
                    inverse_b,
                    ratio_b,
                    U(j) * length,
                    inverse_a[a],
                    ratio_a[a],
                    best,
                    U(0),
                    length,
                    F32(-np.inf),
                )
            columns[j, :, i] = best


@numba.njit(**OPTIONS)
def _nearest_filtered(product, bits, h, w, inverse_a, ratio_a, inverse_b, ratio_b, rows, columns, taps, inside, masks):  # type: ignore[no-untyped-def]
    """`nearest` for r > 1: box sums over image b's grid row by row, then over image a's grid in chunks of columns."""
    length, r = h * w, U(len(taps))
    reach, chunk = r // U(2), min(U(CHUNK), h * w)
    images_a, images_b = rows.shape[0], rows.shape[2]
    row = np.zeros(length + U(2) * reach, F32)  # one row of G, zeros at both ends
    across = np.zeros(length + U(2) * reach * w, F32)  # its sums along x of grid b, zero grid rows around
    filtered = np.zeros((length + U(2) * reach) * length, F32)  # all rows, summed over grid b
    half = np.zeros((length + U(2) * reach * w) * chunk, F32)  # a chunk of them, summed along x of grid a
    best, largest = np.empty(length, F32), np.empty(length, F32)
    for i in range(images_a):
        for j in range(images_b):
            for m in range(length):
                a = U(i) * length + m
                _copy_row(product, (a * U(images_b) + U(j)) * length, bits, row, reach, length)
                _masked_sums(row, masks, taps, across, reach * w, length)
                _sums(across, w, taps, filtered, (reach + m) * length, length)
            best[:] = -np.inf
            largest[:] = -np.inf
            first = U(0)
            while first < length:
                count = min(chunk, length - first)
                for m in range(length):
                    _row_sums(
                        filtered,
                        m * length + first,
                        length,
                        inside,
                        (m % w) * r,
                        taps,
                        half,
                        (reach * w + m) * chunk,
                        count,
                    )
                for m in range(length):
                    a = U(i) * length + m
                    largest[m] = _maxima(
                        half,
                        m * chunk,
                        w * chunk,
                        taps,
                        inverse_b,
                        ratio_b,
                        U(j) * length + first,
                        inverse_a[a],
                        ratio_a[a],
                        best,
                        first,
                        count,
                        largest[m],
                    )
                first += count
            rows[i, :, j] = largest
            columns[j, :, i] = best


@numba.njit(**OPTIONS)
def _masked_sums(source, masks, taps, target, offset, count):  # type: ignore[no-untyped-def]
    """Sums along x of grid b: taps that would leave their grid row are masked."""
    for t in range(count):
        total = F32(0)
        for tap in numba.literal_unroll(taps):
            total += source[t + tap] * masks[tap * count + t]
        target[offset + t] = total


@numba.njit(**OPTIONS)
def _sums(source, step, taps, target, offset, count):  # type: ignore[no-untyped-def]
    """Sums along y of grid b."""
    for t in range(count):
        total = F32(0)
        for tap in numba.literal_unroll(taps):
            total += source[t + tap * step]
        target[offset + t] = total


@numba.njit(**OPTIONS)
def _row_sums(source, start, step, inside, x, taps, target, offset, count):  # type: ignore[no-untyped-def]
    """Sums along x of grid a: whole rows are added, or masked when they lie in another grid row."""
    for t in range(count):
        total = F32(0)
        for tap in numba.literal_unroll(taps):
            total += source[start + t + tap * step] * inside[x + tap]
        target[offset + t] = total
