"""Prepare a shard's tokens of one layer for multiplication, in the form that suits their device."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from musc_ray.core import snamd
from musc_ray.core.kept_patches import KeptPatches
from musc_ray.core.lnamd import layer_norm
from musc_ray.core.operands.base import PlainPatches, PreparedShard
from musc_ray.core.operands.gpu import HAS_TRITON, UnitVectorShard
from musc_ray.core.operands.int8 import Int8Shard
from musc_ray.core.operands.int8_gpu import FusedInt8Shard
from musc_ray.core.operands.near import NearShard
from musc_ray.core.operands.near_gpu import FusedNearShard


def prepare(
    tokens: Tensor,
    grid: tuple[int, int],
    degrees: Sequence[int],
    dtype: torch.dtype = torch.float32,
    aggregation: str = "lnamd",
    radius: int | None = None,
    normalised: bool = False,
    places: int = 1,
    kept: KeptPatches | None = None,
) -> PreparedShard:
    """Prepare a shard: the operands from which a product gives the distances of every degree.

    On a CPU one product of plain patches serves all degrees (`GramShard`, compiled by numba). On a GPU, where products
    are cheap and passes over memory are not, each degree has its own product (`UnitVectorShard`, needs torch alone).
    LNAMD normalises an image's tokens first, SNAMD takes them as they are: after it a patch is one vector, which either
    form takes for a plain patch of degree 1. Where patches are compared near their own place alone, products are few
    and the same everywhere (`NearShard`). In int8 each degree has its own product, too (`Int8Shard`).

    Args:
        tokens: (A, h*w, C) raw patch tokens on the device that will multiply them; with places (A * places, h*w, C).
        grid: (h, w).
        degrees: odd neighbourhood sizes.
        dtype: float32, bfloat16, float16 or int8: the dtype of the operands.
        aggregation: `lnamd` or `snamd`.
        radius: compares patches at most this far apart in the grid; None means all.
        normalised: whether tokens are compressed ones: LNAMD's LayerNorm has been applied to them, and directions are
            turned (`compression.project`). With SNAMD the tokens are `compression.raw_tokens` of them.
        places: consecutive token grids that are places of one image, each with neighbourhoods and a LayerNorm of its
            own; patches look for their nearest in all places of another image.
        kept: patches that have vectors, after all tokens are normalised and averaged; None means all.
    """
    plain_patches: PlainPatches = Tensor.float if normalised else layer_norm
    if aggregation == "snamd":
        plain_patches, degrees = partial(snamd.aggregate, grid=grid, degrees=degrees), (1,)
    shard: PreparedShard
    degrees = tuple(degrees)
    if radius is not None:
        shard = near_form(tokens.device, dtype)(tokens, grid, degrees, dtype, radius, plain_patches).keep(kept)
    elif dtype == torch.int8:
        shard = int8_form(tokens.device, tokens.shape[2])(tokens, grid, degrees, plain_patches, normalised, kept)
    elif tokens.device.type == "cpu":
        from musc_ray.core.operands.cpu import GramShard  # here: imports numba, which a GPU does without

        shard = GramShard(tokens, grid, degrees, dtype, plain_patches, kept)
    else:
        shard = UnitVectorShard(tokens, grid, degrees, dtype, plain_patches, kept)
    shard.places = places
    return shard


def near_form(device: torch.device, dtype: torch.dtype) -> type[NearShard]:
    """Choose the form of a shard that is matched near the same place: with a kernel of ours where there is one."""
    if device.type == "cpu" and dtype == torch.int8 and torch.cpu.get_capabilities().get("avx512_vnni"):
        from musc_ray.core.operands.near_int8 import PackedNearShard  # here: imports numba

        return PackedNearShard
    return FusedNearShard if device.type == "cuda" and HAS_TRITON else NearShard


MIN_AMX_CHANNELS = 256
"""With fewer channels AVX-512 VNNI is chosen even where a CPU has AMX.

AMX multiplies several times as fast, but its product is written and read again for the maxima, which took 75 us a pair
of images at L = 256 and degrees 1, 3, 5 on a Zen 5, where the kernel that writes none takes 43 us at 96 channels in
all. Estimated from this; no CPU with AMX was available.
"""


def int8_form(device: torch.device, channels: int) -> type[Int8Shard]:
    """Choose the form of a shard in int8: with a kernel of ours where the device has one and it is the fastest."""
    capabilities = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    if capabilities.get("avx512_vnni") and not (capabilities.get("amx_int8") and channels >= MIN_AMX_CHANNELS):
        from musc_ray.core.operands.int8_cpu import PackedInt8Shard

        return PackedInt8Shard
    return FusedInt8Shard if device.type == "cuda" and HAS_TRITON else Int8Shard
