"""Steps of the search for repeated defects on a scoring worker, one shard at a time; `driver` orders them."""

import math
import threading
from collections.abc import Callable, Sequence
from typing import Any

import fsspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musc_ray.core.defect_groups import communities
from musc_ray.core.kept_patches import KeptPatches
from musc_ray.core.known_good import NearestGood
from musc_ray.core.nearest_images import NearestImages
from musc_ray.core.patch_scores import Part, patch_scores, summarise
from musc_ray.core.pending_distances import MAX_EXACT_REFERENCES, SUMMARY_CHUNK
from musc_ray.core.repeated_defects import (
    KEPT_IMAGES,
    Links,
    defect_patches,
    far_histogram,
    links,
    with_margin,
)
from musc_ray.core.tile_product import multiply_tile
from musc_ray.scoring.kept_grid import off_grid
from musc_ray.scoring.ring import GroupImages
from musc_ray.scoring.shard_cache import ShardCache
from musc_ray.storage.arrays import read_array, write_array
from musc_ray.storage.known_good_arrays import read_nearest_good
from musc_ray.storage.paths import RunPaths

Flags = npt.NDArray[np.bool_]


class ArrayCache:
    """Arrays of whole groups, each read once per worker: every shard's step needs them."""

    def __init__(self, fs: fsspec.AbstractFileSystem) -> None:
        self.fs = fs
        self._arrays: dict[str, npt.NDArray[Any]] = {}
        self._lock = threading.Lock()

    def read(self, path: str) -> npt.NDArray[Any]:
        """Return an array; the file must not change afterwards."""
        with self._lock:
            if path not in self._arrays:
                self._arrays[path] = read_array(self.fs, path)
            return self._arrays[path]


