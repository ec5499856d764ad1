"""What scorers do for repeated defects, a shard at a time; `repeats` puts it in order."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musc_ray.core.bands import CONDENSE_COLUMNS, EXACT_REFERENCES, Part, condense, patch_scores
from musc_ray.core.mutual import tile_minima
from musc_ray.core.nearest import Nearest
from musc_ray.core.prepared import PreparedShard
from musc_ray.core.repeats import (
    NEIGHBOURS,
    Links,
    communities,
    defect_patches,
    far_histogram,
    links,
    with_margin,
)
from musc_ray.stages.bands import read_array, write_array
from musc_ray.stages.ring import GroupImages, RingShard
from musc_ray.storage.layout import Layout

Flags = npt.NDArray[np.bool_]


class RepeatsWork:
    """The steps on one group's shards."""

    def __init__(self, layout: Layout, run_id: str, images: GroupImages, grid: tuple[int, int]) -> None:
        self.layout, self.run_id, self.images, self.grid = layout, run_id, images, grid
        self.folder = layout.repeats(run_id, images.group)

    def far_histograms(self, number: int, layers: Sequence[int]) -> npt.NDArray[np.int64]:
        """How d_far is distributed in a shard, (layers, FAR_BINS)."""
        return np.stack([far_histogram(self._array(self.layout.far, layer, number)) for layer in layers])

    def link(self, number: int, layers: Sequence[int], thresholds: Sequence[float]) -> None:
        """Find and store the links of a shard's patches."""
        of_layers = [
            (
                Nearest(self._array(self.layout.nearest, layer, number)),
                self._array(self.layout.far, layer, number),
                self._array(self.layout.band, layer, number),
            )
            for layer in layers
        ]
        found = links(of_layers, thresholds, self.images.shards[number].first)
        write_array(self.layout, self._path("links", number), np.stack([found.images, found.patches, found.others]))

    def group(self, seed: int) -> int:
        """Find and store the communities of all images; returns how many there are."""
        edges = [self._links(shard.number).edges() for shard in self.images.ring]
        labels = communities(edges, self.images.images, seed)
        write_array(self.layout, f"{self.folder}/labels.npy", labels)
        return int(labels.max())

    def mark(self, number: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """Find and store the patches of a shard that hold its images' defects.

        Returns:
            The community of each image that has such patches, and how many patches each community has.
        """
        shard, labels = self.images.shards[number], read_array(self.layout, f"{self.folder}/labels.npy")
        marks = defect_patches(self._links(number), labels, shard.positions, self.grid, NEIGHBOURS)
        write_array(self.layout, self._path("marks", number), marks)
        own = labels[shard.first : shard.positions.stop]
        weights = marks.sum(axis=1)
        patches = np.bincount(own, weights=weights, minlength=int(labels.max()) + 1).astype(np.int64)
        return own[weights > 0], patches

    def defects(self, number: int) -> tuple[npt.NDArray[np.int32], Flags]:
        """The defect of each of a shard's images (A,), 0 for none, and the patches that hold it (A, L)."""
        shard = self.images.shards[number]
        labels, numbers = (read_array(self.layout, f"{self.folder}/{name}.npy") for name in ("labels", "numbers"))
        marks = read_array(self.layout, self._path("marks", number))
        found = numbers[labels[shard.first : shard.positions.stop]]
        found[~marks.any(axis=1)] = 0
        return found, marks & (found > 0)[:, None]

    def excluded(self, number: int) -> Flags:
        """The patches of a shard that are nobody's nearest: defects and what is around them; never a whole image."""
        wide = with_margin(self.defects(number)[1], self.grid)
        wide[wide.all(axis=1)] = False
        return wide

    def rescore(
        self,
        number: int,
        layer: int,
        load: Callable[[RingShard, Sequence[str]], PreparedShard],
        dtype: torch.dtype,
        interval: tuple[float, float],
        device: torch.device,
    ) -> int:
        """Score a shard's images that have a repeated defect against all their references without such patches.

        Args:
            number: the shard.
            layer: of its band.
            load: reads and prepares some images of a shard.
            dtype: of distances.
            interval, device: see `patch_scores`.

        Returns:
            How many images were scored again; where there are any, the band is stored anew.
        """
        shard, window = self.images.shards[number], self.images.window
        rows = np.flatnonzero(self.defects(number)[0]).tolist()
        if not rows:
            return 0
        own = load(shard, [shard.ids[row] for row in rows])
        parts: list[Part] = []
        columns = 0
        for other in self.images.ring:
            if not window.touches(shard.positions, other.positions):
                continue
            right = load(other, other.ids)
            right.exclude(torch.from_numpy(self.excluded(other.number)))
            scored = torch.from_numpy(window.contains(shard.positions, other.positions)[rows])
            parts.append(tile_minima(own, right, dtype, scored)[0])
            columns += len(other.ids)
            if window.references > EXACT_REFERENCES and columns >= CONDENSE_COLUMNS:
                parts, columns = [condense(parts)], 0
        scores, _ = patch_scores(parts, window.references, interval, device)
        band = read_array(self.layout, self.layout.band(self.run_id, self.images.group, layer, number))
        band[rows] = scores.numpy()
        write_array(self.layout, self.layout.rescored_band(self.run_id, self.images.group, layer, number), band)
        return len(rows)

    def _links(self, number: int) -> Links:
        return Links(*read_array(self.layout, self._path("links", number)))

    def _path(self, kind: str, number: int) -> str:
        return f"{self.folder}/{kind}/shard-{number:05d}.npy"

    def _array(self, path: Callable[[str, str, int, int], str], layer: int, number: int) -> Tensor:
        return torch.from_numpy(read_array(self.layout, path(self.run_id, self.images.group, layer, number)))
