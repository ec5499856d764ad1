"""Nearest patches from products of int8 vectors on a CPU with AVX-512 VNNI: `operands/int8.py`'s inner loop.

With q and p the int8 vectors of patches m and n, |q|^2 and |p|^2 even, a product gives exact integers

    -|q - p|^2 / 2  =  q.p - |q|^2 / 2 - |p|^2 / 2,

whose maxima over rows and columns are all that is kept. The instruction multiplies unsigned by signed bytes, so rows
hold q + 128 and the constants of columns -128 times the sum of p.

Operands of an image:

- rows (R, 4 G) uint8: R patches, L filled up to whole micro tiles, C channels filled up to G groups of four;
- columns (V, G, 16, 4) int8: V vectors of 16 patches each, four channels of all of them side by side;
- constants (R,) and (16 V,) int32; those of what fills up are NOWHERE.

Limit: registers alone allow 2 instructions of 64 products a cycle, 8.33e9 a second on a core of a Zen 5 at 4.17 GHz.
Of 6 x 4, 8 x 3, 9 x 3, 12 x 2, 13 x 2, 5 x 5, 4 x 6 and 24 x 1 rows by vectors, rows or columns outermost, the first
with columns outermost was as good as any: 0.89, 0.91, 0.93, 0.95, 0.96 of the limit in products alone for L = 256 and
C = 64, 96, 128, 256, 384, 0.90 to 0.93 for L = 1369; with maxima, distances and all else 0.79 and 0.84 (C = 64, 96),
0.88 and 0.92 (L = 1369, C = 96, 256). Blocks of columns of 8 kB to 1 MB changed nothing. Vectors are dealt out in
strips about equally wide, at most 4: L = 324 has 21 of them, of which five 4 wide and one 1 wide would waste a seventh.
"""

import threading
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musc_ray.core.kernels import int8_places, int8_tiles
from musc_ray.core.kernels.simd import LANES
from musc_ray.core.quantised import NOWHERE

U = np.uintp
Array = npt.NDArray[Any]

AVAILABLE = bool(torch.cpu.get_capabilities().get("avx512_vnni"))
"""Whether this CPU has the instruction; without it the kernel must not be called."""

CHANNEL_GROUP, SHIFT = 4, 128
ROWS = len(int8_tiles.ROWS)

SPARE_ROWS = ROWS - 1
"""Rows to append to left operands of which a part is multiplied that does not start at a multiple of ROWS."""