class DefectWorker:
    """The steps on one group's shards.

    Args:
        run_paths: of the run.
        images: the group.
        arrays: keeps the arrays of whole groups between calls.
    """

    def __init__(self, run_paths: RunPaths, images: GroupImages, arrays: ArrayCache) -> None:
        self.run_paths, self.images, self.arrays = run_paths, images, arrays
        self.folder = run_paths.repeats(images.group)

    def far_histograms(self, number: int, layers: Sequence[int]) -> npt.NDArray[np.int64]:
        """Count a shard's patches by d_far: (layers, FAR_BINS) int64."""
        return np.stack([far_histogram(self._array(self.run_paths.far, layer, number)) for layer in layers])

    def link(self, number: int, layers: Sequence[int], thresholds: Sequence[float]) -> None:
        """Find and store the links of a shard's patches."""
        of_layers = [
            (
                NearestImages(self._array(self.run_paths.nearest, layer, number)),
                self._array(self.run_paths.far, layer, number),
                self._array(self.run_paths.band, layer, number),
            )
            for layer in layers
        ]
        found = links(of_layers, thresholds, self.images.shards[number].first)
        stored = np.stack([found.images, found.patches, found.others])
        write_array(self.run_paths.fs, self._path("links", number), stored)

    def find_communities(self, seed: int) -> int:
        """Find and store the communities of the group's images; returns their number."""
        edges = [self._links(shard.number).edges() for shard in self.images.ring]
        labels = communities(edges, self.images.images, seed)
        write_array(self.run_paths.fs, f"{self.folder}/labels.npy", labels)
        return int(labels.max())

    def mark(self, number: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Find and store the patches of a shard that hold its images' defects.

        Returns:
            The community of each image (A,), 0 if it has no such patches, and the number of patches of each community.
        """
        shard, labels = self.images.shards[number], self.arrays.read(f"{self.folder}/labels.npy")
        marks = defect_patches(self._links(number), labels, shard.positions, self.images.grid, KEPT_IMAGES)
        write_array(self.run_paths.fs, self._path("marks", number), marks)
        own, counts = labels[shard.slice], marks.sum(axis=1)
        patches = np.bincount(own, weights=counts, minlength=int(labels.max()) + 1).astype(np.int64)
        return np.where(counts > 0, own, 0).astype(np.int32), patches

    def defects(self, number: int) -> tuple[npt.NDArray[np.int32], Flags]:
        """Return the defect of each of a shard's images (A,), 0 for none, and the patches that hold it (A, L).

        Images aside, the last ones of a shard, share none: they are nobody's reference.
        """
        shard, ring = self.images.shards[number], self.images.ring
        mutual = len(shard.ids) - shard.aside
        first = sum(len(other.ids) - other.aside for other in ring[: ring.index(shard)])
        found, marks = np.zeros(len(shard.ids), np.int32), np.zeros((len(shard.ids), math.prod(self.images.grid)), bool)
        if mutual:
            found[:mutual] = self._defects()[first : first + mutual]
            marks[:mutual] = read_array(self.run_paths.fs, self._path("marks", number))
        return found, marks & (found > 0)[:, None]

    def excluded(self, number: int, kept: KeptPatches | None = None) -> Flags:
        """Choose the patches (A, L), or of kept ones (A, K), to exclude: defects with their margin; never all."""
        wide = with_margin(self.defects(number)[1], self.images.grid)
        if kept is not None:
            wide = kept.gather(wide)
        wide[wide.all(axis=1)] = False
        return wide

    def affected_images(self, number: int) -> list[int]:
        """List the shard's images that have a repeated defect or are linked to one that has."""
        shard, has_one = self.images.shards[number], self._defects() > 0
        found = self._links(number)
        linked = found.images[has_one[found.others]] - shard.first
        return sorted({*np.flatnonzero(has_one[shard.slice]).tolist(), *linked.tolist()})

    def score_again(self, number: int, layer: int, cache: ShardCache, dtype: torch.dtype) -> int:
        """Score affected images of a shard against all their references without the patches of repeated defects.

        Args:
            number: the shard.
            layer: layer of its band.
            cache: reads and prepares images.
            dtype: dtype of distances.

        Returns:
            How many images were scored again; if any, the new band is stored.
        """
        shard, window, group = self.images.shards[number], self.images.window, self.images.group
        whole, radius = self.images.sets[0], self.images.radius
        rows = self.affected_images(number)
        if not rows:
            return 0
        product_dtype = cache.product_dtype(group, window.images)
        ids = {number: [shard.ids[row] for row in rows]}
        kept = cache.kept.of(group, ids, whole)
        own = cache.prepare((group, layer), ids, whole, product_dtype, radius, kept)
        parts: list[Part] = []
        columns = 0
        for other in self.images.ring:
            if not window.touches(shard.positions, other.positions):
                continue
            its = cache.kept.of(group, {other.number: other.ids}, whole)
            right = cache.prepare((group, layer), {other.number: other.ids}, whole, product_dtype, radius, its)
            right.exclude(torch.from_numpy(self.excluded(other.number, its)))
            scored = torch.from_numpy(window.contains(shard.positions, other.positions)[rows])
            parts.append(multiply_tile(own, right, dtype, scored)[0])
            columns += len(other.ids)
            if window.references > MAX_EXACT_REFERENCES and columns >= SUMMARY_CHUNK:
                parts, columns = [summarise(parts)], 0
        good = None
        if self.images.known_good:
            nearest = read_nearest_good(self.run_paths, (group, layer, number, whole.number))
            good = NearestGood(off_grid(nearest[:, rows], kept), self.images.known)
        scores, _ = patch_scores(parts, window.references, cache.settings.interval, cache.device, good)
        band = read_array(self.run_paths.fs, self.run_paths.band(group, layer, number))
        band[rows] = scores.numpy() if kept is None else kept.spread(scores.numpy(), np.nan)
        write_array(self.run_paths.fs, self.run_paths.rescored_band(group, layer, number), band)
        return len(rows)

    def _defects(self) -> npt.NDArray[np.int32]:
        """Return the number of each image's defect, (N,) along the ring; 0 for none."""
        return self.arrays.read(f"{self.folder}/defects.npy")

    def _links(self, number: int) -> Links:
        return Links(*read_array(self.run_paths.fs, self._path("links", number)))

    def _path(self, kind: str, number: int) -> str:
        return f"{self.folder}/{kind}/shard-{number:05d}.npy"

    def _array(self, path: Callable[[str, int, int], str], layer: int, number: int) -> Tensor:
        return torch.from_numpy(read_array(self.run_paths.fs, path(self.images.group, layer, number)))
