"""Multiply a tile: distances between the images of two shards, both directions from one product (MSM, MuSc sec. 3.3).

Row maxima over the patches of image b score the patches of image a, column maxima of the same product those of b.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from musc_ray.core.near_duplicates import NearDuplicates
from musc_ray.core.operands.base import PreparedShard


@dataclass(frozen=True)
class TileChunk:
    """A part of a tile that is multiplied at a time: images `rows` of shard a against images `columns` of shard b."""

    a: PreparedShard
    b: PreparedShard
    rows: slice
    columns: slice


def multiply_tile(
    a: PreparedShard,
    b: PreparedShard,
    out_dtype: torch.dtype = torch.float32,
    pairs: Tensor | None = None,
    out: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Compute nearest-patch distances between images of two shards, both directions from one product (MuSc, eq. 3).

    Args:
        a: shard of A images.
        b: shard of B images, prepared alike. The same object twice is a diagonal tile: only half of it is multiplied.
        out_dtype: dtype of the result.
        pairs: (A, B) bool, which images score each other, symmetric for a diagonal tile; None means all. The distances
            of other pairs, and of an image to itself, are +inf.
        out: where to write the result; allocated if not given.

    Returns:
        rows (D, A, L, B): distance of every patch of a to its nearest patch in every image of b, per degree;
        columns (D, B, L, A): the same in the other direction. Both on the CPU.
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

    near = NearDuplicates(a, b)

    def fill(chunk: TileChunk) -> None:
        i, j = chunk.rows, chunk.columns
        unwanted = ~pairs[i, j]
        if unwanted.all():
            rows[:, i, :, j] = torch.inf
            columns[:, j, :, i] = torch.inf
            return
        if a is b and i == j:
            unwanted = unwanted | torch.eye(len(unwanted), dtype=torch.bool)
        mask = unwanted.to(a.device) if unwanted.any() else None
        rows[:, i, :, j], columns[:, j, :, i] = _multiply_chunk(chunk, mask, near)

    _for_each(tile_chunks(a, b), fill, torch.get_num_threads() if a.device.type == "cpu" else 1)
    return rows, columns


def tile_chunks(a: PreparedShard, b: PreparedShard) -> Iterator[TileChunk]:
    """Cut a tile into chunks; a diagonal tile above its diagonal alone, or with whole blocks on it."""
    side = a.chunk_side
    for i in range(0, a.images, side):
        rows = slice(i, min(i + side, a.images))
        if a is b and a.whole_blocks:
            yield TileChunk(a, b, rows, rows)
        elif a is b:
            yield from (TileChunk(a, b, slice(k, k + 1), slice(k + 1, rows.stop)) for k in range(i, rows.stop - 1))
        for j in range(rows.stop if a is b else 0, b.images, side):
            yield TileChunk(a, b, rows, slice(j, min(j + side, b.images)))


def _for_each(chunks: Iterable[TileChunk], fill: Callable[[TileChunk], None], threads: int) -> None:
    """Fill chunks, which do not overlap, on several threads that each multiply alone.

    Threads inside a product would spin between products and take the cores from the filters.
    """
    if threads == 1:
        for chunk in chunks:
            fill(chunk)
        return
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        list(pool.map(fill, chunks))
    torch.set_num_threads(threads)  # the number that threads created later start with


def _multiply_chunk(chunk: TileChunk, unwanted: Tensor | None, near: NearDuplicates) -> tuple[Tensor, Tensor]:
    """Compute the distances (D, a, L, b) and (D, b, L, a) of a chunk; +inf where unwanted (a, b)."""
    a, b = chunk.a, chunk.b
    nearest_in_b, nearest_in_a = a.nearest_distances(b, chunk.rows, chunk.columns)
    if unwanted is not None:
        nearest_in_b.masked_fill_(unwanted[:, None, :], torch.inf)
        nearest_in_a.masked_fill_(unwanted.T[:, None, :], torch.inf)
    limits = torch.maximum(a.near_duplicate_limits, b.near_duplicate_limits)
    if not (limits.any() or a.with_zeros.any() or b.with_zeros.any()):  # products of this form are exact
        return nearest_in_b, nearest_in_a
    closest = torch.minimum(nearest_in_b.amin(dim=(1, 2, 3)), nearest_in_a.amin(dim=(1, 2, 3)))
    suspicious = (closest < limits) | a.with_zeros | b.with_zeros
    for d in suspicious.nonzero().flatten().tolist():  # nearly always empty
        near.replace(d, (chunk.rows, chunk.columns), nearest_in_b[d], nearest_in_a[d])
    return nearest_in_b, nearest_in_a
