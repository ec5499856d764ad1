"""Patches near their own place on a GPU (Triton): products of images by place and offset, minima on the chip.

A program takes a place of the grid, ROWS images of a and COLUMNS of b. It multiplies the patches of a there with those
of b at every offset within the radius, keeps the maxima over offsets in registers, and writes distances once. Up to
MAX_RESIDENT_BYTES a patch, those of a stay on the chip over all offsets, without a loop over channels.

Both directions are the same kernel, with a and b swapped: every product is computed twice. One product for both would
need an atomic maximum in memory for each: at 32 bytes a clock and L2 slice (80 and 96 of them) at most 0.9 (A100) and
1.3 (H100) 10^12 a second, and results cleared before, read and written again after, to become distances. Doubled
products reach half of what the table says: 1.6 and 3.4 at C = 96, and 0.6 and 1.2 at C = 256 in int8, where atomics
could be as fast or faster on paper. Compressed features have few channels, so this doubles products.

Costs of a product of two patches, counted on paper and in the machine code, not measured. R is the padded length of a
patch in bytes, C in channels, K the number of offsets (25 at radius 2):

- Loads from L2: R / ROWS bytes of b (asynchronous copies) and R / COLUMNS / K of a. Device memory: programs that run at
  a time are of neighbouring places, so each patch is read about once: R (A + B) L of 2 K A B L products.
- Stores: 4 / K bytes of distances, float32.
- Tensor cores: 2 C operations. Others: one subtraction (multipliers' pipe) and one maximum, 96 instructions of the
  integer pipe for 64 products, with the loop's own.

Limits in 10^12 products a second, both directions counted, radius 2; rates as in `fused.py`, device memory 1.6 and 3.35
TB/s:

| | tensor cores | L2 | maxima | stores | binds |
| --- | --- | --- | --- | --- | --- |
| int8, C = 96, A100 | 3.2 | 5.6 | 6.5 | 10 | tensor cores |
| int8, C = 96, H100, H200 | 10 | 6.8 | 10 | 21 | L2 |
| int8, C = 256, A100 | 1.2 | 2.1 | 6.5 | 10 | tensor cores |
| int8, C = 256, H100, H200 | 3.9 | 2.5 | 10 | 21 | L2 |
| float16, C = 256, A100 | 0.61 | 1.0 | 6.5 | 10 | tensor cores |
| float16, C = 256, H100, H200 | 1.9 | 1.3 | 10 | 21 | L2 |

A pair of images takes 2 K L products less those beyond the border, 64,000 at L = 1369: at C = 256 in int8 19 (A100) and
40 (H100) million pairs of images a second and degree, against 0.6 and 1.3 million with matches anywhere, if both shards
have a multiple of 128 images.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from musc_ray.core.kernels.fused import (
    MAX_RESIDENT_BYTES,
    MAX_THREE_STAGES_BYTES,
    Blocks,
    load,
    multiply,
    split_depth,
)

REGISTERS = 2**16
"""Of a multiprocessor."""

MAX_OUT_ROWS = 2**24
"""Distances of an image of a: offsets within a tile of 128 images are of 31 bits."""


def blocks_for(dtype: torch.dtype, channels: int) -> Blocks:
    """Choose block sizes: resident operands for short patches, else steps of 64 bytes of channels; float32 in steps."""
    if dtype == torch.float32:
        return Blocks(128, 64, 16, 0, False, 0, 8, 3)
    depth, rest = split_depth(channels)
    size = (depth + rest) * dtype.itemsize
    if size > MAX_RESIDENT_BYTES:
        return Blocks(128, 128, 64 // dtype.itemsize, 0, False, 0, 8, 3)
    return Blocks(128, 64, depth, rest, True, 0, 8, 3 if size <= MAX_THREE_STAGES_BYTES else 2)


def nearest(
    a: tuple[Tensor, Tensor],
    b: tuple[Tensor, Tensor],
    grid: tuple[int, int],
    radius: int,
    scale: float,
    limits: tuple[float, float],
    out: Tensor,
) -> None:
    """Compute the distance of each patch of A images to the nearest of B images within a radius of its place.

    Args:
        a: patches (L, A, C), channels contiguous, and their half squared lengths (L, A): int32 of int8, else float32.
        b: the same of the B images.
        grid: (h, w), with L = h * w.
        radius: largest difference of rows and of columns, at least 0.
        scale: of the patches, divides distances.
        limits: smallest distance that is not taken for 0, and largest distance, which longer ones become.
        out: (A, L, B) float32, contiguous.

    Raises:
        ValueError: L * B above MAX_OUT_ROWS.
    """
    (patches, half), (others, half_others) = a, b
    if out[0].numel() > MAX_OUT_ROWS:
        raise ValueError(f"{out.shape[1]} patches of {out.shape[2]} images are more than {MAX_OUT_ROWS} at a time.")
    blocks = blocks_for(patches.dtype, patches.shape[2])
    tiles = triton.cdiv(patches.shape[1], blocks.rows) * triton.cdiv(others.shape[1], blocks.columns)
    sizes = patches.shape[1], others.shape[1], patches.shape[2], *grid, radius
    strides = [side.stride(dim) for dim in (1, 0) for side in (patches, others)]
    _nearest[(len(patches) * tiles,)](
        patches,
        half,
        others,
        half_others,
        out,
        *sizes,
        -2.0 / scale**2,
        limits[0] ** 2,
        limits[1] ** 2,
        *strides,
        half.stride(0),
        half_others.stride(0),
        **constants(blocks),
        **options(patches.dtype, blocks),
    )


def options(dtype: torch.dtype, blocks: Blocks) -> dict[str, int]:
    """List options of the launch: where shared memory has room for two programs of 256 threads, registers have, too."""
    small = blocks.resident and (blocks.depth + blocks.rest) * dtype.itemsize <= MAX_THREE_STAGES_BYTES
    registers = {"maxnreg": REGISTERS // (2 * 32 * blocks.warps)} if small else {}
    return {"num_warps": blocks.warps, "num_stages": blocks.stages, **registers}


def constants(blocks: Blocks) -> dict[str, object]:
    """List what the kernel is compiled for."""
    return {
        "ROWS": blocks.rows,
        "COLUMNS": blocks.columns,
        "DEPTH": blocks.depth,
        "REST": blocks.rest,
        "RESIDENT": blocks.resident,
    }


@triton.jit
def _nearest(
    a, half_a, b, half_b, out, images_a, images_b, channels, height, width, radius, factor, equal, farthest,
    stride_a, stride_b, place_a, place_b, place_half_a, place_half_b,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, REST: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """Distances of ROWS images of a at a place to COLUMNS images of b; a stride is of images, a place of places."""
    SUM: tl.constexpr = tl.int32 if a.dtype.element_ty == tl.int8 else tl.float32
    tiles_a, tiles_b = tl.cdiv(images_a, ROWS), tl.cdiv(images_b, COLUMNS)
    place, tile = tl.program_id(0) // (tiles_a * tiles_b), tl.program_id(0) % (tiles_a * tiles_b)
    m = (tile // tiles_b) * ROWS + tl.arange(0, ROWS)
    n = (tile % tiles_b) * COLUMNS + tl.arange(0, COLUMNS)
    y, x = place // width, place % width
    top, left = tl.maximum(y - radius, 0), tl.maximum(x - radius, 0)
    across = tl.minimum(x + radius + 1, width) - left
    offsets = (tl.minimum(y + radius + 1, height) - top) * across
    a += place.to(tl.int64) * place_a
    if RESIDENT:
        own = load(a, m, images_a, 0, channels, stride_a, DEPTH)
        if REST > 0:
            own_rest = load(a, m, images_a, DEPTH, channels, stride_a, REST)
    best = tl.full((ROWS, COLUMNS), -(2**30), SUM)
    there, at = top * width + left, 0
    for _ in range(offsets):
        half = tl.load(half_b + there * place_half_b + n, mask=n < images_b, other=0)
        value = tl.zeros((ROWS, COLUMNS), SUM)
        others = b + there.to(tl.int64) * place_b
        at += 1
        there += tl.where(at == across, width - across + 1, 1)
        at = tl.where(at == across, 0, at)
        if RESIDENT:
            z = tl.trans(load(others, n, images_b, 0, channels, stride_b, DEPTH))
            value = tl.dot(own, z, value, input_precision="ieee", out_dtype=SUM)
            if REST > 0:
                z_rest = tl.trans(load(others, n, images_b, DEPTH, channels, stride_b, REST))
                value = tl.dot(own_rest, z_rest, value, input_precision="ieee", out_dtype=SUM)
        else:
            for depth in range(0, channels, DEPTH):
                z = tl.trans(load(others, n, images_b, depth, channels, stride_b, DEPTH))
                value = multiply(value, a, m, images_a, depth, channels, stride_a, z, DEPTH)
        best = tl.maximum(best, value - half[None, :])
    half_m = tl.load(half_a + place * place_half_a + m, mask=m < images_a, other=0)
    square = tl.minimum(tl.maximum((best - half_m[:, None]).to(tl.float32) * factor, 0.0), farthest)
    square = tl.where(square <= equal, 0.0, square)  # -0.0, too
    out += ((tile // tiles_b) * ROWS).to(tl.int64) * (height * width) * images_b + place * images_b
    to = tl.arange(0, ROWS)[:, None] * (height * width * images_b) + n[None, :]
    tl.store(out + to, tl.sqrt_rn(square), mask=(m < images_a)[:, None] & (n < images_b)[None, :])
