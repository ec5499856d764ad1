"""Runs in Iceberg tables, on SQLite with local files and on SeaweedFS's S3 and REST catalog: whole or not at all."""

import multiprocessing
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import duckdb
import polars
import pyarrow as pa
import pytest
import s3fs
from duckdb_extensions import import_extension
from moto import mock_aws
from pyiceberg.catalog.sql import IcebergTables, SqlCatalog
from pyiceberg.exceptions import CommitFailedException
from pyiceberg.table import Table
from pyiceberg.utils.config import Config

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.lake.catalog import open_catalog
from musc_ray.lake.run_tables import LakeRun, publish_run
from musc_ray.settings.loading import load_settings
from musc_ray.sources.catalog import catalog_images
from musc_ray.storage.filesystem import open_filesystem
from musc_ray.storage.parquet import write_table
from musc_ray.storage.retry import Backoff
from tests.helpers.lake_runs import lake_run
from tests.helpers.seaweed import LakeServer, lake_server

NIGHT = datetime(2026, 11, 23, 2, tzinfo=UTC)
DAY = timedelta(days=1)
CELLS = [f"s3://plant/cells/{n}.png" for n in range(30)]
TILES = [f"s3://plant/tiles/{n}.png" for n in range(8)]
BOTH = {"line 1/cells": CELLS, "tiles": TILES}


@dataclass(frozen=True)
class Place:
    """A catalog, and a namespace of its own in it."""

    catalog_uri: str
    warehouse: str | None
    name: str

    @property
    def catalog(self):
        return open_catalog(self.catalog_uri, self.warehouse)

    def publish(self, run: LakeRun) -> bool:
        return publish_run(self.catalog, self.name, run)

    def table(self, suffix: str = "") -> Table:
        return self.catalog.load_table(self.name + suffix)

    def rows(self, suffix: str = "") -> list[dict]:
        return in_order(self.table(suffix).scan().to_arrow())

    def snapshots(self) -> list[int]:
        tables = [self.table(suffix) for suffix in ("", "_current", "_runs")]
        return [snapshot.snapshot_id for table in tables for snapshot in table.snapshots()]


def in_order(table: pa.Table) -> list[dict]:
    return sorted(table.to_pylist(), key=lambda row: (row["run_id"], row.get("image_id")))


def expected(run: LakeRun, maps: bool = True) -> list[dict]:
    columns = run.columns(maps)
    return in_order(pa.concat_tables(run.scores(columns.names)))


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[LakeServer]:
    with lake_server(tmp_path_factory.mktemp("weed")) as found:
        yield found


def rest_place(server: LakeServer, monkeypatch) -> Place:
    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())  # read when pyiceberg was imported
    return Place(server.catalog, server.warehouse, new_name())


def new_name() -> str:
    return f"plant_{uuid.uuid4().hex[:8]}.scores"


@pytest.fixture(params=["sqlite", pytest.param("rest", marks=pytest.mark.slow)])
def place(request, tmp_path, monkeypatch) -> Place:
    if request.param == "sqlite":
        return Place(f"sqlite:///{tmp_path}/lake/catalog.db", None, new_name())
    return rest_place(request.getfixturevalue("server"), monkeypatch)


def test_a_run_is_there_row_for_row_with_comments_and_partitions(place):
    run = lake_run("run-1", BOTH, NIGHT)
    assert place.publish(run)
    assert place.rows() == expected(run)
    assert place.rows("_current") == expected(run, maps=False)
    table = place.table()
    assert [field.name for field in table.spec().fields] == ["scored_at_day", "group"]
    assert all(field.doc for field in table.schema().fields)
    assert "comment" in table.properties


def test_publishing_twice_changes_nothing(place):
    run = lake_run("run-1", BOTH, NIGHT)
    place.publish(run)
    before = place.snapshots()
    assert not place.publish(run)
    assert place.snapshots() == before


def test_a_rescored_image_has_one_current_row_and_all_its_history(place):
    first = lake_run("run-1", BOTH, NIGHT)
    second = lake_run("run-2", {"line 1/cells": [*CELLS[20:], "s3://plant/cells/new.png"]}, NIGHT + DAY)
    place.publish(first)
    place.publish(second)
    assert place.rows() == expected(first) + expected(second)
    replaced = {row["image_id"] for row in expected(second)}
    kept = [row for row in expected(first, maps=False) if row["image_id"] not in replaced]
    assert place.rows("_current") == kept + expected(second, maps=False)