def sizes(patches: int, channels: int, spare_rows: int = 0) -> tuple[int, int, int]:
    """Return R, V and G of L patches with C channels."""
    return _whole(patches + spare_rows, ROWS), -(-patches // LANES), -(-channels // CHANNEL_GROUP)


def pack_rows(vectors: Tensor, spare_rows: int = 0) -> Tensor:
    """Pack int8 vectors (A, L, C) as left operands (A, R, 4 G) uint8."""
    images, length, channels = vectors.shape
    rows, _, groups = sizes(length, channels, spare_rows)
    packed = torch.zeros(images, rows, CHANNEL_GROUP * groups, dtype=torch.uint8)
    packed[:, :length, :channels] = vectors.view(torch.uint8) ^ SHIFT
    return packed


def unpack_rows(packed: Tensor) -> Tensor:
    """Return the int8 vectors of left operands (..., C)."""
    return (packed ^ SHIFT).view(torch.int8)


def pack_columns(vectors: Tensor) -> Tensor:
    """Pack int8 vectors (A, L, C) as right operands (A, V, G, 16, 4) int8."""
    images, length, channels = vectors.shape
    _, places, groups = sizes(length, channels)
    filled = torch.zeros(images, places * LANES, groups * CHANNEL_GROUP, dtype=torch.int8)
    filled[:, :length, :channels] = vectors
    return filled.view(images, places, LANES, groups, CHANNEL_GROUP).transpose(2, 3).contiguous()


def row_constants(halves: Tensor, spare_rows: int = 0) -> Tensor:
    """Return the constants (A, R) int32 of left operands from half squared lengths (A, L) int32."""
    return _filled(-halves, _whole(halves.shape[1] + spare_rows, ROWS))


def column_constants(halves: Tensor, sums: Tensor) -> Tensor:
    """Return the constants (A, 16 V) int32 of right operands from half squared lengths and sums (A, L) int32."""
    return _filled(-halves - SHIFT * sums, _whole(halves.shape[1], LANES))


def nearest(
    left: tuple[Tensor, Tensor],
    right: tuple[Tensor, Tensor],
    images: tuple[slice, slice],
    scale: float,
    out: tuple[Tensor, Tensor],
) -> None:
    """Compute the distance of every patch to its nearest one in every image of the other side.

    Args:
        left: rows (A, R, 4 G) and their constants (A, R), of all images of a shard.
        right: columns (B, V, G, 16, 4) and their constants (B, 16 V).
        images: the images of A and of B to multiply.
        scale: of the int8 vectors: distances are divided by it.
        out: receives (a, L, b), the minimum distance over the patches of b, and (b, L, a), over those of a; float32.
    """
    a, b = (part.stop - part.start for part in images)
    rows, vectors, groups = left[0].shape[1], right[0].shape[1], right[0].shape[2]
    int8_tiles.nearest(
        _flat(left),
        _flat(right),
        (U(out[0].shape[1]), U(out[1].shape[1]), U(rows), U(vectors), U(groups)),
        (U(a), U(b), U(images[0].start), U(images[1].start)),
        _workspace(rows, vectors),
        _flat(out),
        np.float32(scale),
    )


def nearest_of_product(product: Tensor, left: Tensor, right: Tensor, scale: float, out: tuple[Tensor, Tensor]) -> None:
    """Compute what `nearest` does from a product; on any CPU.

    Args:
        product: (a * L, b * L) int32 products of int8 vectors.
        left: constants of its rows (a * L,) int32.
        right: constants of its columns (b * L,) int32.
        scale, out: as in `nearest`.
    """
    (images_a, patches_a, images_b), patches_b = out[0].shape, out[1].shape[1]
    int8_tiles.nearest_of_product(
        product.view(-1).numpy(),
        left.numpy(),
        right.numpy(),
        (U(patches_a), U(patches_b), U(images_a), U(images_b)),
        (*(_aligned(size) for size in (patches_a, patches_b, LANES)), np.empty(max(patches_a, patches_b), np.float32)),
        _flat(out),
        np.float32(scale),
    )


def nearest_places(
    left: tuple[Tensor, Tensor],
    right: tuple[Tensor, Tensor],
    places: tuple[tuple[int, int], int, tuple[Array, Array]],
    images: tuple[slice, slice],
    scale: float,
    farthest: float,
    out: tuple[Tensor, Tensor],
) -> None:
    """Compute distances to the nearest patches within a radius of the same place (Chebyshev, inside the grid).

    Operands are by place: `pack_rows(q, SPARE_ROWS)`, `row_constants(halves, SPARE_ROWS)`, `pack_columns(q)` and
    `column_constants(halves, sums)` of int8 vectors q (L, A, C), half squared lengths and sums (L, A). Excluded patches
    have the constant NOWHERE in right operands. 64 images on each side are a good number: their maxima fit caches.

    Args:
        left: rows (L, R, 4 G) of the places of all images of a shard, and their constants (L, R).
        right: columns (L, V, G, 16, 4) and their constants (L, 16 V).
        places: the grid (h, w), L = h * w; the radius in patches; the places of A and of B that are used, (L,) bool:
            distances of others are undefined, and nothing is compared with them.
        images: the images of A and of B to multiply; the second slice starts at a multiple of 16.
        scale: of the int8 vectors: distances are divided by it.
        farthest: replaces larger distances, as of patches all of whose candidates are excluded.
        out: receives (a, L, b), the minimum distance over the patches of b, and (b, L, a), over those of a; float32.

    Raises:
        ValueError: images of B from within a vector, or too few rows.
    """
    (i, j), (a, b) = images, (part.stop - part.start for part in images)
    grid, radius, used = places
    rows, vectors, groups = left[0].shape[1], right[0].shape[1], right[0].shape[2]
    if j.start % LANES or i.start + _whole(a, ROWS) > rows:
        raise ValueError(f"Images {i} by {j} must end within {rows} rows and start at a multiple of {LANES} columns.")
    area = _whole(a, ROWS) * _whole(b, LANES)
    int8_places.nearest_places(
        _flat(left),
        _flat(right),
        (U(rows), U(vectors), U(groups)),
        (U(grid[0]), U(grid[1]), U(radius)),
        used,
        (U(a), U(b), U(i.start), U(j.start // LANES)),
        (_aligned(area), _aligned(area * (2 * radius + 1) * grid[1]), _aligned(area).view(np.float32)),
        (out[0].numpy(), out[1].numpy()),
        np.float32(scale),
        np.float32(farthest),
    )


def _flat(pair: tuple[Tensor, Tensor]) -> tuple[Array, Array]:
    return pair[0].view(-1).numpy(), pair[1].view(-1).numpy()


def _whole(size: int, unit: int) -> int:
    """Round a size up to whole units."""
    return -(-size // unit) * unit


def _filled(constants: Tensor, size: int) -> Tensor:
    images, length = constants.shape
    filled = torch.full((images, size), NOWHERE, dtype=torch.int32)
    filled[:, :length] = constants
    return filled


_workspaces = threading.local()


def _workspace(rows: int, vectors: int) -> tuple[Array, Array, Array, Array]:
    """Return this thread's buffers for maxima and distances of a pair of images; reused, as fresh pages are slow."""
    known: dict[tuple[int, int], tuple[Array, ...]] = _workspaces.__dict__.setdefault("arrays", {})
    if (rows, vectors) not in known:
        tops, columns = _whole(rows, LANES), vectors * LANES
        sizes = (tops * LANES, np.int32), (tops, np.int32), (columns, np.int32), (max(tops, columns), np.float32)
        known[rows, vectors] = tuple(_aligned(size).view(dtype) for size, dtype in sizes)
    lanes, tops_, columns_, distances = known[rows, vectors]
    return lanes, tops_, columns_, distances


def _aligned(size: int) -> Array:
    """Allocate numbers of four bytes from the start of a cache line: vectors across two lines cost double."""
    room = np.empty(size + LANES, np.int32)
    return room[(-room.ctypes.data % 64) // 4 :][:size]
