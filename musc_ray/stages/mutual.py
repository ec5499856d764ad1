"""Stage 3, features -> bands: every tile (pair of shards) is multiplied once and serves both of its shards.

A band is one shard's rows: its patch scores for one layer. It is reduced and written as soon as its last tile is there,
and a band that is written is never computed again: bands are the unit of resume.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import ray
import torch

from musc_ray.core.interval import interval_average
from musc_ray.stages.cluster import Actor, run_on_actors
from musc_ray.storage.filesystem import atomic_file
from musc_ray.storage.layout import Layout

FloatArray = npt.NDArray[np.floating]

BAND_VALUES_AT_ONCE = 2**26
"""Distances sorted at a time when a band is reduced."""


@dataclass(frozen=True)
class GroupImages:
    """The images of a group that are scored among themselves: ids by shard number."""

    group: str
    shards: Mapping[int, Sequence[str]]

    @property
    def images(self) -> int:
        """N of the formulas."""
        return sum(len(ids) for ids in self.shards.values())


@dataclass(frozen=True)
class TileTask:
    """One tile of one layer: shards a <= b of a group."""

    images: GroupImages
    layer: int
    a: int
    b: int


@dataclass
class Band:
    """A band in the making: references to the tiles that are there, and how many are still to come."""

    awaited: set[int]
    parts: list[Any] = field(default_factory=list)

    def add(self, shard: int, part: Any) -> bool:
        """Take the minima against another shard; whether that was the last one."""
        self.parts.append(part)
        self.awaited.discard(shard)
        return not self.awaited


def tiles_of(images: GroupImages, layer: int, done: set[int]) -> Iterator[TileTask]:
    """The tiles that the unfinished bands of a layer need; neighbours in the order share a shard."""
    numbers = sorted(images.shards)
    for row, a in enumerate(numbers):
        for b in numbers[row:]:
            if a not in done or b not in done:
                yield TileTask(images, layer, a, b)


def finished_bands(layout: Layout, run_id: str, images: GroupImages, layer: int) -> set[int]:
    """Shards whose band of this layer is already written."""
    return {shard for shard in images.shards if layout.fs.exists(layout.band(run_id, images.group, layer, shard))}


def reduce_band(parts: Sequence[FloatArray], references: int, interval: tuple[float, float]) -> FloatArray:
    """Interval average of one shard's rows, mean over degrees.

    Args:
        parts: minima (D, A, L, B) against every shard of the group, own pairs +inf.
        references: N - 1.
        interval: share of the sorted distances.

    Returns:
        (A, L) float32.
    """
    degrees, images, length, _ = parts[0].shape
    values = length * sum(part.shape[3] for part in parts)
    step = max(1, BAND_VALUES_AT_ONCE // values)
    total = torch.zeros(images, length, dtype=torch.float64)
    for d in range(degrees):
        for start in range(0, images, step):
            rows = np.concatenate([part[d, start : start + step] for part in parts], axis=2)
            total[start : start + step] += interval_average(torch.from_numpy(rows), references, interval)
    band: FloatArray = (total / degrees).float().numpy()
    return band


def write_band(layout: Layout, path: str, scores: FloatArray) -> None:
    """Store a band's patch scores atomically."""
    with atomic_file(layout.fs, path) as partial, partial.open("wb") as file:
        np.save(file, scores, allow_pickle=False)


def read_band(layout: Layout, path: str) -> FloatArray:
    """Patch scores (A, L) float32 of a band."""
    with layout.fs.open(path, "rb") as file:
        scores: FloatArray = np.load(file, allow_pickle=False)
    return scores


def mutual(
    layout: Layout, run_id: str, images: GroupImages, layers: Sequence[int], actors: Sequence[Actor]
) -> Iterator[int]:
    """Compute all bands of a group, one layer after the other; yields 1 for every tile done.

    The driver holds references only; distances go from scorer to scorer through the object store.
    """
    for layer in layers:
        done = finished_bands(layout, run_id, images, layer)
        unfinished = set(images.shards) - done
        bands = {shard: Band(set(images.shards)) for shard in unfinished}
        reducing: list[Any] = []

        def submit(actor: Actor, task: TileTask) -> list[Any]:
            refs: list[Any] = actor.tile.options(num_returns=2).remote(task)
            return refs

        for task, (rows, columns) in run_on_actors(actors, tiles_of(images, layer, done), submit):
            parts = {(task.a, task.b): rows, (task.b, task.a): columns}  # alike for a diagonal tile
            for (shard, other), part in parts.items():
                if shard in bands and bands[shard].add(other, part):
                    actor = actors[len(reducing) % len(actors)]
                    reducing.append(actor.band.remote(images, layer, shard, *bands.pop(shard).parts))
            yield 1
        ray.get(reducing)
