"""Stable names: the same input always gets the same id, and anything that changes the values changes the id."""

import hashlib
import json
from collections.abc import Iterable, Mapping

FEATURES_VERSION = 1
"""Raised when decoding, preprocessing or token selection changes, so that old features are not mixed with new ones."""

SCORES_VERSION = 1
"""Raised when the scoring changes, so that a re-run does not take old bands for its own."""


def features_id(values: Mapping[str, object]) -> str:
    """16 hexadecimal digits over all that changes feature values (backbone, weights, image size, layers, precision)."""
    return _digest({"version": FEATURES_VERSION, **values})[:16]


def run_id(values: Mapping[str, object], images: Iterable[tuple[str, str]]) -> str:
    """`run-` and 12 hexadecimal digits over the scoring settings and the (image_id, version) pairs that are scored."""
    content = hashlib.sha256()
    for pair in sorted(images):
        content.update("\0".join(pair).encode("utf-8", "surrogateescape") + b"\n")
    return "run-" + _digest({"version": SCORES_VERSION, **values, "images": content.hexdigest()})[:12]


def _digest(values: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
