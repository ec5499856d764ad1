"""Ids of features and runs: the same input gets the same id, and whatever changes values changes the id.

Which settings enter an id follows from what their fields in `Settings` affect.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence

from musc_ray.backbones.shape import BackboneInfo
from musc_ray.features.arithmetic import Arithmetic
from musc_ray.settings.model import Settings
from musc_ray.settings.values import identity_values
from musc_ray.sources.images import CatalogImage

FEATURES_VERSION = 1
"""Raise it when decoding, preprocessing or token selection changes, so that old and new features are not mixed."""

SCORES_VERSION = 1
"""Raise it when the scoring changes, so that a re-run does not take old bands for its own."""

AGGREGATION_VERSIONS = {"snamd": 2}
"""The same for what changes one aggregation alone: runs with another one keep their ids.

snamd 2: without a LayerNorm over the image before it.
"""


def features_values(
    settings: Settings, info: BackboneInfo, weights_sha256: str, arithmetic: Arithmetic
) -> dict[str, object]:
    """Return what the features id is made from: the settings that affect features, as resolved.

    The device is not part of it: features may be extracted on GPU nodes and scored elsewhere. Where shapes are kept the
    image size is one number: each group has as many patches as a square of this side. Which groups `compress: auto`
    leaves as they are is found of each, so that the number format stays `auto`.
    """
    values = identity_values(settings, "features")
    size = info.image_size[0] if settings.keeps_shape else info.image_size
    values |= {"backbone": info.name, "image_size": size, "layers": info.layers}
    values["model_precision"] = arithmetic.model_precision
    dtype = settings.stored_dtype(compressed=False) if settings.compress == "none" else settings.feature_dtype
    values["dtype"] = dtype  # the name that ids were made with
    del values["feature_dtype"]
    del values["weights"]
    return {**values, "weights_sha256": weights_sha256}


def run_values(
    settings: Settings,
    features_id: str,
    arithmetic: Arithmetic,
    groups: Mapping[str, Sequence[CatalogImage]],
    earlier: Mapping[str, frozenset[str]] | None,
    found: Mapping[str, Mapping[str, object]],
) -> dict[str, object]:
    """Return what the run id is made from beside the images: the settings that affect scores, as resolved.

    In a nightly run which images are earlier ones, and whether they get scores, is part of it; so is what was found of
    groups by looking at their images, each under its name: `intensity` of those with deep pixels, `image_sizes`
    of those whose shape is kept, `crops` of those whose images are cut.
    """
    values = identity_values(settings, "scores") | {"features_id": features_id}
    values |= arithmetic.identity(max(map(len, groups.values()), default=0))
    if settings.aggregation in AGGREGATION_VERSIONS:
        values["aggregation_version"] = AGGREGATION_VERSIONS[settings.aggregation]
    values |= {name: dict(of_groups) for name, of_groups in found.items() if of_groups}
    if earlier is not None:
        ids = {group: sorted(images) for group, images in earlier.items()}
        values |= {"earlier": ids, "rescore_window": settings.rescore_window}
    return values


def features_id(values: Mapping[str, object]) -> str:
    """Return 16 hexadecimal digits over all that changes feature values; see `features_values`."""
    return _digest({"version": FEATURES_VERSION, **values})[:16]


def run_id(values: Mapping[str, object], groups: Mapping[str, Sequence[CatalogImage]]) -> str:
    """Return `run-` and 12 hexadecimal digits over what changes scores and over the images as they are grouped.

    Args:
        values: see `run_values`.
        groups: images by group: each counts with its group, id and version.
    """
    content = hashlib.sha256()
    for group, images in sorted(groups.items()):
        for image in sorted(images):
            content.update(json.dumps([group, image.image_id, image.version]).encode() + b"\n")
    return "run-" + _digest({"version": SCORES_VERSION, **values, "images": content.hexdigest()})[:12]


def _digest(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