def test_a_glue_catalog_takes_the_same_path(tmp_path, monkeypatch):
    """AWS Glue as moto plays it, tables on local files."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "no-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    first, second = lake_run("run-1", BOTH, NIGHT), lake_run("run-2", {"tiles": TILES}, NIGHT + DAY, threshold=0.8)
    with mock_aws():
        place = Place("glue", tmp_path.as_uri(), "plant.scores")
        assert [place.publish(run) for run in (first, second, first, second)] == [True, True, False, False]
        assert [{**row, "is_anomalous": None} for row in place.rows()] == [
            {**row, "is_anomalous": None} for row in expected(first) + expected(second)
        ]
        assert len(place.rows("_current")) == 38
        assert [row["run_id"] for row in place.rows("_runs")] == ["run-1", "run-2"]


def test_an_older_run_that_is_published_late_replaces_nothing(place):
    older, newer = lake_run("run-2", {"cells": CELLS}, NIGHT), lake_run("run-1", {"cells": CELLS[:5]}, NIGHT + DAY)
    place.publish(newer)
    place.publish(older)
    ids = {row["image_id"] for row in expected(newer)}
    rest = [row for row in expected(older, maps=False) if row["image_id"] not in ids]
    assert place.rows("_current") == expected(newer, maps=False) + rest
    assert len(place.rows()) == 35


def test_an_image_that_went_to_another_group_is_current_only_there(place):
    place.publish(lake_run("run-1", {"cells": CELLS}, NIGHT))
    place.publish(lake_run("run-2", {"line 2": CELLS}, NIGHT + DAY))
    assert {row["group"] for row in place.rows("_current")} == {"line 2"}


def test_columns_that_come_later_are_added(place):
    plain, marked = lake_run("run-1", BOTH, NIGHT), lake_run("run-2", BOTH, NIGHT + DAY, threshold=0.8)
    place.publish(plain)
    assert "is_anomalous" not in place.table().schema().column_names
    place.publish(marked)
    third = lake_run("run-3", {"tiles": TILES}, NIGHT + 2 * DAY)
    place.publish(third)
    rows = place.rows()
    assert [row for row in rows if row["run_id"] == "run-2"] == expected(marked)
    assert [row["is_anomalous"] for row in rows if row["run_id"] != "run-2"] == [None] * 46
    assert {row["run_id"] for row in place.rows("_current")} == {"run-2", "run-3"}


def test_a_run_without_maps_fits_a_table_with_them(place):
    place.publish(lake_run("run-1", BOTH, NIGHT))
    place.publish(lake_run("run-2", BOTH, NIGHT + DAY, maps=False))
    rows = place.rows()
    assert [row["patch_map"] is None for row in rows] == [row["run_id"] == "run-2" for row in rows]


def test_another_threshold_replaces_the_rows_of_the_run_alone(place):
    other = lake_run("run-0", BOTH, NIGHT - DAY)
    place.publish(other)
    place.publish(lake_run("run-1", BOTH, NIGHT, threshold=0.9))
    again = lake_run("run-1", BOTH, NIGHT, threshold=0.5)
    assert place.publish(again)
    rows = place.rows()
    assert [row for row in rows if row["run_id"] == "run-1"] == expected(again)
    assert len(rows) == 76
    assert place.rows("_current") == expected(again, maps=False)
    assert len(place.rows("_runs")) == 2


def test_every_row_leads_to_its_run(place):
    place.publish(lake_run("run-1", BOTH, NIGHT, source_snapshot=7))
    (run,) = place.rows("_runs")
    assert {row["run_id"] for row in place.rows()} == {run["run_id"]}
    assert run["weights_sha256"] == "ab" * 32
    assert (run["features_id"], run["code_version"], run["source_snapshot"]) == ("0123456789abcdef", "0.1.0", 7)
    assert '"degrees": [1, 3, 5]' in run["settings"]


def test_a_night_reads_only_its_partition(place):
    for night in range(3):
        place.publish(lake_run(f"run-{night}", BOTH, NIGHT + night * DAY))
    tonight = f"scored_at >= '{(NIGHT + 2 * DAY).date()}T00:00:00+00:00'"
    for suffix in ("", "_current"):
        scan = place.table(suffix).scan(row_filter=f"{tonight} and group = 'tiles' and rank <= 100")
        (task,) = scan.plan_files()
        assert "scored_at_day=2026-11-25/group=tiles" in task.file.file_path
        assert len(scan.to_arrow()) == len(TILES)
        assert len(list(place.table(suffix).scan(row_filter=tonight).plan_files())) == 2


@pytest.fixture
def duck():
    connection = duckdb.connect()
    for name in ("avro", "httpfs", "iceberg"):
        import_extension(name, con=connection)
        connection.load_extension(name)
    return connection


def two_nights(place: Place) -> list[LakeRun]:
    runs = [lake_run("run-1", BOTH, NIGHT), lake_run("run-2", {"tiles": TILES}, NIGHT + DAY, threshold=0.8)]
    for run in runs:
        place.publish(run)
    return runs


@pytest.mark.parametrize("suffix", ["", "_current", "_runs"])
def test_duckdb_reads_the_same_rows_from_files(tmp_path, duck, suffix):
    place = Place(f"sqlite:///{tmp_path}/catalog.db", None, "plant.scores")
    two_nights(place)
    table = place.table(suffix)
    duck.execute("SET TimeZone = 'UTC'")
    found = duck.sql("SELECT * FROM iceberg_scan(?)", params=[table.metadata_location]).to_arrow_table()
    assert in_order(found.cast(table.scan().to_arrow().schema)) == place.rows(suffix)


def test_duckdb_reads_the_same_rows_through_the_rest_catalog(server, duck, monkeypatch):
    place = rest_place(server, monkeypatch)
    two_nights(place)
    s3 = server.s3
    duck.execute(
        f"CREATE SECRET (TYPE s3, KEY_ID '{s3.access_key}', SECRET '{s3.secret_key}', URL_STYLE 'path', USE_SSL false, "
        f"ENDPOINT '{s3.endpoint.removeprefix('http://')}')"
    )
    duck.execute(
        f"CREATE SECRET lake (TYPE iceberg, CLIENT_ID '{s3.access_key}', CLIENT_SECRET '{s3.secret_key}', "
        f"OAUTH2_SERVER_URI '{server.catalog}/v1/oauth/tokens')"
    )
    duck.execute(
        f"ATTACH '{server.warehouse}' AS lake "
        f"(TYPE iceberg, ENDPOINT '{server.catalog}', SECRET lake, ACCESS_DELEGATION_MODE 'none')"
    )
    duck.execute("SET TimeZone = 'UTC'")
    for suffix in ("", "_current", "_runs"):
        found = duck.sql(f"FROM lake.{place.name}{suffix}").to_arrow_table()
        assert in_order(found.cast(place.table(suffix).scan().to_arrow().schema)) == place.rows(suffix)


def test_polars_and_pandas_read_the_same_rows(tmp_path):
    place = Place(f"sqlite:///{tmp_path}/catalog.db", None, "plant.scores")
    two_nights(place)
    worst = [row["image_id"] for row in place.rows("_current") if row["group"] == "tiles" and row["rank"] <= 3]
    table = place.table("_current")
    by_polars = (
        polars.scan_iceberg(table).filter((polars.col("group") == "tiles") & (polars.col("rank") <= 3)).collect()
    )
    by_pandas = table.scan(row_filter="group = 'tiles' and rank <= 3", selected_fields=("image_id",)).to_pandas()
    assert sorted(by_polars["image_id"]) == sorted(by_pandas["image_id"]) == sorted(worst)
    assert len(worst) == 3


def test_a_filtered_dataset_on_object_storage_is_a_source(server, monkeypatch):
    for key, value in server.environment.items():
        monkeypatch.setenv(key, value)
    s3fs.S3FileSystem.clear_instance_cache()  # those of servers that are gone
    fs, root = open_filesystem("s3://ready/images")
    for day, names in (("2026-11-22", ["a", "b"]), ("2026-11-23", ["c", "d"])):
        rows = pa.table({"uri": [f"s3://plant/{name}.png" for name in names], "line": [1, 2]})
        write_table(fs, f"{root}/day={day}/part-0.parquet", rows)
    (images,) = catalog_images(f"s3://{root}?filter=day = '2026-11-23' and line > 1").values()
    assert [image.uri for image in images] == ["s3://plant/d.png"]
    s3fs.S3FileSystem.clear_instance_cache()


CRASH = """
import os, sys
from datetime import datetime
from pyiceberg.table import Table
from musc_ray.lake.catalog import open_catalog
from musc_ray.lake.run_tables import publish_run
from tests.helpers.lake_runs import lake_run
from tests.integration.test_lake import BOTH, NIGHT

