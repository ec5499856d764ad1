"""Find defects that many images share, and score the affected images again without them (`core/repeated_defects.py`).

Runs between the mutual stage and the patch maps if `repeated_defects` is set. Workers process one shard at a time and
store what they find: the distribution of d_far; links of the shard's patches; communities of the group's images, from
all links; the defects' patches; new bands. The driver holds counts, and one number per image. Only images that have a
repeated defect, or are linked to one that has, are scored again: no other image has suspicious patches near to those
that are excluded.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from musc_ray.core.defect_groups import FAR_BINS, MIN_IMAGES, far_threshold
from musc_ray.runtime.pool import Pool
from musc_ray.scoring.ring import GroupImages
from musc_ray.storage.arrays import write_array
from musc_ray.storage.paths import RunPaths


@dataclass(frozen=True)
class DefectStep:
    """A step on one shard of a group: a method of DefectWorker."""

    name: str
    shard: int
    arguments: tuple[Any, ...] = ()


def find_defects(
    pool: Pool, run_paths: RunPaths, group: GroupImages, layers: Sequence[int], seed: int
) -> list[dict[str, int]]:
    """Find the repeated defects of a group whose bands are written; score its affected images again.

    Returns:
        Its defects: number, images that have it, and patches of theirs that hold it, without margin.
    """
    stored = pool.executor.put(group)

    def run(steps: Iterable[DefectStep]) -> Iterator[tuple[DefectStep, Any]]:
        return pool.map(iter(steps), lambda worker, step: worker.call("defect_step", stored, step))

    def each_shard(name: str, *arguments: Any) -> Iterator[tuple[DefectStep, Any]]:
        return run(DefectStep(name, shard.number, arguments) for shard in group.ring)

    histograms = np.zeros((len(layers), FAR_BINS), np.int64)
    for _, counts in each_shard("far_histograms"):
        histograms += counts
    thresholds = tuple(far_threshold(histogram) for histogram in histograms)
    for _ in each_shard("link", thresholds):
        pass
    count = next(result for _, result in run([DefectStep("find_communities", 0, (seed,))]))
    labels, patches = np.zeros(group.images, np.int32), np.zeros(count + 1, np.int64)
    for step, (of_images, of_patches) in each_shard("mark"):
        labels[group.shards[step.shard].slice] = of_images
        patches += of_patches
    images = np.bincount(labels, minlength=count + 1)
    numbers = _numbers(images)
    write_array(run_paths.fs, f"{run_paths.repeats(group.group)}/defects.npy", numbers[labels])
    for _ in run(_unfinished(run_paths, group, layers)):
        pass
    found = [
        {"defect_group": int(numbers[label]), "images": int(images[label]), "patches": int(patches[label])}
        for label in np.flatnonzero(numbers)
    ]
    return sorted(found, key=lambda row: row["defect_group"])


def _numbers(images: np.ndarray) -> np.ndarray:
    """Number the communities' defects, 1 = most images; 0 if fewer than MIN_IMAGES have it: (labels,) int32."""
    order = sorted((label for label in range(1, len(images)) if images[label] >= MIN_IMAGES), key=lambda x: -images[x])
    numbers = np.zeros(len(images), np.int32)
    numbers[order] = np.arange(1, len(order) + 1)
    return numbers


def _unfinished(run_paths: RunPaths, group: GroupImages, layers: Sequence[int]) -> Iterator[DefectStep]:
    """Yield a step for each band that has not been scored again."""
    for layer in layers:
        done = run_paths.out.written_shards(run_paths.rescored_bands(group.group, layer))
        for shard in group.ring:
            if shard.number not in done:
                yield DefectStep("score_again", shard.number, (layer,))
