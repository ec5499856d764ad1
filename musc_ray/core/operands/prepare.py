"""Prepare a shard's tokens of one layer for multiplication, in the form that suits their device."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from musc_ray.core import snamd
from musc_ray.core.lnamd import layer_norm
from musc_ray.core.operands.base import PlainPatches, PreparedShard
from musc_ray.core.operands.gpu import UnitVectorShard
from musc_ray.core.operands.near import NearShard


def prepare(
    tokens: Tensor,
    grid: tuple[int, int],
    degrees: Sequence[int],
    dtype: torch.dtype = torch.float32,
    aggregation: str = "lnamd",
    radius: int | None = None,
) -> PreparedShard:
    """Prepare a shard: the operands from which a product gives the distances of every degree.

    On a CPU one product of plain patches serves all degrees (`GramShard`, compiled by numba). On a GPU, where products
    are cheap and passes over memory are not, each degree has its own product (`UnitVectorShard`, needs torch alone).
    LNAMD normalises an image's tokens first, SNAMD takes them as they are: after it a patch is one vector, which either
    form takes for a plain patch of degree 1. Where patches are compared near their own place alone, products are few
    and the same everywhere (`NearShard`).

    Args:
        tokens: (A, h*w, C) raw patch tokens on the device that will multiply them.
        grid: (h, w).
        degrees: odd neighbourhood sizes.
        dtype: float32, bfloat16 or float16: the dtype of the operands; with a radius int8, too.
        aggregation: `lnamd` or `snamd`.
        radius: compares patches at most this far apart in the grid; None means all.
    """
    plain_patches: PlainPatches = layer_norm
    if aggregation == "snamd":
        plain_patches, degrees = partial(snamd.aggregate, grid=grid, degrees=degrees), (1,)
    if radius is not None:
        return NearShard(tokens, grid, tuple(degrees), dtype, radius, plain_patches)
    if tokens.device.type == "cpu":
        from musc_ray.core.operands.cpu import GramShard  # here: imports numba, which a GPU does without

        return GramShard(tokens, grid, tuple(degrees), dtype, plain_patches)
    return UnitVectorShard(tokens, grid, tuple(degrees), dtype, plain_patches)