catalog, warehouse, name, table = sys.argv[1:]
commit = Table._do_commit

def crash(self, updates, requirements):
    if self.name()[-1] == table:
        os._exit(9)
    return commit(self, updates, requirements)

Table._do_commit = crash
publish_run(open_catalog(catalog, warehouse or None), name, lake_run("run-1", BOTH, NIGHT))
"""


class Killed(BaseException):
    """Nothing is cleared up for it."""


def test_a_killed_publisher_shows_nothing_and_is_made_up_for(place):
    arguments = [place.catalog_uri, place.warehouse or "", place.name, "scores"]
    assert subprocess.run([sys.executable, "-c", CRASH, *arguments], timeout=120).returncode == 9
    assert place.rows() == []
    assert place.publish(lake_run("run-1", BOTH, NIGHT))
    assert place.rows() == expected(lake_run("run-1", BOTH, NIGHT))


@pytest.mark.parametrize("suffix", ["_current", "_runs"])
def test_a_crash_between_tables_is_made_up_for(place, suffix, monkeypatch):
    run, commit = lake_run("run-1", BOTH, NIGHT), Table._do_commit

    def crash(table, updates, requirements):
        if table.name()[-1] == "scores" + suffix:
            raise Killed
        commit(table, updates, requirements)

    with monkeypatch.context() as patched:
        patched.setattr(Table, "_do_commit", crash)
        with pytest.raises(Killed):
            place.publish(run)
    assert place.rows(suffix) == []
    assert place.publish(run)
    assert place.rows() == expected(run)
    assert place.rows("_current") == expected(run, maps=False)
    assert len(place.rows("_runs")) == 1


@pytest.mark.parametrize("step", ["the catalog's own tables", "the namespace"])
def test_what_another_publisher_makes_at_the_same_moment_is_found(tmp_path, monkeypatch, step):
    """Both looked, and the other one was first to create: SQLite says that it is there already."""
    uri, warehouse = f"sqlite:///{tmp_path}/catalog.db", tmp_path.as_uri()
    name = "create_tables" if step == "the catalog's own tables" else "create_namespace"
    create, calls = getattr(SqlCatalog, name), []

    def outrun(catalog, *arguments):
        calls.append(1)
        if len(calls) == 1:
            other = SqlCatalog("lake", uri=uri, warehouse=warehouse)
            create(other, *arguments)
            if name == "create_tables":
                IcebergTables.metadata.create_all(catalog.engine, checkfirst=False)
            else:
                monkeypatch.setattr(SqlCatalog, "namespace_exists", lambda *_: False)
                try:
                    create(catalog, *arguments)
                finally:
                    monkeypatch.undo()
        else:
            create(catalog, *arguments)

    with monkeypatch.context() as patched:
        patched.setattr(SqlCatalog, name, outrun)
        publish_run(open_catalog(uri, warehouse), "plant.scores", lake_run("run-1", {"cells": CELLS}, NIGHT))
    assert len(open_catalog(uri, warehouse).load_table("plant.scores").scan().to_arrow()) == len(CELLS)


def test_a_table_that_others_change_all_the_time_is_given_up_without_data_files(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise CommitFailedException("someone was faster")

    monkeypatch.setattr(Table, "_do_commit", refuse)
    monkeypatch.setattr("musc_ray.lake.commit.CONFLICT_BACKOFF", Backoff(3, 0.01, 0.01))
    with pytest.raises(MuscRayError, match="in each of 3 attempts to publish run run-1"):
        publish_run(open_catalog(f"sqlite:///{tmp_path}/catalog.db"), "a.scores", lake_run("run-1", BOTH, NIGHT))
    assert not list(tmp_path.rglob("*.parquet"))


def publish_in_another_process(place: Place, run_id: str, barrier) -> None:
    run = lake_run(run_id, BOTH, NIGHT + DAY * int(run_id[-1]))
    barrier.wait()
    place.publish(run)


@pytest.mark.parametrize("runs", [("run-1", "run-2", "run-3"), ("run-1", "run-1")])
def test_publishers_at_once_all_land_once(place, runs):
    spawn = multiprocessing.get_context("spawn")
    barrier = spawn.Barrier(len(runs))
    processes = [spawn.Process(target=publish_in_another_process, args=(place, run, barrier)) for run in runs]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * len(runs)
    found = {run: lake_run(run, BOTH, NIGHT + DAY * int(run[-1])) for run in sorted(set(runs))}
    assert place.rows() == [row for run in found.values() for row in expected(run)]
    assert place.rows("_current") == expected(found[max(runs)], maps=False)


def test_a_catalog_that_is_not_there_is_one_sentence(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="no Iceberg catalog 'nowhere'"):
        open_catalog("nowhere")
    with pytest.raises(MuscRayError, match="cannot be opened"):
        open_catalog("http://127.0.0.1:9/")


def test_credentials_stay_out_of_the_settings():
    with pytest.raises(SettingsError, match="carries credentials in its catalog") as error:
        load_settings(None, {"lake": {"table": "a.b", "catalog": "postgresql://user:hunter2@host/db"}})
    assert "hunter2" not in str(error.value)
