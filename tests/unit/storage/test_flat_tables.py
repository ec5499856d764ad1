"""The tables of a run are read in one call by every engine, and groups keep their names."""

from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from musc_ray.scoring.ranking_worker import PartNeighbours, Ranker, parts_of
from musc_ray.scoring.ring import GroupImages
from musc_ray.settings.model import Settings
from musc_ray.sources.images import image_id
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import OutPaths, RunPaths, part_prefix
from musc_ray.storage.schemas import ERRORS, MAPS
from musc_ray.storage.scores import read_scores
from musc_ray.storage.shard_writer import write_shard
from musc_ray.storage.shards import FeaturesMeta, ShardImage

GROUPS = ("001", "0", "a=b", "ä/ö", "", "long " * 40, "A", "a", "_hidden", ".hidden", "__HIVE_DEFAULT_PARTITION__")
GRID, SHARD = (2, 3), 3
META = FeaturesMeta(GRID, (), 1, 1, (4, 6), "timm:vit", "", "features")


def write_group(run_paths: RunPaths, group: str, images: int = 5) -> None:
    """Score a group's generated patch maps and write its tables as a run does."""
    uris = {image_id(uri): uri for uri in (f"made://{group}/{n}" for n in range(images))}
    ids = sorted(uris)
    shards = {number: ids[start : start + SHARD] for number, start in enumerate(range(0, images, SHARD))}
    chance = np.random.default_rng(len(group))
    for number, of_shard in shards.items():
        maps = chance.random((len(of_shard), GRID[0] * GRID[1]), np.float32)
        columns = [of_shard, [uris[image] for image in of_shard], maps.max(axis=1), maps.tolist()]
        write_table(run_paths.fs, run_paths.maps(group, number), pa.table(columns, schema=MAPS))
        stored = replace(META, images=[ShardImage(image, uris[image], "", height=20, width=30) for image in of_shard])
        path = run_paths.out.shard(META.features_id, group, number)
        write_shard(run_paths.fs, path, stored, np.zeros((len(of_shard), 1), np.float32), [])
    of_group = GroupImages.of(group, shards, GRID)
    (part,) = parts_of(of_group)
    own = np.arange(images)[:, None]
    neighbours = (np.tile(np.float32([1, 0.5]), (images, 1)), np.hstack([own, (own + 1) % images]))
    ranker = Ranker(Settings(k_list=[1, 2], contamination=0.2), run_paths, META)
    _, (columns_of_part,) = ranker.rank(of_group, [PartNeighbours(neighbours, neighbours)])
    ranker.write_part(of_group, part, datetime.now(UTC), columns_of_part, neighbours, None)


@pytest.fixture(scope="module")
def run_paths(tmp_path_factory):
    paths = OutPaths.at(str(tmp_path_factory.mktemp("out"))).run("run-1")
    for group in GROUPS:
        write_group(paths, group)
    rows = [{"uri": "x", "group": group, "stage": "extract", "error": "e", "message": "m"} for group in GROUPS]
    write_table(paths.fs, f"{paths.errors}/part-00000.parquet", pa.Table.from_pylist(rows, schema=ERRORS))
    return paths


def with_pandas(folder: str) -> list[str]:
    import pandas as pd

    return pd.read_parquet(folder)["group"].tolist()


def with_dataset(folder: str) -> list[str]:
    return ds.dataset(folder).to_table()["group"].to_pylist()


def with_pyarrow(folder: str) -> list[str]:
    return pq.read_table(folder)["group"].to_pylist()


def with_duckdb(folder: str) -> list[str]:
    import duckdb

    return [group for (group,) in duckdb.read_parquet(f"{folder}/*.parquet").project('"group"').fetchall()]


def with_polars(folder: str) -> list[str]:
    import polars as pl

    return pl.read_parquet(folder)["group"].to_list()


def with_daft(folder: str) -> list[str]:
    import daft

    return daft.read_parquet(f"{folder}/*.parquet").select("group").to_pydict()["group"]


READERS = [with_pandas, with_dataset, with_pyarrow, with_duckdb, with_polars, with_daft]


@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_scores_are_read_in_one_call(run_paths, read):
    assert sorted(read(run_paths.scores)) == sorted(5 * GROUPS)


@pytest.mark.parametrize(("table", "rows"), [("neighbours", 5), ("errors", 1)])
@pytest.mark.parametrize("read", READERS, ids=lambda read: read.__name__)
def test_other_tables_are_read_in_one_call(run_paths, table, rows, read):
    assert sorted(read(getattr(run_paths, table))) == sorted(rows * GROUPS)


def test_names_of_files_meet_in_no_engine_and_on_no_disk(run_paths):
    names = [path.rpartition("/")[2] for path in run_paths.out.table_files(run_paths.scores)]
    assert len({name.lower() for name in names}) == len(names) == 2 * len(GROUPS)
    assert all(name.isascii() and "=" not in name and name[0] not in "_." and len(name) < 80 for name in names)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_finds_its_own_files(run_paths, group):
    table = read_scores(run_paths.fs, run_paths.parts(run_paths.scores, group), ["group", "image_id"])
    assert set(table["group"].to_pylist()) == {group}
    assert len(set(table["image_id"].to_pylist())) == 5
    assert run_paths.parts(run_paths.scores, group + "x") == []


def test_a_name_that_is_part_of_another_is_kept_apart(run_paths):
    assert part_prefix("0") != part_prefix("001")[: len(part_prefix("0"))]
