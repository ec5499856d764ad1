"""Features of the most anomalous patches on a scoring worker, which RsCon compares, where images are cut into crops."""

import numpy as np
import numpy.typing as npt
import torch

from musc_ray.core.rscon import features_at, salient_layer
from musc_ray.features.layer_reader import LayerReader
from musc_ray.scoring.ring import RingShard
from musc_ray.storage.shards import FeaturesMeta

FloatArray = npt.NDArray[np.float32]


def salient_features_of(
    reader: LayerReader,
    group: str,
    shard: RingShard,
    meta: FeaturesMeta,
    peaks: npt.NDArray[np.integer],
    device: torch.device,
) -> FloatArray:
    """Compute the aggregated feature of one patch of each of a shard's images; see `core/rscon.py`.

    Each is computed from the tokens of its own place alone: a crop's patches have no neighbours in other crops.

    Args:
        reader: of the run's features; it has the settings `degrees` and `aggregation`.
        group: of the shard.
        shard: A images.
        meta: of the shard's features.
        peaks: (A, 2) integers: place, and patch of the place's grid, row-major.
        device: that computes.

    Returns:
        (A, C) float32 unit vectors, in the order of the images.
    """
    settings, path = reader.settings, reader.out_paths.shard(reader.features_id, group, shard.number)
    found: dict[int, FloatArray] = {}
    for place in np.unique(peaks[:, 0]).tolist():
        rows = np.flatnonzero(peaks[:, 0] == place).tolist()
        ids = [shard.ids[row] for row in rows]
        tokens = reader.read(group, path, salient_layer(meta.layers), ids, (place,)).to(device)
        features = features_at(
            tokens,
            meta.grid_of((place,)),
            torch.from_numpy(peaks[rows, 1].astype(np.int64)),
            settings.degrees,
            settings.aggregation,
            reader.is_compressed(group),
        )
        found |= dict(zip(rows, features, strict=True))
    return np.stack([found[row] for row in range(len(shard.ids))])
