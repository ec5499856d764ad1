"""Nearest patches on a GPU (Triton): products on tensor cores, reduced to row and column maxima on the chip.

A program takes COLUMNS patches of an image of b and streams all patches of an image of a past them, ROWS at a time. Up
to MAX_RESIDENT_BYTES a patch, the operand of b stays on the chip meanwhile and a product is one or two `tl.dot`: there
is no loop over channels. The product itself never reaches the GPU's memory.

Costs of a pair of patches, counted on paper and in the machine code (`cuobjdump`, `nvdisasm`), not measured. R is the
padded length of a patch in bytes, C in channels:

- Loads from L2: R / COLUMNS bytes of a (asynchronous copies, STAGES deep) and R / L of b; R / COLUMNS + R / ROWS if the
  operand is not resident. Device memory: both chunks of images once, 17 images a side at L = 1369 (6 MB each at C = 256
  in int8, which L2 holds).
- Stores: 4 / COLUMNS + 4 / L bytes of maxima.
- Tensor cores: 2 C operations. That is 256 operations a byte of L2 in int8, 128 in float16.
- Others: one addition (half the squared lengths are the accumulator's first value; multipliers' pipe) and two maxima.
  The row maxima of 32 columns end in registers and two shuffles; column maxima are kept of every second row and end
  once a program. For 64 pairs a thread has 152 instructions of maxima on sm_80, of which 24 follow shuffles, 100 on
  sm_90 (which has integer maxima of three numbers), 130 in float16.

Limits in 10^12 pairs of patches a second, one degree, L = 1369 and C = 256. Tensor cores: 0.945 (1,408 patches are
multiplied for 1,369) of peak rate / 2 C. L2: 2.2 and 4.5 bytes a pair at 4.5 TB/s (A100) and 5.5 TB/s (H100, H200),
which are assumptions. Maxima: 64 instructions a clock and multiprocessor (108 at 1.41 GHz, 132 at 1.83 GHz).

| | tensor cores | L2 | maxima | binds |
| --- | --- | --- | --- | --- |
| int8, A100 (624 TOPS) | 1.2 | 2.0 | 3.9 | tensor cores |
| int8, H100, H200 (1,979 TOPS) | 3.7 | 2.4 | 9.3 | L2 |
| float16, A100 (312 TFLOP/s) | 0.58 | 1.0 | 3.9 | tensor cores |
| float16, H100, H200 (989 TFLOP/s) | 1.8 | 1.2 | 7.2 | L2 |

At C = 64 in int8 they are 4.6, 8.0, 3.9 on an A100 and 14.6, 9.8, 9.3 on an H100: maxima bind on both.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_RESIDENT_BYTES = 512
"""Of a patch: 128 columns take 64 KB of the 163 (sm_80) or 227 KB (sm_90) of a multiprocessor, two stages of a 64."""

MAX_THREE_STAGES_BYTES = 256
"""Of a patch: 128 columns and three stages of 64 rows take 80 KB, so that two programs fit a multiprocessor."""

MIN_DEPTH = 32
"""Channels that a tensor core instruction multiplies at least, of int8."""


class Blocks(NamedTuple):
    """Block sizes of the kernel for a dtype and a number of channels, chosen by counting registers and shared memory.

    Attributes:
        rows, columns: patches of a and of b multiplied at a time.
        depth, rest: channels of a product's two parts if resident, else of a step (rest is 0).
        resident: whether the columns' operand stays on the chip.
        folded: rows whose column maxima share a register, 2 in the layout of tensor cores; all rows with 0.
        warps, stages: of a program.
    """

    rows: int
    columns: int
    depth: int
    rest: int
    resident: bool
    folded: int
    warps: int
    stages: int


def blocks_for(dtype: torch.dtype, channels: int) -> Blocks:
    """Choose block sizes: resident operands for short patches, else steps of 64 bytes of channels.

    float32 has no tensor cores (exact products only); its kernel is bound by multiplications, keeps one column maximum
    for all rows and spares the registers.
    """
    if dtype == torch.float32:
        return Blocks(128, 128, 16, 0, False, 0, 8, 3)
    depth, rest = split_depth(channels)
    size = (depth + rest) * dtype.itemsize
    if size > MAX_RESIDENT_BYTES:
        return Blocks(128, 128, 64 // dtype.itemsize, 0, False, 2, 8, 4)
    return Blocks(64, 128, depth, rest, True, 2, 4, 3 if size <= MAX_THREE_STAGES_BYTES else 2)


def split_depth(channels: int) -> tuple[int, int]:
    """Cover channels by one power of two, or by two where that pads less: 96 = 64 + 32, 200 <= 256 + 0."""
    depth = max(MIN_DEPTH, 1 << (channels.bit_length() - 1))
    if channels <= depth:
        return depth, 0
    rest = max(MIN_DEPTH, triton.next_power_of_2(channels - depth))
    return (depth, rest) if rest < depth else (2 * depth, 0)


def nearest(
    left: tuple[Tensor, Tensor], right: tuple[Tensor, Tensor], patches: tuple[int, int], channels: int
) -> tuple[Tensor, Tensor]:
    """Compute row and column maxima of a . b - |a|^2 / 2 - |b|^2 / 2 = -|a - b|^2 / 2 over all pairs of A and B images.

    Args:
        left: patches a (A * L, at least C) float16, bfloat16, float32 or int8, rows contiguous; channels beyond C are
            ignored; rows and C that are multiples of 16 bytes are read fastest. Half squared lengths of a's rows
            (A * L,): float32, or int32 of int8 patches.
        right: the same of the B images.
        patches: L of an image of a and of one of b.
        channels: C.

    Returns:
        (A, L, B) the maximum over the patches of b, and (B, L, A) the maximum over the patches of a: float32, or exact
        in int32 of int8 patches.
    """
    (a, half_a), (b, half_b), (patches_a, patches_b) = left, right, patches
    images_a, images_b = len(a) // patches_a, len(b) // patches_b
    blocks = blocks_for(a.dtype, channels)
    tiles = triton.cdiv(patches_b, blocks.columns)
    in_b = torch.empty(images_a, images_b, tiles, patches_a, dtype=half_a.dtype, device=a.device)
    in_a = torch.empty(images_a, images_b, patches_b, dtype=half_a.dtype, device=a.device)
    _nearest[(images_a * images_b * tiles,)](
        a,
        half_a,
        b,
        half_b,
        in_b,
        in_a,
        images_b,
        patches_a,
        patches_b,
        channels,
        a.stride(0),
        b.stride(0),
        **constants(a.dtype, blocks),
        **options(blocks),
    )
    return in_b.amax(dim=2).permute(0, 2, 1), in_a.permute(1, 2, 0)


def options(blocks: Blocks) -> dict[str, int]:
    """List options of the launch."""
    return {"num_warps": blocks.warps, "num_stages": blocks.stages}


def constants(dtype: torch.dtype, blocks: Blocks) -> dict[str, object]:
    """List what the kernel is compiled for."""
    return {
        "ROWS": blocks.rows,
        "COLUMNS": blocks.columns,
        "DEPTH": blocks.depth,
        "REST": blocks.rest,
        "RESIDENT": blocks.resident,
        "FOLDED": blocks.folded,
        "FAR": far(dtype),
    }


def far(dtype: torch.dtype) -> float | int:
    """Return a half squared length with which a patch is nobody's nearest; two of them do not overflow int32."""
    return 2**29 if dtype == torch.int8 else float("inf")


