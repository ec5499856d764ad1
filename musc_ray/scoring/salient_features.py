"""Features of the most anomalous patches, for RsCon: a layer of a shard is read again once its patch maps are known."""

from collections.abc import Sequence

import fsspec
import numpy as np
import numpy.typing as npt
import torch

from musc_ray.core.rscon import salient_features, salient_layer
from musc_ray.settings.model import Settings
from musc_ray.storage.shards import read_layer, read_meta

FloatArray = npt.NDArray[np.float32]


def salient_features_of(
    fs: fsspec.AbstractFileSystem,
    path: str,
    ids: Sequence[str],
    patch_maps: FloatArray,
    settings: Settings,
    device: torch.device,
) -> FloatArray:
    """Compute the salient features of some images of a feature shard.

    Args:
        fs, path: of the shard.
        ids: (A,) of the images.
        patch_maps: (A, L), theirs.
        settings: degrees and aggregation.
        device: where to compute.

    Returns:
        (A, C) float32, see `core/rscon.py`.

    Raises:
        BrokenShardError: the shard is not what was written.
    """
    meta = read_meta(fs, path)
    tokens = torch.from_numpy(read_layer(fs, path, salient_layer(meta.layers), ids)).to(device)
    maps = torch.from_numpy(patch_maps)
    return salient_features(tokens, meta.grid, maps, settings.degrees, settings.aggregation)
