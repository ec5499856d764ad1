"""Rank groups on a scoring worker: rescoring, ranks and percentiles, in steps, so that no worker holds more of a group
than its ids, scores and similar images. `ranking_driver` orders the steps.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from musc_ray.core.drift import drift
from musc_ray.core.ranks import percentiles, percentiles_among, ranks
from musc_ray.core.rescoring import neighbourhood_sizes, similar_images, weighted_scores
from musc_ray.core.threshold import is_anomalous
from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.scoring.score_tables import defects_table, scores_table, similar_images_table
from musc_ray.scoring.thresholds import ThresholdRule
from musc_ray.settings.model import Settings
from musc_ray.storage.arrays import read_array
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.schemas import DEFECT_GROUP, IS_ANOMALOUS
from musc_ray.storage.shards import FeaturesMeta, read_class_tokens, read_meta

if TYPE_CHECKING:
    from musc_ray.scoring.defects.worker import DefectWorker  # it needs torch, which the driver of this module does not

IMAGES_CHUNK = 16384
"""Images of a part, both as queries and as what they are compared with at a time."""

MAX_READS = 16
"""Shards whose vectors are read at a time: small reads are bound by latency, not by bandwidth."""

SimilarImages = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
"""Similarities and ring positions, (n, k) each."""

FloatArray = npt.NDArray[np.float32]

Columns = dict[str, npt.NDArray[Any]]

WRITTEN = "written"
"""Among a part's columns, if not all rows are written: which are."""


@dataclass(frozen=True)
class PartNeighbours:
    """The images most similar to those of a part.

    Attributes:
        listed: by class tokens, for the table of similar images.
        averaged: those that the scores are averaged with: by class tokens (rscin), by the features of the most
            anomalous patches (rscon); None without rescoring.
    """

    listed: SimilarImages
    averaged: SimilarImages | None


@dataclass(frozen=True)
class GroupFigures:
    """A ranked group's smallest and largest raw score, its threshold, if there is a rule, and its drift, in a night."""

    raw_range: tuple[float, float]
    threshold: float | None = None
    drift: float | None = None


def parts_of(images: GroupImages) -> list[range]:
    """Split a group's shards into parts of about IMAGES_CHUNK images, as ranges of the ring."""
    parts, start = [], 0
    for index, shard in enumerate(images.ring):
        full = shard.positions.stop - images.ring[start].first >= IMAGES_CHUNK
        if full or index == len(images.ring) - 1:
            parts.append(range(start, index + 1))
            start = index + 1
    return parts


