"""SNAMD: similarity-weighted neighbourhood aggregation with multiple degrees, one vector a patch (MuSc-V2, 2D part).

MuSc-V2 is arXiv 2511.10047. Where a neighbour is unlike the patch it hardly counts, so that a small defect is not
averaged away, and one vector stands for all degrees.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

VALUES_AT_ONCE = {"cpu": 2**19, "cuda": 2**25}
"""Feature values aggregated at a time: few enough to stay in a CPU's cache, many enough to fill a GPU."""


def aggregate(tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]) -> Tensor:
    """Weighted means of every patch's neighbourhoods, averaged over degrees.

    With c a patch, n its neighbours in a window of the largest degree, and r x r the innermost r x r of them:

        w_n = exp(-|f_n - f_c|)        z_c = mean over r of ( sum_{r x r} w_n f_n / sum_{r x r} w_n )

    Beyond the grid f_n = 0, as in LNAMD and in the authors' code: such a neighbour adds nothing to a sum of features
    and exp(-|f_c|) to the sum of weights.

    Args:
        tokens: (N, h*w, C) float32, layer-normalised, row-major over the grid.
        grid: (h, w).
        degrees: odd neighbourhood sizes r.

    Returns:
        (N, h*w, C) float32, not yet of unit length.
    """
    images, length, channels = tokens.shape
    step = max(1, VALUES_AT_ONCE[tokens.device.type] // (length * max(channels, max(degrees) ** 2)))
    out = torch.empty_like(tokens)
    for start in range(0, images, step):
        part = slice(start, start + step)
        out[part] = _aggregate(tokens[part].reshape(-1, *grid, channels), degrees).flatten(1, 2)
    return out


def _aggregate(maps: Tensor, degrees: Sequence[int]) -> Tensor:
    """`aggregate` of some images (A, h, w, C), by one place of the window after the other."""
    height, width = maps.shape[1:3]
    reach = max(degrees) // 2
    padded = F.pad(maps, (0, 0, reach, reach, reach, reach))
    window = [(y, x) for y in range(2 * reach + 1) for x in range(2 * reach + 1)]

    def neighbours(y: int, x: int) -> Tensor:
        return padded[:, y : y + height, x : x + width]

    def degrees_with(y: int, x: int) -> list[int]:
        return [d for d, degree in enumerate(degrees) if max(abs(y - reach), abs(x - reach)) <= degree // 2]

    weights, sums = {}, maps.new_zeros(len(degrees), *maps.shape[:3])
    difference = torch.empty_like(maps)
    for place in window:
        torch.sub(neighbours(*place), maps, out=difference)
        weights[place] = torch.exp(-torch.linalg.vector_norm(difference, dim=3))
        sums[degrees_with(*place)] += weights[place]
    shares = 1 / (len(degrees) * sums)  # the patch's own weight is 1: no sum is 0
    out = torch.zeros_like(maps)
    for place in window:
        share = weights[place] * shares[degrees_with(*place)].sum(dim=0)
        out.addcmul_(share[..., None], neighbours(*place))
    return out
