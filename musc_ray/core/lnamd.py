"""LNAMD: local neighborhood aggregation of ViT patch tokens with multiple degrees (MuSc, section 3.2)."""

import torch.nn.functional as F
from torch import Tensor

LAYER_NORM_EPS = 1e-5


def layer_norm(tokens: Tensor) -> Tensor:
    """Normalise each image's tokens jointly over channels and grid, without affine parameters.

    Args:
        tokens: (N, L, C) patch tokens of one layer, any float dtype, class token already dropped.

    Returns:
        (N, L, C) float32 with mean 0 and variance 1 over (L, C) of every image, eps 1e-5.
    """
    tokens = tokens.float()
    return F.layer_norm(tokens, tokens.shape[1:], eps=LAYER_NORM_EPS)


def aggregate(tokens: Tensor, grid: tuple[int, int], degree: int) -> Tensor:
    """Average each patch with its r x r neighbourhood, then L2-normalise (MuSc, eq. 1 and 2).

    The mean counts the zero padding of (r - 1) / 2 at the border, stride 1.

    Args:
        tokens: (N, h*w, C) float32, layer-normalised, row-major over the grid.
        grid: (h, w).
        degree: odd neighbourhood size r; 1 only normalises.

    Returns:
        (N, h*w, C) float32, unit vectors (a zero vector stays zero).
    """
    if degree > 1:
        n, length, channels = tokens.shape
        maps = tokens.transpose(1, 2).reshape(n, channels, *grid)
        maps = F.avg_pool2d(maps, degree, stride=1, padding=degree // 2, count_include_pad=True)
        tokens = maps.reshape(n, channels, length).transpose(1, 2)
    return F.normalize(tokens, dim=-1)
