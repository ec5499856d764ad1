"""Tables of one shard's scores, similar images and repeated defects."""

from bisect import bisect_right
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.schemas import DEFECT_GROUP, DEFECTS, IS_ANOMALOUS, NEIGHBOURS, SCORES


def scores_table(
    run_paths: RunPaths,
    group: str,
    shard: int,
    grid: tuple[int, int],
    scored_at: datetime,
    columns: Mapping[str, npt.NDArray[Any]],
) -> pa.Table:
    """Build the scores of one shard's images, in the contract's column order and types.

    Args:
        run_paths: of the run, with the patch maps.
        group: its name.
        shard: number of the shard.
        grid: (h, w).
        scored_at: time in every row.
        columns: values by column, one per image.
    """
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


def defects_table(shard: RingShard, scores: pa.Table, patches: npt.NDArray[np.bool_]) -> pa.Table:
    """Build the table of the images in `scores` that have a repeated defect, with its patches (A, L)."""
    of_id = dict(zip(shard.ids, patches, strict=True))
    found = scores.filter(pc.is_valid(scores[DEFECT_GROUP.name])).select(
        ["image_id", "uri", "group", DEFECT_GROUP.name]
    )
    numbers = [np.flatnonzero(of_id[image_id]).tolist() for image_id in found["image_id"].to_pylist()]
    arrays = [*(column.combine_chunks() for column in found.columns), pa.array(numbers, DEFECTS.field("patches").type)]
    return pa.table(arrays, schema=DEFECTS)


def similar_images_table(
    images: GroupImages, shard: RingShard, similarities: npt.NDArray[np.float32], positions: npt.NDArray[np.int64]
) -> pa.Table:
    """Build the table of most similar images (A, k) of one shard, without each image itself (the first one)."""
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
