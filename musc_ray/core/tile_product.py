"""Multiply a tile: distances between the images of two shards, both directions from one product (MSM, MuSc sec. 3.3).

Row maxima over the patches of image b score the patches of image a, column maxima of the same product those of b. Where
an image has several places (its crops), a patch looks for its nearest in all places of another image, never in those of
its own.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor

from musc_ray.core.near_duplicates import NearDuplicates
from musc_ray.core.operands.base import FARTHEST, PreparedShard


@dataclass(frozen=True)
class TileChunk:
    """A part of a tile that one thread multiplies: images `rows` of shard a against images `columns` of shard b."""

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
        a: shard of A images, each of P places of L patches.
        b: shard of B images, prepared alike, with as many places. The same object twice is a diagonal tile: only half
            of it is multiplied.
        out_dtype: dtype of the result.
        pairs: (A, B) bool, which images score each other, symmetric for a diagonal tile; None means all. The distances
            of other pairs, and of an image to itself, are +inf.
        out: where to write the result; allocated if not given.

    Returns:
        rows (D, A, P * L, B): distance of every patch of a to its nearest patch in every image of b, per degree;
        columns (D, B, P * L, A): the same in the other direction. Both on the CPU. Where only some patches are kept, L
        is their number in a place; distances to an image that keeps none are FARTHEST.
    """
    rows, columns = _allocate(a, b, out_dtype) if out is None else out
    if pairs is None:
        pairs = torch.ones(a.whole_images, b.whole_images, dtype=torch.bool)
    if a is b:
        for image in range(a.whole_images):
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


def _allocate(a: PreparedShard, b: PreparedShard, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Allocate rows and columns of a tile; they are the same of a diagonal one."""
    degrees, places = len(a.degrees), a.places
    rows = torch.empty((degrees, a.whole_images, places * a.patches, b.whole_images), dtype=dtype)
    if a is b:
        return rows, rows
    return rows, torch.empty((degrees, b.whole_images, places * b.patches, a.whole_images), dtype=dtype)


def tile_chunks(a: PreparedShard, b: PreparedShard) -> Iterator[TileChunk]:
    """Cut a tile into chunks of whole images; a diagonal tile above its diagonal alone, or with whole blocks on it."""
    side = max(1, a.chunk_side // a.places)
    for i in range(0, a.whole_images, side):
        rows = slice(i, min(i + side, a.whole_images))
        if a is b and a.whole_blocks:
            yield TileChunk(a, b, rows, rows)
        elif a is b:
            yield from (TileChunk(a, b, slice(k, k + 1), slice(k + 1, rows.stop)) for k in range(i, rows.stop - 1))
        for j in range(rows.stop if a is b else 0, b.whole_images, side):
            yield TileChunk(a, b, rows, slice(j, min(j + side, b.whole_images)))


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
    """Compute the distances (D, a, P * L, b) and (D, b, P * L, a) of a chunk; +inf where unwanted (a, b)."""
    (a, b), places = (chunk.a, chunk.b), chunk.a.places
    if places == 1:
        return _nearest_distances(a, b, (chunk.rows, chunk.columns), unwanted, near)
    images = chunk.rows.stop - chunk.rows.start, chunk.columns.stop - chunk.columns.start
    in_b = torch.full((len(a.degrees), images[0], places, a.patches, images[1]), torch.inf, device=a.device)
    in_a = torch.full((len(a.degrees), images[1], places, b.patches, images[0]), torch.inf, device=a.device)
    for p in _place_parts(places, a.chunk_side):
        for q in _place_parts(places, a.chunk_side):
            of_part = None if unwanted is None else _of_places(unwanted, p, q)
            multiplied = _grids(chunk.rows, p, places), _grids(chunk.columns, q, places)
            rows, columns = _nearest_distances(a, b, multiplied, of_part, near)
            for all_places, part, found, others in ((in_b, p, rows, q), (in_a, q, columns, p)):
                sides = all_places.shape[1], len(part), all_places.shape[3], all_places.shape[4], len(others)
                own = all_places[:, :, part.start : part.stop]
                torch.minimum(own, found.reshape(-1, *sides).amin(dim=5), out=own)
    return in_b.flatten(2, 3), in_a.flatten(2, 3)


def _place_parts(places: int, side: int) -> list[range]:
    """Split the places of an image into parts of at most `side`, about equally large."""
    step = -(-places // -(-places // side))
    return [range(start, min(start + step, places)) for start in range(0, places, step)]


def _grids(images: slice, part: range, places: int) -> slice:
    """Return where some places of images lie in a shard: of one image, or all places of several."""
    return slice(images.start * places + part.start, (images.stop - 1) * places + part.stop)


def _of_places(pairs: Tensor, p: range, q: range) -> Tensor:
    """Repeat a flag of each pair of images (a, b) for all pairs of their places: (a * p, b * q)."""
    return pairs.repeat_interleave(len(p), dim=0).repeat_interleave(len(q), dim=1)


def _nearest_distances(
    a: PreparedShard, b: PreparedShard, grids: tuple[slice, slice], unwanted: Tensor | None, near: NearDuplicates
) -> tuple[Tensor, Tensor]:
    """Compute the distances (D, a, L, b) and (D, b, L, a) between single places; +inf where unwanted (a, b)."""
    nearest_in_b, nearest_in_a = a.nearest_distances(b, *grids)
    if unwanted is not None:
        nearest_in_b.masked_fill_(unwanted[:, None, :], torch.inf)
        nearest_in_a.masked_fill_(unwanted.T[:, None, :], torch.inf)
    limits = torch.maximum(a.near_duplicate_limits, b.near_duplicate_limits)
    if limits.any() or a.with_zeros.any() or b.with_zeros.any():  # else products of this form are exact
        closest = torch.minimum(nearest_in_b.amin(dim=(1, 2, 3)), nearest_in_a.amin(dim=(1, 2, 3)))
        suspicious = (closest < limits) | a.with_zeros | b.with_zeros
        for d in suspicious.nonzero().flatten().tolist():  # nearly always empty
            near.replace(d, grids, nearest_in_b[d], nearest_in_a[d])
    unwanted_in_a = None if unwanted is None else unwanted.T
    _set_farthest(nearest_in_b, b.empty_images(grids[1]), unwanted)
    _set_farthest(nearest_in_a, a.empty_images(grids[0]), unwanted_in_a)
    return nearest_in_b, nearest_in_a


def _set_farthest(distances: Tensor, empty: Tensor | None, unwanted: Tensor | None) -> None:
    """Set the distances (D, a, L, b) to images that keep no patch (b,) bool, but of unwanted pairs (a, b), in place."""
    if empty is None:
        return
    distances.masked_fill_(empty, FARTHEST)
    if unwanted is not None:
        distances.masked_fill_(unwanted[:, None, :], torch.inf)
