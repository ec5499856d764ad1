"""Stage 5, patch maps -> scores: RsCIN over the group, ranks, and the scores table."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from musc_ray.core.ranking import percentiles, ranks
from musc_ray.core.rscin import rescore
from musc_ray.stages.mutual import GroupImages
from musc_ray.storage.features import FeaturesMeta, read_class_tokens
from musc_ray.storage.layout import Layout
from musc_ray.storage.parquet import read_table, write_table
from musc_ray.storage.schemas import SCORES


def publish_group(
    layout: Layout,
    run_id: str,
    images: GroupImages,
    meta: FeaturesMeta,
    k_list: Sequence[int],
    scored_at: datetime,
) -> None:
    """Re-score a group's images and write its scores, one file a shard.

    Only scores and class tokens of the whole group are held, never its patch maps.
    """
    shards = sorted(images.shards)
    raw = [_raw_scores(layout, run_id, images.group, shard) for shard in shards]
    tokens = [
        read_class_tokens(layout.fs, layout.shard(meta.features_id, images.group, shard), images.shards[shard])
        for shard in shards
    ]
    ids = np.array([image_id for shard in shards for image_id in images.shards[shard]])
    score = rescore(np.concatenate(raw), np.concatenate(tokens), k_list)
    columns: dict[str, npt.NDArray[Any]] = {"score": score, "rank": ranks(score, ids), "percentile": percentiles(score)}
    start = 0
    for shard in shards:
        stop = start + len(images.shards[shard])
        part = {name: values[start:stop] for name, values in columns.items()}
        table = _scores_table(layout, run_id, images.group, shard, meta.grid, scored_at, part)
        write_table(layout.fs, f"{layout.scores(run_id, images.group)}/part-{shard:05d}.parquet", table)
        start = stop


def _raw_scores(layout: Layout, run_id: str, group: str, shard: int) -> npt.NDArray[np.float32]:
    table = read_table(layout.fs, layout.maps(run_id, group, shard), ["score_raw"])
    scores: npt.NDArray[np.float32] = table["score_raw"].to_numpy()
    return scores


def _scores_table(
    layout: Layout,
    run_id: str,
    group: str,
    shard: int,
    grid: tuple[int, int],
    scored_at: datetime,
    columns: Mapping[str, npt.NDArray[Any]],
) -> pa.Table:
    """The rows of one shard's images, in the contract's column order and types."""
    maps = read_table(layout.fs, layout.maps(run_id, group, shard))
    rows = len(maps)
    constant = {"group": group, "run_id": run_id, "scored_at": scored_at, "grid_h": grid[0], "grid_w": grid[1]}
    arrays = {name: pa.array([value] * rows, SCORES.field(name).type) for name, value in constant.items()}
    arrays |= {name: pa.array(values, SCORES.field(name).type) for name, values in columns.items()}
    arrays |= {name: maps[name] for name in maps.column_names}
    return pa.table([arrays[name] for name in SCORES.names], schema=SCORES)
