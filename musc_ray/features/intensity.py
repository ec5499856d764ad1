"""The range of deep pixels of each group: found once from a sample of its images, then the same for all of them."""

import json
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from itertools import islice
from typing import Any, NamedTuple

from musc_ray.errors import ImageError, MuscRayError
from musc_ray.features.workspace import Workspace
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.deep import DeepSample, Range, Rule, find_range
from musc_ray.sources.images import CatalogImage
from musc_ray.sources.reading import read_image
from musc_ray.storage.conditional import create
from musc_ray.storage.filesystem import read_json
from musc_ray.storage.paths import OutPaths
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


def group_ranges(
    workspace: Workspace, listed: Mapping[str, Sequence[CatalogImage]], plain: Collection[str] = ()
) -> dict[str, FoundRange]:
    """Find the range of each group that holds deep images: stored ones first, then from a sample.

    What is found is stored beside the group's features: later runs on more images use the same.

    Args:
        workspace: the OUT; with `overwrite`, what is stored there is found again.
        listed: images by group, in the order of their ids, which are hashes: the first ones are a random sample.
        plain: groups with features that were extracted without a range: they stay without one.

    Raises:
        StorageError: the storage did not answer.
        MuscRayError: a stored range is broken.
    """
    given = workspace.settings.intensity
    if isinstance(given, tuple):
        return dict.fromkeys(listed, FoundRange(Range(*given), ""))
    kept = () if workspace.settings.overwrite else plain
    ranges = {name: _group_range(workspace, given, name, images, name in kept) for name, images in listed.items()}
    return {name: found for name, found in ranges.items() if found is not None}


def stored_range(out_paths: OutPaths, features_id: str, group: str, bounds: tuple[float, float]) -> Range:
    """Return the range of a group's deep pixels whose bounds a run's manifest states, its kind included.

    Raises:
        MuscRayError: the stored range is broken.
    """
    path = out_paths.intensity(features_id, group)
    stored = read_json(out_paths.fs, path)
    found = None if stored is None else _parsed(stored, path).range
    return found if found is not None and (found.low, found.high) == bounds else Range.stated(*bounds)


def stated(ranges: Mapping[str, FoundRange]) -> dict[str, tuple[float, float]]:
    """Return the ranges as run.json and the run id hold them."""
    return {name: (found.range.low, found.range.high) for name, found in ranges.items()}


def _group_range(
    workspace: Workspace, rule: Rule, group: str, images: Sequence[CatalogImage], is_plain: bool
) -> FoundRange | None:
    candidates = (image for image in images if image.uri.rpartition(".")[2].lower() not in EIGHT_BITS)
    sample = list(islice(candidates, SAMPLE_IMAGES))
    if not sample:
        return None
    fs, path = workspace.out_paths.fs, workspace.out_paths.intensity(workspace.meta.features_id, group)
    stored = read_json(fs, path)
    if stored is not None and not workspace.settings.overwrite:
        return _parsed(stored, path)
    if is_plain:
        return None
    if stored is not None:
        with_retries(lambda: fs.rm_file(path), f"remove {path}")
    deep = read_sample(sample, workspace.settings.image_limits)
    if not deep:
        return None
    found = FoundRange(*find_range(deep, rule))
    content = json.dumps({"range": asdict(found.range), "found": found.found}, indent=2)
    if create(fs, path, content.encode()):
        return found
    return _parsed(read_json(fs, path) or {}, path)  # another run was faster


def read_sample(images: Sequence[CatalogImage], limits: ImageLimits) -> list[DeepSample]:
    """Read images of a group, return what is deep of them.

    Images that cannot be read are left out: extraction says why.

    Raises:
        StorageError: the storage did not answer.
    """

    from musc_ray.sources.decoding import sample_image  # here: a run that continues has its ranges

    def read(image: CatalogImage) -> DeepSample | None:
        try:
            return sample_image(read_image(image.uri, limits.bytes), limits.pixels)
        except (ImageError, MemoryError, *PERMANENT):
            return None

    with ThreadPoolExecutor(MAX_THREADS) as pool:
        return [found for found in pool.map(read, images) if found is not None]


def _parsed(content: Mapping[str, Any], path: str) -> FoundRange:
    try:
        return FoundRange(Range(**content["range"]), str(content["found"]))
    except (LookupError, TypeError) as error:
        raise MuscRayError(f"{path} is not a range of intensities ({error}): delete it and run again.") from error
