"""Image scores of patch maps that the study compares with the maximum of the pixel map."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from musc_ray.core.pixel_map import image_scores, pixel_map

Score = Callable[[Tensor, tuple[int, int]], Tensor]
"""Takes patch maps (N, h, w) and the image size (H, W) in pixels; returns scores (N,)."""


def mean_of_top(count: int, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Average the largest patch scores of each image."""
    return maps.flatten(1).topk(count, dim=1).values.mean(dim=1)


def maximum_of_means(side: int, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Take the maximum of the map after a box filter over patches; the border counts what is inside."""
    smooth = F.avg_pool2d(maps[:, None], side, stride=1, padding=side // 2, count_include_pad=False)
    return image_scores(smooth[:, 0], size)


def maximum_of_blurred(sigma: float, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Take the maximum of the pixel map after a Gaussian filter; `sigma` in pixels of the model's input."""
    reach = round(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, dtype=torch.float32)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    pixels = F.pad(pixel_map(maps, size)[:, None], (reach,) * 4, mode="replicate")
    rows = F.conv2d(pixels, kernel.view(1, 1, -1, 1))
    return F.conv2d(rows, kernel.view(1, 1, 1, -1)).amax(dim=(1, 2, 3))


def above_median(share: float, maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Take the maximum less a share of the median of the image's own map."""
    return image_scores(maps, size) - share * maps.flatten(1).median(dim=1).values


SCORES: dict[str, Score] = {
    "max": image_scores,
    **{f"mean of top {count}": partial(mean_of_top, count) for count in (2, 3, 5, 10, 25)},
    **{f"max of means {side} x {side}": partial(maximum_of_means, side) for side in (3, 5)},
    **{f"max blurred, sigma {sigma}": partial(maximum_of_blurred, sigma) for sigma in (4, 8)},
    "max less median": partial(above_median, 1.0),
    "max less half median": partial(above_median, 0.5),
}
