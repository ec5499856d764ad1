"""Salient features of crops: each from the tokens of its own place, against loops in float64."""

import numpy as np
import pytest
import torch

from musc_ray.features.layer_reader import LayerReader
from musc_ray.scoring.salient import salient_features_of
from tests.helpers import brute_force
from tests.helpers.generated import DEFAULTS, crop_features, crop_grid, generated_archive, group_features

SPEC = {**DEFAULTS, "images": 6, "grid": [4, 5], "layers": 3, "shard_size": 6}
PLACES, DEGREES = 2, (1, 3)
PEAKS = np.array([[2, 3], [0, 19], [1, 0], [2, 15], [0, 0], [1, 7]])  # place and patch of each image


@pytest.mark.parametrize("aggregation", ["lnamd", "snamd"])
def test_features_of_the_given_places_and_patches(tmp_path, aggregation):
    settings = {"crops": "1x2", "degrees": DEGREES, "aggregation": aggregation}
    context, groups = generated_archive(str(tmp_path), SPEC | {"settings": settings})
    reader = LayerReader(context.out_paths, "generated", context.settings, context.meta.layers)
    meta = context.meta_of("group-0")
    found = salient_features_of(reader, "group-0", groups[0].ring[0], meta, PEAKS, torch.device("cpu"))
    _, _, wholes = group_features(SPEC, 0, range(6))
    crops = crop_features(SPEC, 0, range(6), PLACES)[1].reshape(6, PLACES, -1, SPEC["channels"])
    for image, (place, patch) in enumerate(PEAKS):
        tokens, grid = (wholes[1][image], (4, 5)) if place == 0 else (crops[image, place - 1], crop_grid(SPEC))
        if aggregation == "snamd":
            vector = brute_force.snamd(tokens[None], grid, DEGREES)[0, patch]
        else:
            parts = [brute_force.lnamd(tokens[None], grid, degree)[0, patch] for degree in DEGREES]
            vector = np.concatenate(parts) / len(DEGREES) ** 0.5
        np.testing.assert_allclose(found[image], vector, atol=1e-5)
