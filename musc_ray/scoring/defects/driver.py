"""Between mutual and reduce, where `repeated_defects` is set: finds defects that many images share (`core/repeats.py`),
and scores the images that have one again, against all their references without the patches that hold one.

Shards are worked on by scorers, which leave what they found on storage: how d_far is distributed; links of the shard's
patches; communities of a group's images, from all links; the defects' patches; bands scored again. The driver holds
counts, and a number an image. What is scored again are only the rows of images that have a repeated defect, or are
linked to one that has: no others have suspicious patches near to those that are taken out.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from musc_ray.core.repeated_defects import FAR_BINS, MIN_IMAGES, far_threshold
from musc_ray.runtime.pool import Pool
from musc_ray.scoring.ring import GroupImages
from musc_ray.storage.arrays import write_array
from musc_ray.storage.paths import RunPaths


@dataclass(frozen=True)
class ShardStep:
    """A step of the stage on one shard; `method` of the scorer does it."""

    method: str
    images: GroupImages
    shard: int
    arguments: tuple[Any, ...] = ()


def find_repeats(
    pool: Pool, run_paths: RunPaths, group: GroupImages, layers: Sequence[int], seed: int
) -> list[dict[str, int]]:
    """Find and cure the repeated defects of a group whose bands are there.

    Returns:
        Its defects: number, how many images have it, and how many patches of them hold it, without margin.
    """
    histograms = np.zeros((len(layers), FAR_BINS), np.int64)
    for _, counts in _each_shard(pool, "far_histograms", group):
        histograms += counts
    thresholds = tuple(far_threshold(histogram) for histogram in histograms)
    for _ in _each_shard(pool, "link", group, thresholds):
        pass
    largest = next(result for _, result in pool.map(iter([ShardStep("group", group, 0, (seed,))]), _call))
    labels, patches = np.zeros(group.images, np.int32), np.zeros(largest + 1, np.int64)
    for step, (of_images, of_patches) in _each_shard(pool, "mark", group):
        labels[group.shards[step.shard].slice] = of_images
        patches += of_patches
    images = np.bincount(labels, minlength=largest + 1)
    numbers = _numbers(images)
    write_array(run_paths.fs, f"{run_paths.repeats(group.group)}/defects.npy", numbers[labels])
    for _ in pool.map(_unfinished(run_paths, group, layers), _call):
        pass
    found = [
        {"defect_group": int(numbers[label]), "images": int(images[label]), "patches": int(patches[label])}
        for label in np.flatnonzero(numbers)
    ]
    return sorted(found, key=lambda row: row["defect_group"])


def _each_shard(pool: Pool, method: str, group: GroupImages, *arguments: Any) -> Iterator[tuple[Any, Any]]:
    steps = (ShardStep(method, group, shard.number, arguments) for shard in group.ring)
    return pool.map(steps, _call)


def _call(actor: Any, step: ShardStep) -> Any:
    return actor.repeats.remote(step)


def _numbers(images: np.ndarray) -> np.ndarray:
    """The number of each community's defect, int32, that of most images is 1; 0 where too few images have it."""
    order = sorted((label for label in range(1, len(images)) if images[label] >= MIN_IMAGES), key=lambda x: -images[x])
    numbers = np.zeros(len(images), np.int32)
    numbers[order] = np.arange(1, len(order) + 1)
    return numbers


def _unfinished(run_paths: RunPaths, group: GroupImages, layers: Sequence[int]) -> Iterator[ShardStep]:
    """Every band that is to be scored again and has not been."""
    for layer in layers:
        done = run_paths.out.written_shards(run_paths.rescored_bands(group.group, layer))
        for shard in group.ring:
            if shard.number not in done:
                yield ShardStep("rescore", group, shard.number, (layer,))
