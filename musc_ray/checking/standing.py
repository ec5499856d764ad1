"""What the raw scores of checked images mean beside those of their group: rescored, p-value, rank, similar images."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch

from musc_ray.checking.query import Query
from musc_ray.checking.results import Neighbour, Standing
from musc_ray.checking.stored_group import StoredGroup
from musc_ray.core.crops import CropLayout
from musc_ray.core.rescoring import neighbourhood_sizes, similar_images, weighted_scores
from musc_ray.core.rscon import features_at, salient_layer
from musc_ray.core.stitching import crop_patches
from musc_ray.core.threshold import is_anomalous, suggest_threshold
from musc_ray.features.layer_reader import LayerReader
from musc_ray.scoring.patch_maps import ImageMaps, peaks_of
from musc_ray.scoring.ring import RingShard
from musc_ray.scoring.salient import salient_features_of
from musc_ray.storage.complete_runs import complete_runs
from musc_ray.storage.manifest import RunManifest
from musc_ray.storage.scores import MAX_READS, numbers, read_scores
from musc_ray.storage.shards import read_class_tokens

FloatArray = npt.NDArray[np.float32]

MAX_LISTED = 3
"""Similar images that are named."""


@dataclass(frozen=True)
class StoredScores:
    """Scores of a group's images: ids (N,), raw and rescored scores (N,), and where asked for peaks (N, 2)."""

    ids: npt.NDArray[np.str_]
    raw: FloatArray
    score: FloatArray
    peaks: npt.NDArray[np.int64] | None = None

    @property
    def row_of(self) -> dict[str, int]:
        """Map ids to rows."""
        return {str(image_id): row for row, image_id in enumerate(self.ids)}


class GroupStanding:
    """Compares images with the stored scores and class tokens of a group."""

    def __init__(self, group: StoredGroup, reader: LayerReader, device: torch.device) -> None:
        self.group, self.reader, self.device = group, reader, device
        self.scores = read_stored_scores(group, with_peaks=group.run.settings.rescoring == "rscon")

    def of(self, query: Query, maps: ImageMaps) -> list[Standing]:
        """Return the standing of each image."""
        rescoring, found = self.group.run.settings.rescoring, []
        own_tokens = query.whole.class_tokens
        own_salient = self._salient_of(query, maps) if rescoring == "rscon" else own_tokens
        others = self._salient if rescoring == "rscon" else self._class_tokens
        for at, image_id in enumerate(query.ids):
            raw = float(maps.score_raw[at])
            score = raw if rescoring == "none" else self._rescored(image_id, raw, own_salient[at], others)
            found.append(self._standing(image_id, raw, score, self._similar(image_id, own_tokens[at])))
        return found

    def _standing(self, image_id: str, raw: float, score: float, neighbours: Sequence[Neighbour]) -> Standing:
        run, others = self.group.run, self.scores.ids != image_id
        higher, same = self.scores.score > np.float32(score), self.scores.score == np.float32(score)
        before = (higher | (same & (self.scores.ids < image_id))) & others
        given = (run.thresholds or {}).get(self.group.name)
        threshold = suggest_threshold(self.scores.score) if given is None else given
        return Standing(
            score=score,
            score_is_approximate=run.settings.rescoring != "none",
            p_value=(1 + int(((self.scores.raw >= np.float32(raw)) & others).sum())) / (1 + int(others.sum())),
            rank=1 + int(before.sum()),
            among=1 + int(others.sum()),
            threshold=threshold,
            threshold_is_suggested=given is None,
            is_anomalous=bool(is_anomalous(np.array([score]), threshold)[0]),
            neighbours=tuple(neighbours),
        )

    def _rescored(self, image_id: str, raw: float, vector: FloatArray, vectors: FloatArray) -> float:
        """Average the raw score of an image with those that the most similar ones have without it."""
        settings = self.group.run.settings
        sizes = neighbourhood_sizes(settings.rescoring, settings.k_list)
        row_of = self.scores.row_of
        scored = [at for at, other in enumerate(self._ids) if other in row_of and other != image_id]
        all_raw = np.append(self.scores.raw[[row_of[self._ids[at]] for at in scored]], np.float32(raw))
        low, high = self.group.run.raw_ranges.get(self.group.name, (float(all_raw.min()), float(all_raw.max())))
        similar = _most_similar(vector, vectors[scored], max(sizes))
        return float(weighted_scores(all_raw, *similar, sizes, (min(low, raw), max(high, raw)))[0])

    def _similar(self, image_id: str, class_token: FloatArray) -> list[Neighbour]:
        others = [at for at, other in enumerate(self._ids) if other != image_id]
        similarities, found = _most_similar(class_token, self._class_tokens[others], MAX_LISTED + 1)
        named = zip(found[0, 1:].tolist(), similarities[0, 1:].tolist(), strict=True)
        return [Neighbour(self.group.uris[self._ids[others[at]]], round(similarity, 4)) for at, similarity in named]

    @cached_property
    def _ids(self) -> list[str]:
        return [image_id for shard in self.group.scored for image_id in shard.ids]

    @cached_property
    def _class_tokens(self) -> FloatArray:
        """Class tokens (N, C) of the scored images, in the order of `_ids`."""
        fs = self.group.out_paths.fs
        return self._of_shards(lambda shard: read_class_tokens(fs, self.group.path(shard.number), shard.ids))

    @cached_property
    def _salient(self) -> FloatArray:
        """Features (N, C) of the most anomalous patch of each scored image; of the first patch of those without scores,
        which are not compared."""
        row_of, peaks = self.scores.row_of, self.scores.peaks
        assert peaks is not None  # noqa: S101, read for this

        def read(shard: RingShard) -> FloatArray:
            of_shard = np.array([peaks[row_of[i]] if i in row_of else (0, 0) for i in shard.ids], np.int64)
            return salient_features_of(self.reader, self.group.name, shard, self.group.meta, of_shard, self.device)

        return self._of_shards(read)

    def _of_shards(self, read: Callable[[RingShard], FloatArray]) -> FloatArray:
        with ThreadPoolExecutor(MAX_READS) as pool:
            return np.concatenate(list(pool.map(read, self.group.scored)))

    def _salient_of(self, query: Query, maps: ImageMaps) -> FloatArray:
        """Compute the features of the most anomalous patch of each checked image."""
        settings, meta = self.group.run.settings, self.group.meta
        found = []
        for at, (place, patch) in enumerate(maps.peaks.tolist()):
            tokens = query.select([at]).tokens(self.reader, self.group, salient_layer(meta.layers), (place,))
            features = features_at(
                tokens.to(self.device),
                meta.grid_of((place,)),
                torch.tensor([patch]),
                settings.degrees,
                settings.aggregation,
                self.reader.is_compressed(self.group.name),
            )
            found.append(features[0])
        return np.stack(found)


