"""Features of the most anomalous patches on a scoring worker, which RsCon compares, where images are cut into crops."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from musc_ray.core.rscon import features_at, salient_layer
from musc_ray.features.layer_reader import LayerReader
from musc_ray.storage.shards import read_meta

FloatArray = npt.NDArray[np.float32]


def salient_features_of(
    reader: LayerReader,
    group: str,
    path: str,
    image_ids: Sequence[str],
    peaks: npt.NDArray[np.integer],
    device: torch.device,
) -> FloatArray:
    """Compute the aggregated feature of one patch of each of a shard's images; see `core/rscon.py`.

    Each is computed from the tokens of its own place alone: a crop's patches have no neighbours in other crops.

    Args:
        reader: of the run's features; it has the settings `degrees` and `aggregation`.
        group, path: of the shard.
        image_ids: (A,) of its images.
        peaks: (A, 2) integers: place, and patch of the place's grid, row-major.
        device: that computes.

    Returns:
        (A, C) float32 unit vectors, in the order of the ids.
    """
    settings, meta = reader.settings, read_meta(reader.out_paths.fs, path)
    found: dict[int, FloatArray] = {}
    for place in np.unique(peaks[:, 0]).tolist():
        rows = np.flatnonzero(peaks[:, 0] == place).tolist()
        ids = [image_ids[row] for row in rows]
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
    return np.stack([found[row] for row in range(len(image_ids))])
