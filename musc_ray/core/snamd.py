"""SNAMD: similarity-weighted neighbourhood aggregation with multiple degrees, one vector per patch (MuSc-V2, 2D part).

MuSc-V2 is arXiv 2511.10047; the authors' code has this in models/modules/_SNAMD.py. A neighbour that is unlike the
patch hardly counts, so a small defect is not averaged away, and one vector represents all degrees.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

VALUES_CHUNK = {"cpu": 2**19, "cuda": 2**25}
"""Feature values aggregated at a time: few enough for a CPU's cache, enough to fill a GPU."""


def aggregate(tokens: Tensor, grid: tuple[int, int], degrees: Sequence[int]) -> Tensor:
    """Compute weighted means of every patch's neighbourhoods, averaged over degrees.

    With c a patch, n its neighbours in a window of the largest degree, and r x r the innermost r x r of them:

        w_n = exp(-|f_n - f_c|)        z_c = mean over r of ( sum_{r x r} w_n f_n / sum_{r x r} w_n )

    Outside the grid f_n = 0, as in LNAMD and in the authors' code: such a neighbour adds nothing to a sum of features
    and exp(-|f_c|) to the sum of weights.

    Args:
        tokens: (N, h*w, C) patch tokens as the backbone gives them (after its final norm, if it has one for them; no
            LayerNorm over the image as in LNAMD), any float dtype, row-major over the grid.
        grid: (h, w).
        degrees: odd neighbourhood sizes r.

    Returns:
        (N, h*w, C) float32, not yet of unit length.
    """
    tokens = tokens.float().contiguous()
    images, length, channels = tokens.shape
    step = max(1, VALUES_CHUNK[tokens.device.type] // (length * max(channels, max(degrees) ** 2)))
    out = torch.empty_like(tokens)
    for start in range(0, images, step):
        part = slice(start, start + step)
        out[part] = _aggregate(tokens[part].reshape(-1, *grid, channels), degrees).flatten(1, 2)
    return out


def _aggregate(maps: Tensor, degrees: Sequence[int]) -> Tensor:
    """Aggregate images (A, h, w, C), one offset of the window after the other."""
    height, width = maps.shape[1:3]
    reach = max(degrees) // 2
    padded = F.pad(maps, (0, 0, reach, reach, reach, reach))
    offsets = [(y, x) for y in range(2 * reach + 1) for x in range(2 * reach + 1)]

    def neighbours(y: int, x: int) -> Tensor:
        return padded[:, y : y + height, x : x + width]

    def degrees_with(y: int, x: int) -> list[int]:
        return [d for d, degree in enumerate(degrees) if max(abs(y - reach), abs(x - reach)) <= degree // 2]

    weights, sums = {}, maps.new_zeros(len(degrees), *maps.shape[:3])
    difference = torch.empty_like(maps)
    for offset in offsets:
        torch.sub(neighbours(*offset), maps, out=difference)
        weights[offset] = torch.exp(-torch.linalg.vector_norm(difference, dim=3))
        sums[degrees_with(*offset)] += weights[offset]
    shares = 1 / (len(degrees) * sums)  # the patch's own weight is 1: no sum is 0
    out = torch.zeros_like(maps)
    for offset in offsets:
        share = weights[offset] * shares[degrees_with(*offset)].sum(dim=0)
        out.addcmul_(share[..., None], neighbours(*offset))
    return out