def _most_similar(
    vector: FloatArray, others: FloatArray, k: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Find the k vectors most similar to one (C,), itself the first: as the last of others (N, C) and itself."""
    return similar_images(vector[None], np.array([len(others)]), [np.concatenate([others, vector[None]])], k)


def read_stored_scores(group: StoredGroup, with_peaks: bool = False) -> StoredScores:
    """Read the scores of a group's images: of its run, and where that is a night of the runs before it.

    Args:
        group: what to read.
        with_peaks: whether to find the most anomalous patch of each, from the patch maps.

    Raises:
        MuscRayError: a table is broken.
    """
    columns = ["image_id", "score_raw", "score", *["patch_map"] * with_peaks]
    missing = {image_id for shard in group.scored for image_id in shard.ids}
    tables = []
    for run in _runs_before(group):
        paths = group.out_paths.run(run.run_id)
        parts = paths.parts(paths.scores, group.name)
        if not parts or not missing:
            continue
        table = read_scores(group.out_paths.fs, parts, columns)
        new = [image_id in missing for image_id in table["image_id"].to_pylist()]
        tables.append(table.filter(pa.array(new)))
        missing -= set(tables[-1]["image_id"].to_pylist())
    table = pa.concat_tables(tables)
    peaks = _peaks(group, table) if with_peaks else None
    ids = np.array(table["image_id"].to_pylist(), np.str_)
    return StoredScores(ids, numbers(table, "score_raw"), numbers(table, "score"), peaks)


def _runs_before(group: StoredGroup) -> list[RunManifest]:
    """Return the run of a group, and of a night the runs before it with the same features, the latest first."""
    if group.run.night is None:
        return [group.run]
    runs = [run for run in complete_runs(group.out_paths) if run.scored_at <= group.run.scored_at]
    return [run for run in reversed(runs) if run.features_id == group.run.features_id]


def _peaks(group: StoredGroup, table: pa.Table) -> npt.NDArray[np.int64]:
    """Find place and patch of the most anomalous patch of each image from its map."""
    grid, meta = group.run.grid_of(group.name), group.meta
    flat = pc.list_flatten(table["patch_map"].combine_chunks()).to_numpy()
    maps = flat.reshape(-1, *grid)
    if meta.crops is None:
        return peaks_of(maps)
    shown = group.run.shown_maps.get(group.name)
    if shown is None or shown.shown == "crops":
        return crop_patches(maps, meta.crops, meta.grid)
    peaks = crop_patches(maps, CropLayout(1, 1, 0.0), meta.grid_of((0,)))
    peaks[:, 0] = 0  # of the whole image
    return peaks
