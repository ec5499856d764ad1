"""The tile kernel's inner part on a CPU: from one product of plain patches to the nearest patches of every degree.

A degree-r patch is the sum of its r x r neighbours, so the products of all pairs of degree-r patches are the r x r box
filter, over both grids, of the products G of the plain patches: one matrix product serves every degree. With t the
shift that keeps G small in low precision (see `gram_shard`), n the length of a degree-r patch and T the box sum of t,

    -|a - b|^2 / 2  =  box(G)[a, b] / (n_a n_b)  +  (T_a / n_a) (T_b / n_b)  -  1

for the unit vectors of patches a and b. The box filter is four sums of r neighbours, each along one side of one grid:
down and along grid a, across and down grid b. Each is a window that slides in registers (see `simd`), so that a value
is read once for it. A grid row of b is a line of whole vectors, its last one filled up with zeros.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from musc_ray.core import gram_kernel
from musc_ray.core.simd import LANES

U, F32 = np.uintp, np.float32
Floats = npt.NDArray[np.float32]

SPARE = LANES - 1
"""Numbers behind a product that are read, but do not count."""

NOWHERE = F32(-8)
"""T / n of a lane that is no patch: so low that it is never the nearest, as -d^2 / 2 is at least -2."""


def lines(inverse: Floats, ratio: Floats, grid: tuple[int, int]) -> tuple[Floats, Floats]:
    """1 / n and T / n of images' patches, each (A, L), in whole vectors a grid row: (A, h, a multiple of LANES).

    Both are 0 for a zero vector, T / n also where there is no shift. Lanes that are no patches are never the nearest.
    """
    h, w = grid
    filled = []
    for part, filling in ((inverse, 0), (ratio, NOWHERE)):
        line = np.full((len(part), h, -(-w // LANES) * LANES), filling, np.float32)
        line[:, :, :w] = part.reshape(-1, h, w)
        filled.append(line)
    return filled[0], filled[1]


def nearest(
    product: npt.NDArray[Any],
    grid: tuple[int, int],
    degree: int,
    left: tuple[Floats, Floats],
    right: tuple[Floats, Floats],
) -> tuple[Floats, Floats]:
    """Distance of every patch to its nearest one in every image of the other side of a block, for one degree.

    Args:
        product: (A * L or more, B * L) products G of plain patches, float32, or bfloat16 as its uint16 bits;
            C-contiguous, with at least SPARE finite numbers behind the last row that counts.
        grid: (h, w), L = h * w.
        degree: odd r, up to LARGEST_DEGREE.
        left: 1 / n and T / n of the A images' patches, each (A, L); where T / n is 0, something above 0.
        right: the same of the B images, T / n as it is, as `lines`.

    Returns:
        (A, L, B) the least distance over the patches of b, and (B, L, A) that over the patches of a, float32.
    """
    h, w = grid
    images_a, images_b, pitch = len(left[0]), len(right[0]), right[0].shape[2]
    rows = np.empty((images_a, h * w, images_b), np.float32)
    columns = np.full((images_b, images_a, h, pitch), -np.inf, np.float32)
    gram_kernel.nearest(
        product.reshape(-1),
        U(images_b * h * w),
        (U(h), U(w), U(pitch)),
        (left[0].reshape(-1), left[1].reshape(-1)),
        (right[0].reshape(-1), right[1].reshape(-1)),
        (rows.reshape(-1), columns.reshape(-1)),
        (np.arange(LANES) < w - (pitch - LANES)).astype(np.float32),
        _workspace(h, w, pitch, degree),
        (U(images_a), U(images_b)),
        tuple(U(tap) for tap in range(degree)),
    )
    return rows, columns[..., :w].reshape(images_b, images_a, h * w).transpose(0, 2, 1)


def box_lengths(vectors: Floats, grid: tuple[int, int], degree: int) -> Floats:
    """Lengths (A, L) of the sums of r x r neighbours of vectors (A, L, C) float32, zeros around the grid."""
    images, length, channels = vectors.shape
    if channels % LANES:
        vectors = np.pad(vectors, ((0, 0), (0, 0), (0, -channels % LANES)))
    lengths = np.empty(images * length, np.float32)
    taps = tuple(U(tap) for tap in range(degree))
    gram_kernel.box_lengths(vectors.reshape(-1), U(images), U(grid[0]), U(grid[1]), U(vectors.shape[2]), lengths, taps)
    return lengths.reshape(images, length)


_workspaces = threading.local()


def _workspace(h: int, w: int, pitch: int, degree: int) -> tuple[Floats, Floats]:
    """What the sums are kept in: zeros, of which always the same are written; a thread's own, as fresh pages cost."""
    known: dict[tuple[int, int, int], tuple[Floats, Floats]] = _workspaces.__dict__.setdefault("arrays", {})
    key = (h, w, degree)
    if key not in known:
        row = (h + degree - 1) * pitch + LANES
        known[key] = np.zeros(h * (w + 1) * pitch, np.float32), np.zeros(h * w * row, np.float32)
    return known[key]