@triton.jit
def _nearest(
    a, half_a, b, half_b, in_b, in_a, images_b, patches_a, patches_b, channels, stride_a, stride_b,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr, REST: tl.constexpr, RESIDENT: tl.constexpr,
    FOLDED: tl.constexpr, FAR: tl.constexpr,
):  # fmt: skip
    """All patches of an image of a against COLUMNS of an image of b; row maxima are over these columns only."""
    SUM: tl.constexpr = half_a.dtype.element_ty
    tiles = tl.cdiv(patches_b, COLUMNS)
    pair, tile = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles
    first_a, first_b = (pair // images_b) * patches_a, (pair % images_b) * patches_b
    a, b = a + first_a * stride_a, b + first_b * stride_b
    half_a, half_b = half_a + first_a, half_b + first_b
    n = tile * COLUMNS + tl.arange(0, COLUMNS)
    half_n = tl.load(half_b + n, mask=n < patches_b, other=FAR)
    if RESIDENT:
        y = tl.trans(load(b, n, patches_b, 0, channels, stride_b, DEPTH))
        if REST > 0:
            y_rest = tl.trans(load(b, n, patches_b, DEPTH, channels, stride_b, REST))
    best = tl.full((ROWS // FOLDED if FOLDED > 0 else 1, COLUMNS), -2 * FAR, SUM)
    half_m = tl.load(half_a + tl.arange(0, ROWS), mask=tl.arange(0, ROWS) < patches_a, other=FAR)
    for start in range(0, patches_a, ROWS):
        m = start + tl.arange(0, ROWS)
        value = -half_m[:, None] - half_n[None, :]
        half_m = tl.load(half_a + m + ROWS, mask=m + ROWS < patches_a, other=FAR)  # of the next rows: no wait for it
        if RESIDENT:
            value = multiply(value, a, m, patches_a, 0, channels, stride_a, y, DEPTH)
            if REST > 0:
                value = multiply(value, a, m, patches_a, DEPTH, channels, stride_a, y_rest, REST)
        else:
            for depth in range(0, channels, DEPTH):
                y = tl.trans(load(b, n, patches_b, depth, channels, stride_b, DEPTH))
                value = multiply(value, a, m, patches_a, depth, channels, stride_a, y, DEPTH)
        tl.store(in_b + (pair * tiles + tile) * patches_a + m, tl.max(value, axis=1), mask=m < patches_a)
        best = tl.maximum(best, _over_rows(value, ROWS, COLUMNS, FOLDED))
    tl.store(in_a + pair * patches_b + n, tl.max(best, axis=0), mask=n < patches_b)


@triton.jit
def _over_rows(value, ROWS: tl.constexpr, COLUMNS: tl.constexpr, FOLDED: tl.constexpr):
    """Compute column maxima over FOLDED rows that are 8 apart, which one thread holds; over all rows with 0."""
    if FOLDED == 0:
        rows = tl.max(value, axis=0)[None, :]
    else:
        rows = tl.max(tl.reshape(value, (ROWS // (8 * FOLDED), FOLDED, 8, COLUMNS)), axis=1)
        rows = tl.reshape(rows, (ROWS // FOLDED, COLUMNS))
    return rows


@triton.jit
def multiply(value, patch, rows, end, first, channels, stride, y, DEPTH: tl.constexpr):
    """Load some rows as `load` does, and add their products with y (DEPTH, columns) to `value`."""
    x = load(patch, rows, end, first, channels, stride, DEPTH)
    return tl.dot(x, y, value, input_precision="ieee", out_dtype=value.dtype)


@triton.jit
def load(patch, rows, end, first, channels, stride, DEPTH: tl.constexpr):
    """Load DEPTH channels from `first` on of some rows, zeros from row `end` and the last channel on."""
    c = first + tl.arange(0, DEPTH)
    inside = (rows < end)[:, None] & (c < channels)[None, :]
    return tl.load(patch + rows[:, None] * stride + c[None, :], mask=inside, other=0)
