"""What workers do in stage 5: RsCIN over a group in three steps, so that no one holds more than ids, scores and
neighbours of a whole group: `find_neighbours` of some images, `rank_group` once they are all there, and `write_part` of
some shards.
"""

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.core.drift import drift
from musc_ray.core.ranks import percentiles, percentiles_among, ranks
from musc_ray.core.rscin import similar_images, weighted_scores
from musc_ray.core.threshold import is_anomalous
from musc_ray.scoring.defects.work import RepeatsWork
from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.scoring.thresholds import ThresholdRule
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.paths import OutPaths, RunPaths
from musc_ray.storage.schemas import DEFECT_GROUP, DEFECTS, IS_ANOMALOUS, NEIGHBOURS, SCORES
from musc_ray.storage.shards import FeaturesMeta, read_class_tokens

IMAGES_AT_ONCE = 16384
"""Images of a part: as queries, and as what they are compared with at a time."""

READS_AT_ONCE = 16
"""Shards whose class tokens are read at a time: small reads wait for the storage, not for the network."""

Neighbours = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
Columns = dict[str, npt.NDArray[Any]]

PUBLISHED = "published"
"""Among a part's columns: which rows are written, where some are not."""


@dataclass(frozen=True)
class GroupFigures:
    """What is known of a group once it is ranked: its threshold where there is a rule, in a night its drift."""

    threshold: float | None = None
    drift: float | None = None


def parts_of(images: GroupImages) -> list[range]:
    """A group's shards in parts of about IMAGES_AT_ONCE images, as ranges of the ring."""
    parts, start = [], 0
    for index, shard in enumerate(images.ring):
        full = shard.positions.stop - images.ring[start].first >= IMAGES_AT_ONCE
        if full or index == len(images.ring) - 1:
            parts.append(range(start, index + 1))
            start = index + 1
    return parts


def find_neighbours(layout: OutPaths, meta: FeaturesMeta, images: GroupImages, part: range, k: int) -> Neighbours:
    """The most similar images of a part's images in the whole group: similarities and ring positions, both (n, k)."""
    first, last = images.ring[part.start], images.ring[part.stop - 1]
    own = np.arange(first.first, last.positions.stop)

    def tokens() -> Iterator[npt.NDArray[np.float32]]:
        for other in parts_of(images):
            yield _class_tokens(layout, meta, images, other)

    return similar_images(_class_tokens(layout, meta, images, part), own, tokens(), k)


def rank_group(
    run_paths: RunPaths,
    images: GroupImages,
    neighbours: Sequence[Neighbours],
    k_list: Sequence[int],
    rule: ThresholdRule,
) -> tuple[GroupFigures, list[Columns]]:
    """Score, rank and percentile of every image, and whether it is anomalous where there is a rule, by part.

    In a night percentiles are among the earlier images, and ranks among those that are published.
    """
    raw = np.concatenate([_raw_scores(run_paths, images.group, shard.number) for shard in images.ring])
    score = np.concatenate([weighted_scores(raw, *found, k_list) for found in neighbours])
    ids = np.array([image_id for shard in images.ring for image_id in shard.ids])
    columns: Columns = {"score": score, "rank": ranks(score, ids), "percentile": percentiles(score)}
    drifted = None
    if images.earlier:
        earlier = np.isin(ids, list(images.earlier))
        columns["percentile"] = percentiles_among(score, score[earlier])
        drifted = drift(raw[~earlier], raw[earlier])
        if not images.publish_earlier:
            columns["rank"][~earlier] = ranks(score[~earlier], ids[~earlier])
            columns[PUBLISHED] = ~earlier
    threshold = rule.threshold_of(score)
    if threshold is not None:
        columns[IS_ANOMALOUS.name] = is_anomalous(score, threshold)
    bounds = [(images.ring[part.start].first, images.ring[part.stop - 1].positions.stop) for part in parts_of(images)]
    parts = [{name: values[start:stop] for name, values in columns.items()} for start, stop in bounds]
    return GroupFigures(threshold, drifted), parts


