"""The range of deep pixels of each group: found once from a sample of its images, then the same for all of them."""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import NamedTuple

from musc_ray.errors import ImageError, MuscRayError
from musc_ray.features.workspace import Workspace
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.decoding import sample_image
from musc_ray.sources.deep import DeepSample, Range, Rule, find_range
from musc_ray.sources.images import CatalogImage
from musc_ray.sources.reading import read_image
from musc_ray.storage.conditional import create, read_version
from musc_ray.storage.filesystem import read_json
from musc_ray.storage.retry import PERMANENT, with_retries

SAMPLE_IMAGES = 16
MAX_THREADS = 8
"""Images of a sample, and how many are decoded at the same time."""

EIGHT_BITS = frozenset(("avif", "bmp", "dib", "gif", "jfif", "jif", "jpe", "jpeg", "jpg", "webp"))
"""Suffixes of formats that are decoded to 8 bits; images of other names may be deep."""


class FoundRange(NamedTuple):
    """The range of a group, and how it was found; "" where the setting gives it."""

    range: Range
    found: str


def group_ranges(workspace: Workspace, listed: Mapping[str, Sequence[CatalogImage]]) -> dict[str, FoundRange]:
    """Find the range of each group that holds deep images: stored ones first, then from a sample.

    What is found, or that there is none, is stored beside the group's features: later runs on more images use the same.

    Args:
        workspace: the OUT; with `overwrite`, what is stored there is found again.
        listed: images by group.

    Raises:
        StorageError: the storage did not answer.
        MuscRayError: a stored range is broken.
    """
    given = workspace.settings.intensity
    if isinstance(given, tuple):
        return dict.fromkeys(listed, FoundRange(Range(*given), ""))
    ranges = {name: _group_range(workspace, given, name, images) for name, images in listed.items()}
    return {name: found for name, found in ranges.items() if found is not None}


def stated(ranges: Mapping[str, FoundRange]) -> dict[str, tuple[float, float]]:
    """Return the ranges as run.json and the run id hold them."""
    return {name: (found.range.low, found.range.high) for name, found in ranges.items()}


def _group_range(workspace: Workspace, rule: Rule, group: str, images: Sequence[CatalogImage]) -> FoundRange | None:
    candidates = [image for image in images if image.uri.rpartition(".")[2].lower() not in EIGHT_BITS]
    if not candidates:
        return None
    out_paths = workspace.out_paths
    path = out_paths.intensity(workspace.meta.features_id, group)
    if workspace.settings.overwrite:
        if read_version(out_paths.fs, path) is not None:
            with_retries(lambda: out_paths.fs.rm_file(path), f"remove {path}")
    elif (stored := read_json(out_paths.fs, path)) is not None:
        return _parsed(stored, path)
    samples = sample_group(candidates, workspace.settings.image_limits)
    if not samples:  # nothing is known of a group whose sample cannot be read
        return None
    content: dict[str, object] = {"range": None}
    deep = [sample for sample in samples if sample is not None]
    if deep:
        found, how = find_range(deep, rule)
        content = {"range": asdict(found), "found": how}
    if not create(out_paths.fs, path, json.dumps(content, indent=2).encode()):  # another run was faster
        content = read_json(out_paths.fs, path) or content
    return _parsed(content, path)


def sample_group(images: Sequence[CatalogImage], limits: ImageLimits) -> list[DeepSample | None]:
    """Read the sample of a group: its first images by id, which is a hash; None for 8-bit ones.

    Images that cannot be read are left out: extraction says why.

    Raises:
        StorageError: the storage did not answer.
    """

    def sample(image: CatalogImage) -> list[DeepSample | None]:
        try:
            return [sample_image(read_image(image.uri, limits.bytes), limits.pixels)]
        except (ImageError, MemoryError, *PERMANENT):
            return []

    with ThreadPoolExecutor(MAX_THREADS) as pool:
        return [found for part in pool.map(sample, sorted(images)[:SAMPLE_IMAGES]) for found in part]


def _parsed(content: Mapping[str, object], path: str) -> FoundRange | None:
    try:
        stored = content["range"]
        if stored is None:
            return None
        if not isinstance(stored, dict):
            raise TypeError(f"its range is {stored!r}")
        return FoundRange(Range(**stored), str(content["found"]))
    except (LookupError, TypeError) as error:
        raise MuscRayError(f"{path} is not a range of intensities ({error}): delete it and run again.") from error
