"""Nearest patches of every degree from one product of plain patches, on a CPU: the inner part of `tile_product`.

A degree-r patch is the sum of its r x r neighbours, so the products of all pairs of degree-r patches are the r x r box
filter, over both grids, of the products G of the plain patches: one matrix product serves every degree. With t the
shift that keeps G small in low precision (`operands/cpu.py`), n the length of a degree-r patch and T the box sum of t,

    -|a - b|^2 / 2  =  box(G)[a, b] / (n_a n_b)  +  (T_a / n_a) (T_b / n_b)  -  1

for the unit vectors of patches a and b.

The box filter is four sums of r neighbours, each along one side of one grid. A row of G, all patches of an image b for
one of a, is summed over grid b while it is in registers (see `simd`). The sums of r rows of grid a are kept in the
core's own cache, where their sum is taken. A grid row of b is a line of whole vectors, the last filled up with zeros.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from musc_ray.core.kernels import box_filter
from musc_ray.core.kernels.simd import LANES

U, F32 = np.uintp, np.float32
Floats = npt.NDArray[np.float32]

SPARE = LANES - 1
"""Values after a product that are read but not used, if a grid's rows are not whole vectors."""

NOWHERE = F32(-8)
"""T / n of a padding lane: so low that it is never the nearest, as -d^2 / 2 is at least -2."""


def spare_rows(grid: tuple[int, int], columns: int) -> int:
    """Compute the rows to append to a product so that SPARE values follow those that count."""
    return 0 if grid[1] % LANES == 0 else -(-SPARE // columns)


def lines(inverse: Floats, ratio: Floats, grid: tuple[int, int]) -> tuple[Floats, Floats]:
    """Pad 1 / n and T / n of patches, each (D, A, L), to whole vectors per grid row: (D, A, h, a multiple of LANES).

    Both are 0 for a zero vector, T / n also without a shift. Padding lanes are never the nearest.
    """
    h, w = grid
    filled = []
    for part, filling in ((inverse, 0), (ratio, NOWHERE)):
        line = np.full((*part.shape[:2], h, -(-w // LANES) * LANES), filling, np.float32)
        line[..., :w] = part.reshape(*part.shape[:2], h, w)
        filled.append(line)
    return filled[0], filled[1]


def nearest(
    product: npt.NDArray[Any],
    grid: tuple[int, int],
    degrees: tuple[int, ...],
    left: tuple[Floats, Floats],
    right: tuple[Floats, Floats],
    images: tuple[slice, slice],
) -> tuple[Floats, Floats]:
    """Compute the distance of every patch to its nearest one in every image of the other side, for all degrees.

    Args:
        product: (a * L + spare_rows, b * L) products G of plain patches, float32, or bfloat16 as its uint16 bits;
            C-contiguous and finite.
        grid: (h, w), L = h * w.
        degrees: odd r, up to MAX_DEGREE.
        left: 1 / n and T / n of the patches of shard a, each (D, A, L); a positive number instead of T / n = 0, NOWHERE
            of hidden patches, which are nobody's nearest and whose own distances are undefined.
        right: the same of shard b, T / n unchanged, padded by `lines`; 1 / n of hidden patches is 0.
        images: the images of A and of B that the product holds.

    Returns:
        (D, a, L, b) minimum distance over the patches of b, and (D, b, L, a) over the patches of a, float32.
    """
    h, w = grid
    a, b = (part.stop - part.start for part in images)
    pitch = right[0].shape[3]
    rows = np.empty((len(degrees), a, h * w, b), np.float32)
    columns = np.full((len(degrees), b, a, h, pitch), -np.inf, np.float32)
    strips = [_strip(h, w, pitch, degree) for degree in degrees]
    kept = max(degree * box_filter.plane(strip, w, pitch) for degree, strip in zip(degrees, strips, strict=True))
    box_filter.nearest(
        product.reshape(-1),
        U(b * h * w),
        (U(h), U(w), U(pitch)),
        (left[0].reshape(-1), left[1].reshape(-1)),
        (right[0].reshape(-1), right[1].reshape(-1)),
        (rows.reshape(-1), columns.reshape(-1)),
        (np.arange(LANES) < w - (pitch - LANES)).astype(np.float32),
        tuple(map(U, strips)),
        _workspace(kept, w),
        ((U(a), U(b)), (U(images[0].start), U(images[1].start)), (U(left[0].shape[1]), U(right[0].shape[1]))),
        tuple(tuple(map(U, range(degree))) for degree in degrees),
    )
    return rows, columns[..., :w].reshape(len(degrees), b, a, h * w).transpose(0, 1, 3, 2)


def box_lengths(vectors: Floats, grid: tuple[int, int], degree: int) -> Floats:
    """Compute lengths (A, L) of sums of r x r neighbours of vectors (A, L, C) float32, zeros around the grid."""
    images, length, channels = vectors.shape
    if channels % LANES:
        vectors = np.pad(vectors, ((0, 0), (0, 0), (0, -channels % LANES)))
    lengths = np.empty(images * length, np.float32)
    taps = tuple(U(tap) for tap in range(degree))
    (h, w), channels = grid, U(vectors.shape[2])
    room = np.zeros(h * (w + 1) * LANES, np.float32), np.empty(h * w * LANES, np.float32)
    box_filter.box_lengths(vectors.reshape(-1), U(images), U(h), U(w), channels, lengths, room, taps)
    return lengths.reshape(images, length)


KEPT_BYTES = 2**20
"""Size of the box sums kept of a strip of grid b: a core's own cache. Larger strips repeat fewer sums."""

_workspaces = threading.local()


def _strip(h: int, w: int, pitch: int, degree: int) -> int:
    """Compute the lines of grid b processed at a time."""
    strips = -(-4 * degree * w * h * pitch // KEPT_BYTES)
    return -(-h // strips)


def _workspace(size: int, w: int) -> tuple[Floats, Floats]:
    """Return this thread's buffers for box sums and for the maxima of a row; reused, as fresh pages are slow."""
    known: dict[tuple[int, int], tuple[Floats, Floats]] = _workspaces.__dict__.setdefault("arrays", {})
    if (size, w) not in known:
        known[size, w] = _aligned(size), _aligned(w * LANES)
    return known[size, w]


def _aligned(size: int) -> Floats:
    """Allocate float32 from the start of a cache line: vectors across two lines cost double."""
    room = np.empty(size + LANES, np.float32)
    return room[(-room.ctypes.data % 64) // 4 :][:size]