class Ranker:
    """The steps on a run's groups: `find_similar` for each part, `rank`, and `write_part` for each part."""

    def __init__(self, settings: Settings, run_paths: RunPaths, meta: FeaturesMeta) -> None:
        self.settings, self.run_paths, self.meta = settings, run_paths, meta

    def find_similar(self, images: GroupImages, part: range) -> PartNeighbours:
        """Find the most similar images of a part's images in the whole group."""
        rescoring, k_list = self.settings.rescoring, self.settings.k_list
        listed = self._nearest(images, part, self._class_tokens, max(k_list))
        if rescoring == "rscon":
            sizes = neighbourhood_sizes(rescoring, k_list)
            return PartNeighbours(listed, self._nearest(images, part, self._salient_features, max(sizes)))
        return PartNeighbours(listed, listed if rescoring == "rscin" else None)

    def _nearest(
        self, images: GroupImages, part: range, read: Callable[[str, RingShard], FloatArray], k: int
    ) -> SimilarImages:
        """Find the k images most similar to a part's by the vectors (A, C) that `read` gives for each shard."""
        first, last = images.ring[part.start], images.ring[part.stop - 1]
        own = np.arange(first.first, last.positions.stop)

        def vectors(of_part: range) -> FloatArray:
            with ThreadPoolExecutor(MAX_READS) as pool:
                shards = images.ring[of_part.start : of_part.stop]
                return np.concatenate(list(pool.map(lambda shard: read(images.group, shard), shards)))

        return similar_images(vectors(part), own, map(vectors, parts_of(images)), k)

    def rank(self, images: GroupImages, neighbours: Sequence[PartNeighbours]) -> tuple[GroupFigures, list[Columns]]:
        """Compute score, rank and percentile of every image, by part; `is_anomalous` if there is a rule.

        In a night percentiles are among the earlier images, and ranks among the new ones.
        """
        raw = np.concatenate([self._raw_scores(images.group, shard.number) for shard in images.ring])
        sizes = neighbourhood_sizes(self.settings.rescoring, self.settings.k_list)
        averaged = [weighted_scores(raw, *part.averaged, sizes) for part in neighbours if part.averaged is not None]
        score = np.concatenate(averaged) if averaged else raw
        ids = np.array([image_id for shard in images.ring for image_id in shard.ids])
        columns: Columns = {"score": score, "rank": ranks(score, ids), "percentile": percentiles(score)}
        drifted = None
        if images.earlier:
            earlier = np.isin(ids, list(images.earlier))
            columns["percentile"] = percentiles_among(score, score[earlier])
            drifted = drift(raw[~earlier], raw[earlier])
            if not images.publish_earlier:
                columns["rank"][~earlier] = ranks(score[~earlier], ids[~earlier])
                columns[WRITTEN] = ~earlier
        threshold = ThresholdRule.of(self.settings).threshold_of(score)
        if threshold is not None:
            columns[IS_ANOMALOUS.name] = is_anomalous(score, threshold)
        bounds = [
            (images.ring[part.start].first, images.ring[part.stop - 1].positions.stop) for part in parts_of(images)
        ]
        parts = [{name: values[start:stop] for name, values in columns.items()} for start, stop in bounds]
        return GroupFigures((float(raw.min()), float(raw.max())), threshold, drifted), parts

    def write_part(
        self,
        images: GroupImages,
        part: range,
        scored_at: datetime,
        columns: Columns,
        similar: SimilarImages,
        defects: "DefectWorker | None",
    ) -> None:
        """Write a part's rows of the tables of scores and similar images, one file per shard of each.

        Args:
            images: the group.
            part: range of the ring.
            scored_at: time in every row.
            columns: of the part, from `rank`.
            similar: the part's `listed` images, from `find_similar`.
            defects: knows the repeated defects, if they were searched.
        """
        shards = images.ring[part.start : part.stop]
        for shard in shards:
            rows = slice(shard.first - shards[0].first, shard.positions.stop - shards[0].first)
            values = {name: column[rows] for name, column in columns.items()}
            table = similar_images_table(images, shard, similar[0][rows], similar[1][rows])
            self._write_shard(images, shard, scored_at, values, table, defects)

    def _write_shard(
        self,
        images: GroupImages,
        shard: RingShard,
        scored_at: datetime,
        columns: Columns,
        similar: pa.Table,
        defects: "DefectWorker | None",
    ) -> None:
        """Write one shard's files: defects and similar images first, scores last."""
        paths, group, written = self.run_paths, images.group, columns.pop(WRITTEN, None)
        numbers, patches = (None, None) if defects is None else defects.defects(shard.number)
        columns[DEFECT_GROUP.name] = np.zeros(len(shard.ids), np.int32) if numbers is None else numbers
        meta = read_meta(paths.fs, paths.out.shard(self.meta.features_id, group, shard.number))
        table = scores_table(paths, images, shard.number, scored_at, columns, meta.images)
        if written is not None:
            table, similar = table.filter(pa.array(written)), similar.filter(pa.array(written))
        if len(table) == 0:
            return
        if patches is not None and patches.any():
            shared = defects_table(shard, table, patches)
            if len(shared):
                write_table(paths.fs, paths.part(paths.defects, group, shard.number), shared)
        write_table(paths.fs, paths.part(paths.neighbours, group, shard.number), similar)
        write_table(paths.fs, paths.part(paths.scores, group, shard.number), table)

    def _class_tokens(self, group: str, shard: RingShard) -> FloatArray:
        out = self.run_paths.out
        return read_class_tokens(out.fs, out.shard(self.meta.features_id, group, shard.number), shard.ids)

    def _salient_features(self, group: str, shard: RingShard) -> FloatArray:
        features: FloatArray = read_array(self.run_paths.fs, self.run_paths.salient(group, shard.number))
        return features

    def _raw_scores(self, group: str, shard: int) -> FloatArray:
        table = read_table(self.run_paths.fs, self.run_paths.maps(group, shard), ["score_raw"])
        scores: FloatArray = table["score_raw"].to_numpy()
        return scores
