"""Interval average: from a patch's distances to all other images to its anomaly score (MuSc, section 3.3)."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor


def interval_bounds(references: int, interval: tuple[float, float]) -> tuple[int, int]:
    """Compute the half-open range of ranks, in ascending order of distance, that the interval [lo, hi] selects.

    At least one value is always selected: hi = 0.3 of 3 references means the nearest one,
    `max(1, int(0.3 * (N - 1)))` of MuSc, eq. 5.

    Args:
        references: number of other images, N - 1.
        interval: fractions 0 <= lo < hi <= 1.
    """
    start = min(int(interval[0] * references), references - 1)
    return start, max(start + 1, int(interval[1] * references))


def interval_average(distances: Tensor, references: int, interval: tuple[float, float] = (0.0, 0.3)) -> Tensor:
    """Average the selected smallest distances along the last axis (MuSc, eq. 5).

    Args:
        distances: (..., N) distances of a patch to its nearest patch in every image, non-negative, any float dtype;
            entries that do not count (the image itself) are +inf and sort after the `references` that do.
        references: how many of the N entries count.
        interval: share of the sorted distances to average.

    Returns:
        (...) float32.
    """
    start, stop = interval_bounds(references, interval)
    if distances.device.type == "cpu":
        return _on_cpu(distances, start, stop)
    smallest = torch.topk(distances, stop, dim=-1, largest=False, sorted=start > 0).values
    return smallest[..., start:].float().mean(dim=-1)


def _on_cpu(distances: Tensor, start: int, stop: int) -> Tensor:
    """Average without sorting: several times as fast as `topk`."""
    from musc_ray.core.kernels.smallest import means_of_smallest  # here: compiles with numba, which a GPU does without

    rows = distances if distances.dtype == torch.float16 else distances.float()
    rows = rows.reshape(-1, distances.shape[-1]).contiguous()
    values = rows.numpy().view(np.uint16) if rows.dtype == torch.float16 else rows.numpy()
    means = torch.empty(len(rows))

    def average(part: slice) -> None:
        means_of_smallest(values[part].reshape(-1), rows.shape[1], start, stop, means[part].numpy())

    step = -(-len(rows) // torch.get_num_threads())
    parts = [slice(first, first + step) for first in range(0, len(rows), step)]
    with ThreadPoolExecutor(len(parts)) as pool:
        list(pool.map(average, parts))
    return means.view(distances.shape[:-1])
