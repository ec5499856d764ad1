"""The scores table of a shard: columns, sizes of images and peaks, and tables of before them."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from musc_ray.lake.publish import _scores_of
from musc_ray.lake.schema import scores_schema
from musc_ray.scoring.ring import GroupImages
from musc_ray.scoring.score_tables import scores_table
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.schemas import DEFECT_GROUP, MAPS, SCORES, SIZE_AND_PEAK
from musc_ray.storage.scores import with_size_and_peak
from musc_ray.storage.shards import ShardImage

GRID, NOW = (2, 3), datetime(2026, 11, 23, tzinfo=UTC)
MAPS_OF = {
    "a": [0.1, 0.2, 0.3, 0.9, 0.5, 0.6],
    "b": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
    "c": [np.nan, 0.7, np.nan, 0.1, 0.2, np.nan],
}
SIZES = {"a": (2000, 3000), "b": (None, None), "c": (11, 21)}


def written(tmp_path):
    """A shard's table, and the paths of its run."""
    run_paths = OutPaths.at(str(tmp_path)).run("r")
    columns = [list(MAPS_OF), [f"{name}.png" for name in MAPS_OF], [0.9, 0.6, 0.7], list(MAPS_OF.values())]
    write_table(run_paths.fs, run_paths.maps("g", 0), pa.table(columns, schema=MAPS))
    images = [ShardImage(name, f"{name}.png", "", None, None, *SIZES[name]) for name in reversed(MAPS_OF)]
    images.append(ShardImage("broken", "broken.png", "", "ImageError", "truncated"))
    values = {
        "score": np.array([3, 2, 1], np.float32),
        "rank": np.array([1, 2, 3], np.int32),
        "percentile": np.array([100, 50, 0], np.float32),
        "defect_group": np.array([0, 1, 0], np.int32),
    }
    return scores_table(run_paths, GroupImages.of("g", {0: list(MAPS_OF)}, GRID), 0, NOW, values, images), run_paths


def test_sizes_and_peaks_are_those_of_the_images(tmp_path):
    table, _ = written(tmp_path)
    assert table.schema.names == [*SCORES.names, DEFECT_GROUP.name, *SIZE_AND_PEAK.names]
    found = table.select(SIZE_AND_PEAK.names).to_pylist()
    assert found == [
        {"height": 2000, "width": 3000, "peak_y": 1999, "peak_x": 0},
        dict.fromkeys(SIZE_AND_PEAK.names),
        {"height": 11, "width": 21, "peak_y": 0, "peak_x": 10},
    ]
    assert table["defect_group"].to_pylist() == [None, 1, None]


def test_tables_of_older_runs_get_these_columns_as_nulls(tmp_path):
    table, run_paths = written(tmp_path)
    old = table.drop_columns(SIZE_AND_PEAK.names)
    assert with_size_and_peak(table) is table
    assert with_size_and_peak(old).schema == table.schema
    for part, content in enumerate((old, table)):
        write_table(run_paths.fs, run_paths.part(run_paths.scores, "g", part), content)
    columns = scores_schema(maps=False, thresholds=False)
    first, second = (found.cast(columns) for found in _scores_of(run_paths)(columns.names))
    assert first["peak_x"].null_count == 3
    assert second["peak_x"].to_pylist() == [0, None, 10]
    assert "patch_map" not in first.column_names
