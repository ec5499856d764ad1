"""Values of kept patches, and of all patches of the grid: one as the other."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musc_ray.core.kept_patches import KeptPatches


def on_grid(values: npt.NDArray[Any], kept: KeptPatches | None, fill: float) -> npt.NDArray[Any]:
    """Put values (A, P * K, ...) of kept patches of P places in their places (A, P * L, ...)."""
    if kept is None:
        return values
    by_place = values.reshape(len(kept.flags), -1, *values.shape[2:])
    return kept.spread(by_place, fill).reshape(len(values), -1, *values.shape[2:])


def off_grid(values: npt.NDArray[np.float32], kept: KeptPatches | None) -> Tensor:
    """Select kept patches (D, A, P * K) from values in their places (D, A, P * L); `kept` has a row a place."""
    if kept is None:
        return torch.from_numpy(values)
    images = values.shape[1]
    gathered = [kept.gather(each.reshape(len(kept.flags), -1)).reshape(images, -1) for each in values]
    return torch.from_numpy(np.stack(gathered))
