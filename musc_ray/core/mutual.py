"""The tile kernel of mutual scoring (MSM, MuSc section 3.3): one pass over two shards serves both directions.

Row maxima over the patches of image b score the patches of image a, column maxima of the same product those of b.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from musc_ray.core.operands.base import PreparedShard

BLOCK_ENTRIES = {"cpu": 2**21, "cuda": 2**29}
"""Entries of one product held at a time: small enough for the last-level cache, large enough for full GEMM speed."""


def tile_minima(
    a: PreparedShard,
    b: PreparedShard,
    out_dtype: torch.dtype = torch.float32,
    pairs: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Nearest-patch distances between images of two shards, both directions from one product (MuSc, eq. 3).

    Args:
        a: shard of A images; b: shard of B images, prepared alike. The same object twice is a diagonal tile: only half
            of it is multiplied.
        out_dtype: dtype of the result.
        pairs: (A, B) bool, which images score each other, symmetric for a diagonal tile; None means all. The distances
            of others, and of an image to itself, are +inf.
        out: where to write the result; made when not given.

    Returns:
        rows (D, A, L, B): distance of every patch of a to its nearest patch in every image of b, per degree;
        columns (D, B, L, A): the same the other way round. Both on the CPU.
    """
    if out is None:
        rows = torch.empty((len(a.degrees), a.images, a.patches, b.images), dtype=out_dtype)
        columns = rows if a is b else torch.empty((len(a.degrees), b.images, a.patches, a.images), dtype=out_dtype)
    else:
        rows, columns = out
    if pairs is None:
        pairs = torch.ones(a.images, b.images, dtype=torch.bool)
    if a is b:
        for image in range(a.images):
            rows[:, image, :, image] = torch.inf

    def fill(block: tuple[slice, slice]) -> None:
        i, j = block
        unwanted = ~pairs[i, j]
        if unwanted.all():
            rows[:, i, :, j] = torch.inf
            columns[:, j, :, i] = torch.inf
            return
        mask = unwanted.to(a.device) if unwanted.any() else None
        rows[:, i, :, j], columns[:, j, :, i] = _block_minima(a, b, i, j, mask)

    _for_each(_blocks(a, b), fill, torch.get_num_threads() if a.device.type == "cpu" else 1)
    return rows, columns


def _for_each(blocks: Iterable[tuple[slice, slice]], fill: Callable[[tuple[slice, slice]], None], threads: int) -> None:
    """Fill blocks, which do not overlap, on several threads that each multiply alone.

    Threads inside a product would spin between products and take the cores from the filters.
    """
    if threads == 1:
        for block in blocks:
            fill(block)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(fill, blocks))
    torch.set_num_threads(threads)  # what threads made later start with


def _block_minima(
    a: PreparedShard, b: PreparedShard, i: slice, j: slice, unwanted: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The distances (D, a, L, b) and (D, b, L, a) between images i of a and j of b; +inf where unwanted."""
    nearest_in_b, nearest_in_a = a.nearest(b, i, j)
    if unwanted is not None:
        nearest_in_b.masked_fill_(unwanted[:, None, :], torch.inf)
        nearest_in_a.masked_fill_(unwanted.T[:, None, :], torch.inf)
    limits = torch.maximum(a.near_duplicate, b.near_duplicate)
    closest = torch.minimum(nearest_in_b.amin(dim=(1, 2, 3)), nearest_in_a.amin(dim=(1, 2, 3)))
    suspicious = (closest < limits) | a.with_zeros | b.with_zeros
    for d in suspicious.nonzero().flatten().tolist():  # nearly always none
        _recompute_near_duplicates(a, b, d, i, j, nearest_in_b[d], nearest_in_a[d])
    return nearest_in_b, nearest_in_a


def _blocks(a: PreparedShard, b: PreparedShard) -> Iterator[tuple[slice, slice]]:
    """Cut a tile into blocks of images; of a diagonal tile only what lies above the diagonal."""
    side = max(1, int((BLOCK_ENTRIES[a.device.type] / a.patches**2) ** 0.5))
    for i in range(0, a.images, side):
        rows = slice(i, min(i + side, a.images))
        if a is b:
            yield from ((slice(k, k + 1), slice(k + 1, rows.stop)) for k in range(i, rows.stop - 1))
        for j in range(rows.stop if a is b else 0, b.images, side):
            yield rows, slice(j, min(j + side, b.images))


def _recompute_near_duplicates(
    a: PreparedShard, b: PreparedShard, d: int, i: slice, j: slice, nearest_in_b: Tensor, nearest_in_a: Tensor
) -> None:
    """Replace, in place, the distances of near-duplicate patches, and all of images with zero vectors, by differences.

    |x - y| from a product loses sqrt(1e-7) at x = y; duplicates are common in archives and must come out as 0.

    Args:
        nearest_in_b: (a, L, b) distances of images i of a; nearest_in_a: (b, L, a) distances of images j of b.
    """
    limit = torch.maximum(a.near_duplicate[d], b.near_duplicate[d])
    special = a.zero_vectors[d, i][:, None, None] | b.zero_vectors[d, j][None, None, :]
    near_b = ((nearest_in_b < limit) | special) & nearest_in_b.isfinite()
    near_a = ((nearest_in_a < limit) | special.permute(2, 1, 0)) & nearest_in_a.isfinite()
    for p, q in (near_b.any(dim=1) | near_a.any(dim=1).T).nonzero().tolist():
        x, y = a.unit_vectors(d, i.start + p), b.unit_vectors(d, j.start + q)
        of_x, of_y = near_b[p, :, q], near_a[q, :, p]
        nearest_in_b[p, of_x, q] = _differences(x[of_x], y)
        nearest_in_a[q, of_y, p] = _differences(y[of_y], x)


def _differences(x: Tensor, y: Tensor) -> Tensor:
    """Distance of each x to its nearest y, without the cancellation of a product."""
    if len(x) == 0:
        return x.new_empty(0)
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").amin(dim=1)
