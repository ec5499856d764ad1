"""Load, or compile, the kernels of mutual scoring before the first tile: a first compilation takes many seconds."""

from collections.abc import Sequence

import torch

from musc_ray.core.interval_average import interval_average
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.precision import distance_dtype
from musc_ray.core.tile_product import multiply_tile

IMAGES, CHANNELS = 2, 16


def load_kernels(
    grid: tuple[int, int],
    degrees: Sequence[int],
    dtype: torch.dtype,
    aggregation: str,
    device: torch.device,
    radius: int | None = None,
) -> None:
    """Multiply a tile of noise and average its distances, as scoring will: kernels are compiled for these types.

    Args:
        grid: (h, w).
        degrees: odd neighbourhood sizes.
        dtype: of the operands of products.
        aggregation: lnamd or snamd.
        device: that multiplies.
        radius: of matching near its own place; None means anywhere.
    """
    noise = torch.randn(IMAGES, grid[0] * grid[1], CHANNELS, generator=torch.Generator().manual_seed(0))
    shard = prepare(noise.to(device), grid, degrees, dtype, aggregation, radius)
    distances, _ = multiply_tile(shard, shard, distance_dtype(dtype))
    interval_average(distances.to(device), references=1)
