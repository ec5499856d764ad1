"""Stable names: the same input always gets the same id, and anything that changes the values changes the id."""

import hashlib
import json
from collections.abc import Mapping, Sequence

from musc_ray.sources.images import CatalogImage

FEATURES_VERSION = 1
"""Raise it when decoding, preprocessing or token selection changes, so that old and new features are not mixed."""

SCORES_VERSION = 1
"""Raise it when the scoring changes, so that a re-run does not take old bands for its own."""


def features_id(values: Mapping[str, object]) -> str:
    """Return 16 hexadecimal digits over all that changes feature values; see `context.features_values`."""
    return _digest({"version": FEATURES_VERSION, **values})[:16]


def run_id(values: Mapping[str, object], groups: Mapping[str, Sequence[CatalogImage]]) -> str:
    """Return `run-` and 12 hexadecimal digits over what changes scores and over the images as they are grouped.

    Args:
        values: see `context.run_values`.
        groups: images by group: each counts with its group, id and version.
    """
    content = hashlib.sha256()
    for group, images in sorted(groups.items()):
        for image in sorted(images):
            content.update(json.dumps([group, image.image_id, image.version]).encode() + b"\n")
    return "run-" + _digest({"version": SCORES_VERSION, **values, "images": content.hexdigest()})[:12]


def _digest(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