def write_part(
    run_paths: RunPaths,
    images: GroupImages,
    part: range,
    grid: tuple[int, int],
    scored_at: datetime,
    columns: Columns,
    neighbours: Neighbours,
    repeats: RepeatsWork | None,
) -> None:
    """Write a part's rows of the tables of neighbours and scores, one file a shard of each.

    Args:
        repeats: knows the repeated defects, where they were looked for.
    """
    shards = images.ring[part.start : part.stop]
    for shard in shards:
        rows = slice(shard.first - shards[0].first, shard.positions.stop - shards[0].first)
        values = {column: values[rows] for column, values in columns.items() if column != PUBLISHED}
        defects, patches = (None, None) if repeats is None else repeats.defects(shard.number)
        values[DEFECT_GROUP.name] = np.zeros(len(shard.ids), np.int32) if defects is None else defects
        table = _scores_table(run_paths, images.group, shard.number, grid, scored_at, values)
        similar = _neighbours_table(images, shard, neighbours[0][rows], neighbours[1][rows])
        if PUBLISHED in columns:
            published = pa.array(columns[PUBLISHED][rows])
            table, similar = table.filter(published), similar.filter(published)
        if len(table) == 0:
            continue
        if patches is not None and patches.any():
            shared = _defects_table(shard, table, patches)
            if len(shared):
                write_table(run_paths.fs, run_paths.part(run_paths.defects, images.group, shard.number), shared)
        write_table(run_paths.fs, run_paths.part(run_paths.neighbours, images.group, shard.number), similar)
        write_table(run_paths.fs, run_paths.part(run_paths.scores, images.group, shard.number), table)


def _class_tokens(layout: OutPaths, meta: FeaturesMeta, images: GroupImages, part: range) -> npt.NDArray[np.float32]:
    shards = images.ring[part.start : part.stop]
    paths = [layout.shard(meta.features_id, images.group, shard.number) for shard in shards]
    with ThreadPoolExecutor(READS_AT_ONCE) as pool:
        return np.concatenate(
            list(pool.map(lambda path, shard: read_class_tokens(layout.fs, path, shard.ids), paths, shards))
        )


def _raw_scores(run_paths: RunPaths, group: str, shard: int) -> npt.NDArray[np.float32]:
    table = read_table(run_paths.fs, run_paths.maps(group, shard), ["score_raw"])
    scores: npt.NDArray[np.float32] = table["score_raw"].to_numpy()
    return scores


def _scores_table(
    run_paths: RunPaths,
    group: str,
    shard: int,
    grid: tuple[int, int],
    scored_at: datetime,
    columns: Mapping[str, npt.NDArray[Any]],
) -> pa.Table:
    """The rows of one shard's images, in the contract's column order and types."""
    maps = read_table(run_paths.fs, run_paths.maps(group, shard))
    rows = len(maps)
    constant = {"group": group, "run_id": run_paths.run_id, "scored_at": scored_at}
    constant |= {"grid_h": grid[0], "grid_w": grid[1]}
    arrays = {name: pa.array([value] * rows, SCORES.field(name).type) for name, value in constant.items()}
    schema = SCORES.append(DEFECT_GROUP)
    schema = schema.append(IS_ANOMALOUS) if IS_ANOMALOUS.name in columns else schema
    arrays |= {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    defects = columns[DEFECT_GROUP.name]
    arrays[DEFECT_GROUP.name] = pa.array(defects, DEFECT_GROUP.type, mask=defects == 0)
    arrays |= {name: maps[name] for name in maps.column_names}
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def _defects_table(shard: RingShard, scores: pa.Table, patches: npt.NDArray[np.bool_]) -> pa.Table:
    """The images of one shard that have a repeated defect and are published, and where: patches is (A, L)."""
    of_id = dict(zip(shard.ids, patches, strict=True))
    found = scores.filter(pc.is_valid(scores[DEFECT_GROUP.name])).select(
        ["image_id", "uri", "group", DEFECT_GROUP.name]
    )
    numbers = [np.flatnonzero(of_id[image_id]).tolist() for image_id in found["image_id"].to_pylist()]
    arrays = [*(column.combine_chunks() for column in found.columns), pa.array(numbers, DEFECTS.field("patches").type)]
    return pa.table(arrays, schema=DEFECTS)


def _neighbours_table(
    images: GroupImages, shard: RingShard, similarities: npt.NDArray[np.float32], positions: npt.NDArray[np.int64]
) -> pa.Table:
    """The nearest images (A, k) of one shard's images, each image itself (the first one) left out."""
    firsts = [other.first for other in images.ring]

    def id_at(position: int) -> str:
        other = images.ring[bisect_right(firsts, position) - 1]
        return other.ids[position - other.first]

    return pa.table(
        {
            "image_id": list(shard.ids),
            "group": [images.group] * len(shard.ids),
            "neighbours": [[id_at(position) for position in row] for row in positions[:, 1:].tolist()],
            "similarities": similarities[:, 1:].tolist(),
        },
        schema=NEIGHBOURS,
    )
