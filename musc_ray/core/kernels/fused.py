"""Nearest patches on a GPU (Triton): products on tensor cores, reduced to row and column maxima on the chip.

The product itself, two bytes per pair of patches, never reaches the GPU's memory.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, COLUMNS, DEPTH = 128, 128, 64
"""Patches of a, patches of b and channels that a program multiplies at a time."""

WARPS, STAGES = 8, 3


def nearest(a: Tensor, half_a: Tensor, b: Tensor, half_b: Tensor, patches: int, channels: int) -> tuple[Tensor, Tensor]:
    """Compute row and column maxima of a . b - |a|^2 / 2 - |b|^2 / 2 = -|a - b|^2 / 2 over all pairs of A and B images.

    Args:
        a: (A * L, at least C) float16, bfloat16 or float32, rows contiguous; channels beyond C are ignored.
        half_a: (A * L,) float32, half squared lengths of a's rows.
        b, half_b: the same of the B images.
        patches: L; channels: C.

    Returns:
        (A, L, B) the maximum over the patches of b, and (B, L, A) the maximum over the patches of a, float32.
    """
    images_a, images_b = len(a) // patches, len(b) // patches
    tiles = triton.cdiv(patches, ROWS)
    rows = torch.empty(images_a, images_b, patches, device=a.device)
    columns = torch.empty(images_a, images_b, tiles, patches, device=a.device)
    _nearest[(tiles, images_a * images_b)](
        a,
        half_a,
        b,
        half_b,
        rows,
        columns,
        images_b,
        patches,
        channels,
        a.stride(0),
        b.stride(0),
        ROWS=ROWS,
        COLUMNS=COLUMNS,
        DEPTH=DEPTH,
        num_warps=WARPS,
        num_stages=STAGES,
    )
    return rows.permute(0, 2, 1), columns.amax(dim=2).permute(1, 2, 0)


@triton.jit
def _nearest(
    a,
    half_a,
    b,
    half_b,
    rows,
    columns,
    images_b,
    patches,
    channels,
    stride_a,
    stride_b,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """ROWS patches of an image of a against all patches of an image of b; column maxima are over these rows only."""
    tile, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    first_a, first_b = (pair // images_b) * patches, (pair % images_b) * patches
    m = tile * ROWS + tl.arange(0, ROWS)
    inside_m = m < patches
    half_m = tl.load(half_a + first_a + m, mask=inside_m, other=0.0)
    best = tl.full((ROWS,), float("-inf"), tl.float32)
    for start in range(0, patches, COLUMNS):
        n = start + tl.arange(0, COLUMNS)
        inside_n = n < patches
        half_n = tl.load(half_b + first_b + n, mask=inside_n, other=0.0)
        product = tl.zeros((ROWS, COLUMNS), tl.float32)
        for depth in range(0, channels, DEPTH):
            c = depth + tl.arange(0, DEPTH)
            inside_c = c < channels
            x = tl.load(
                a + (first_a + m)[:, None] * stride_a + c[None, :],
                mask=inside_m[:, None] & inside_c[None, :],
                other=0.0,
            )
            y = tl.load(
                b + (first_b + n)[None, :] * stride_b + c[:, None],
                mask=inside_n[None, :] & inside_c[:, None],
                other=0.0,
            )
            product = tl.dot(x, y, product, input_precision="ieee")
        value = product - half_m[:, None] - half_n[None, :]
        value = tl.where(inside_m[:, None] & inside_n[None, :], value, float("-inf"))
        best = tl.maximum(best, tl.max(value, axis=1))
        over_rows = tl.max(value, axis=0)
        tl.store(columns + (pair * tl.num_programs(0) + tile) * patches + n, over_rows, mask=inside_n)
    tl.store(rows + pair * patches + m, best, mask=inside_m)
