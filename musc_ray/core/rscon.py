"""RsCon: re-score images by the scores of those whose most anomalous patch looks most like theirs (MuSc-V2).

MuSc-V2 is arXiv 2511.10047; the authors' code has it in models/modules/_RsCon.py, and in models/muscv2.py the choice of
layer and patch. RsCIN compares class tokens instead; the mean over neighbours is the same.
"""

from collections.abc import Sequence

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from musc_ray.core import lnamd, snamd
from musc_ray.core.pixel_map import fill_unscored
from musc_ray.core.rescoring import FloatArray, neighbourhood_sizes, rescored

IMAGES_CHUNK = 16
"""Images whose patches are aggregated at a time."""


def salient_layer(layers: Sequence[int]) -> int:
    """Return the layer that the salient features are from: the last but one of a run's, or its only one."""
    return layers[-2] if len(layers) > 1 else layers[0]


def salient_features(
    tokens: Tensor,
    grid: tuple[int, int],
    patch_maps: Tensor,
    degrees: Sequence[int],
    aggregation: str,
    normalised: bool = False,
) -> FloatArray:
    """Compute the aggregated feature of each image's most anomalous patch, the first one of equals.

    Args:
        tokens, grid, degrees, aggregation, normalised: as in `features_at`.
        patch_maps: (N, h*w) float32 on the CPU, mean over layers and degrees, not upsampled; NaN is not scored.

    Returns:
        (N, C) float32, as `features_at`.
    """
    most = torch.from_numpy(fill_unscored(patch_maps.numpy())).argmax(dim=1)
    return features_at(tokens, grid, most, degrees, aggregation, normalised)


def features_at(
    tokens: Tensor,
    grid: tuple[int, int],
    patches: Tensor,
    degrees: Sequence[int],
    aggregation: str,
    normalised: bool = False,
) -> FloatArray:
    """Compute the aggregated feature of one patch of each image, or of each crop, whose tokens are given.

    With SNAMD a patch has one unit vector, as in the authors' code. With LNAMD it has one per degree; they are
    concatenated, so that the similarity of two images is the mean over degrees of the cosines.

    Args:
        tokens: (N, h*w, C) raw patch tokens of the layer `salient_layer`, any float dtype.
        grid: (h, w).
        patches: (N,) index of the patch, row-major.
        degrees: odd neighbourhood sizes r.
        aggregation: `lnamd` or `snamd`.
        normalised: whether tokens are compressed ones; see `operands.prepare`.

    Returns:
        (N, C) float32 unit vectors with SNAMD, (N, D * C) with LNAMD and D degrees.
    """
    at = patches.to(tokens.device)
    starts = range(0, len(tokens), IMAGES_CHUNK)
    chunks = [slice(start, start + IMAGES_CHUNK) for start in starts]
    plain = lnamd.layer_norm if aggregation == "lnamd" and not normalised else Tensor.float
    parts = [_patch_vectors(plain(tokens[chunk]), grid, at[chunk], degrees, aggregation) for chunk in chunks]
    vectors: FloatArray = F.normalize(torch.cat(parts), dim=1).cpu().numpy()
    return vectors


def _patch_vectors(
    tokens: Tensor, grid: tuple[int, int], at: Tensor, degrees: Sequence[int], aggregation: str
) -> Tensor:
    """Aggregate images, layer-normalised for LNAMD, and take the vectors of one patch of each, at (A,)."""
    images = torch.arange(len(tokens), device=tokens.device)
    if aggregation == "snamd":
        return snamd.aggregate(tokens, grid, degrees)[images, at]
    return torch.cat([lnamd.aggregate(tokens, grid, degree)[images, at] for degree in degrees], dim=1)


def rscon(scores: npt.ArrayLike, features: npt.ArrayLike, k_list: Sequence[int] = (1, 7)) -> FloatArray:
    """Re-score image scores by the scores of the images with the most similar salient features.

    With W the cosine similarities of the features, W_k those of each row's k largest (the image itself is one of
    them) and 0 elsewhere, and s the min-max scaled scores:

        result = mean over k in {1} and k_list of  diag(W_k 1)^-1 W_k s

    Args:
        scores: (N,) raw image scores of one group.
        features: (N, C) from `salient_features`; L2-normalised here.
        k_list: neighbourhood sizes, (1, 7) in the authors' code; 1 is always one of them; a k beyond N counts as N.

    Returns:
        (N,) float32.

    Raises:
        ValueError: mismatched shapes, NaN or infinite values, an empty k_list or a k below 1.
    """
    return rescored(scores, features, neighbourhood_sizes("rscon", k_list) if k_list else k_list, "features")
