"""Tables of one shard's scores, similar images and repeated defects."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from musc_ray.core.peaks import peak_pixels
from musc_ray.scoring.ring import GroupImages, RingShard
from musc_ray.storage.parquet import read_table
from musc_ray.storage.paths import RunPaths
from musc_ray.storage.schemas import DEFECT_GROUP, DEFECTS, IS_ANOMALOUS, NEIGHBOURS, SCORES, SIZE_AND_PEAK
from musc_ray.storage.shards import ShardImage


def scores_table(
    run_paths: RunPaths,
    group: GroupImages,
    shard: int,
    scored_at: datetime,
    columns: Mapping[str, npt.NDArray[Any]],
    images: Sequence[ShardImage],
) -> pa.Table:
    """Build the scores of one shard's images, in the contract's column order and types.

    Args:
        run_paths: of the run, with the patch maps.
        group: of the shard.
        shard: its number.
        scored_at: time in every row.
        columns: values by column, one per image.
        images: of the shard, with their sizes.
    """
    maps = read_table(run_paths.fs, run_paths.maps(group.group, shard))
    rows = len(maps)
    constant = {"group": group.group, "run_id": run_paths.run_id, "scored_at": scored_at}
    constant |= {"grid_h": group.map_grid[0], "grid_w": group.map_grid[1]}
    arrays = {name: pa.array([value] * rows, SCORES.field(name).type) for name, value in constant.items()}
    schema = pa.schema([*SCORES, DEFECT_GROUP, *SIZE_AND_PEAK])
    schema = schema.append(IS_ANOMALOUS) if IS_ANOMALOUS.name in columns else schema
    arrays |= {name: pa.array(values, schema.field(name).type) for name, values in columns.items()}
    defects = columns[DEFECT_GROUP.name]
    arrays[DEFECT_GROUP.name] = pa.array(defects, DEFECT_GROUP.type, mask=defects == 0)
    arrays |= {name: maps[name] for name in maps.column_names}
    arrays |= _size_and_peak(maps, group.map_grid, images)
    return pa.table([arrays[name] for name in schema.names], schema=schema)


def _size_and_peak(maps: pa.Table, grid: tuple[int, int], images: Sequence[ShardImage]) -> dict[str, pa.Array]:
    """Return the columns of SIZE_AND_PEAK for the rows of a table of patch maps."""
    size_of = {image.image_id: (image.height, image.width) for image in images}
    sizes = [size_of[image_id] for image_id in maps["image_id"].to_pylist()]
    patch_maps = pc.list_flatten(maps["patch_map"].combine_chunks()).to_numpy().reshape(-1, *grid)
    rows = [(*size, *peak) for size, peak in zip(sizes, peak_pixels(patch_maps, sizes), strict=True)]
    return {field.name: pa.array([row[at] for row in rows], field.type) for at, field in enumerate(SIZE_AND_PEAK)}


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
