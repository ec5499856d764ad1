"""The lake from the command line: runs and nights published, images from a table, lineage, what is removed."""

import json
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from pyiceberg.utils.config import Config

from musc_ray.lake.catalog import open_catalog
from musc_ray.storage.garbage import check_kept, collect_garbage
from tests.helpers.pictures import solar_cells

RECIPES = Path(__file__).parents[2] / "musc_ray" / "lake" / "README.md"
IMAGES = pa.schema([("uri", pa.string()), ("group", pa.string()), ("day", pa.string()), ("bytes", pa.binary())])

pytestmark = pytest.mark.slow  # real runs, each with actors of its own: minutes


class Plant:
    """A table that images come into, an OUT, and the commands."""

    def __init__(self, folder: Path, weights: Path, invoke) -> None:
        self.out, self.invoke = folder / "out", invoke
        self.cells = iter(solar_cells(40))
        self.options = ["--backbone", "timm:vit_tiny_patch16_224", "--weights", weights, "--image-size", "64"]
        for setting in ("workers=1", "report_images=0", "report_thumbnails=0", "lake={table: plant.scores}"):
            self.options += ["--set", setting]
        catalog = open_catalog("plant")
        catalog.create_namespace("db")
        self.images = catalog.create_table("db.images", IMAGES)

    def deliver(self, count: int, day: str, group: str = "cells") -> list[str]:
        uris = [next(self.cells).as_uri() for _ in range(count)]
        rows = [{"uri": uri, "group": group, "day": day, "bytes": b""} for uri in uris]
        self.images.append(pa.Table.from_pylist(rows, schema=IMAGES))
        return uris

    def command(self, *arguments: object, code: int = 0) -> str:
        result = self.invoke(*arguments)
        assert result.exit_code == code, result.output
        return " ".join((result.stdout + result.stderr).split())

    def runs(self) -> list[dict]:
        found = [json.loads(path.read_text()) for path in self.out.glob("runs/*/run.json")]
        return sorted(found, key=lambda run: run["scored_at"])

    def lake(self, suffix: str = "") -> list[dict]:
        table = open_catalog(f"sqlite:///{self.out}/lake/catalog.db").load_table(f"plant.scores{suffix}")
        return table.scan().to_arrow().to_pylist()

    def files(self) -> list[dict]:
        """The rows of the Parquet files of all runs."""
        paths = [str(path) for path in self.out.glob("runs/*/scores/*.parquet")]
        table = ds.dataset(paths, format="parquet").to_table()
        assert table["defect_group"].null_count == len(table), "the lake has this column only where it was asked for"
        return table.drop_columns("defect_group").to_pylist()


@pytest.fixture
def plant(tmp_path, tiny_weights, invoke, monkeypatch) -> Plant:
    monkeypatch.setenv("PYICEBERG_CATALOG__PLANT__URI", f"sqlite:///{tmp_path}/images.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__PLANT__WAREHOUSE", tmp_path.as_uri())
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())
    return Plant(tmp_path, tiny_weights, invoke)


def by_image(rows: list[dict]) -> list[dict]:
    return sorted(rows, key=lambda row: (row["run_id"], row["image_id"]))


def test_runs_and_nights_from_a_table_into_tables(plant):
    first = plant.deliver(8, "2026-11-22")
    plant.deliver(2, "2026-11-01")
    source = "iceberg://plant/db.images?filter=day >= '2026-11-20'"
    plant.command("run", source, plant.out, *plant.options)
    assert {row["uri"] for row in plant.lake()} == set(first)
    (run,) = plant.runs()
    assert run["source_snapshot"] == plant.images.current_snapshot().snapshot_id

    new = plant.deliver(3, "2026-11-23")
    plant.command("rescore", plant.out, "--new")
    night = plant.runs()[-1]
    assert {row["uri"] for row in plant.lake() if row["run_id"] == night["run_id"]} == set(new)
    assert by_image(plant.lake()) == by_image(plant.files())
    assert len(plant.lake("_current")) == 11
    assert {row["run_id"]: row["source_snapshot"] for row in plant.lake("_runs")} == {
        run["run_id"]: run["source_snapshot"],
        night["run_id"]: plant.images.current_snapshot().snapshot_id,
    }
    assert "No new images" in plant.command("rescore", plant.out, "--new")

    listed = plant.command("runs", plant.out)
    assert run["run_id"] in listed
    assert "2 runs already published" in plant.command("publish", plant.out)


def test_the_recipes_read_what_a_run_published(tmp_path, plant, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant.out = tmp_path / "results"
    plant.deliver(4, "2026-11-22", group="all")
    plant.command("run", "iceberg://plant/db.images", plant.out, *plant.options)
    recipes = re.findall(r"```python\n(.*?)```", RECIPES.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(recipes) == 4
    for code in recipes:
        exec(compile(code, str(RECIPES), "exec"), {})  # noqa: S102, our own README


@pytest.mark.slow
def test_a_night_lists_only_rows_that_came_after_the_snapshot_it_remembers(plant, monkeypatch):
    plant.deliver(6, "2026-11-22")
    plant.command("run", "iceberg://plant/db.images", plant.out, *plant.options)
    new = plant.deliver(3, "2026-11-23")
    listed: list[str] = []

    def watched(source):
        for image in list_source(source):
            listed.append(image.uri)
            yield image

    from musc_ray.sources.registry import list_source

    monkeypatch.setattr("musc_ray.sources.catalog.list_source", watched)
    plant.command("rescore", plant.out, "--new")
    assert sorted(listed) == sorted(new)

    listed.clear()
    plant.deliver(1, "2026-11-23", group="a lonely product")
    last = plant.deliver(2, "2026-11-23")
    assert "waits" in plant.command("rescore", plant.out, "--new")
    assert len(listed) == 3
    listed.clear()
    plant.deliver(1, "2026-11-24", group="a lonely product")
    plant.command("rescore", plant.out, "--new")
    assert len(listed) == 4  # what waited is looked for again, and so is the rest of that night
    assert {row["uri"] for row in plant.lake()} >= set(last)
    assert len(plant.lake("_current")) == 13


@pytest.mark.slow
def test_rows_that_were_deleted_make_the_next_night_list_all(plant):
    uris = plant.deliver(6, "2026-11-22")
    plant.command("run", "iceberg://plant/db.images", plant.out, *plant.options)
    plant.images.delete(f"uri = '{uris[0]}'")
    plant.deliver(2, "2026-11-23")
    plant.command("rescore", plant.out, "--new")
    assert len(plant.lake()) == 8


def test_a_run_that_was_not_published_is_published_by_the_command_that_finds_it(plant, monkeypatch):
    plant.deliver(4, "2026-11-22")
    command = ("run", "iceberg://plant/db.images", plant.out, *plant.options)

    def fail(*_):
        raise OSError("the bucket is away")

    with monkeypatch.context() as patched:
        patched.setattr("musc_ray.lake.run_tables.commit_run", fail)
        text = plant.command(*command, code=1)
    assert "is complete but not in the table plant.scores: the bucket is away." in text
    assert "already complete" in plant.command(*command)
    assert len(plant.lake()) == 4
    plant.command(*command, "--contamination", "0.25")
    assert sum(row["is_anomalous"] for row in plant.lake("_current")) == 1


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("iceberg://plant/db.nothing", "has no table db.nothing"),
        ("iceberg://nowhere/db.images", "There is no Iceberg catalog 'nowhere'"),
        ("iceberg://plant/images", "write iceberg://CATALOG/NAMESPACE.TABLE"),
        ("iceberg://plant/db.images?filter=week = 3", "does not fit db.images"),
        ("iceberg://plant/db.images?filter=day >> 3", "does not fit db.images"),
        ("iceberg://plant/db.images?snapshot=12", "has no snapshot 12"),
    ],
)
def test_sources_that_are_none_are_one_sentence(plant, source, sentence):
    plant.deliver(2, "2026-11-22")
    result = plant.invoke("run", source, plant.out, *plant.options)
    assert result.exit_code in (1, 2)
    assert "Traceback" not in result.stderr
    assert sentence in result.stderr.splitlines()[-1]


def make_old(folder: Path) -> None:
    for path in folder.rglob("*.parquet"):
        os.utime(path, (0, 0))


def test_a_run_that_begins_while_garbage_is_removed_stops_and_can_be_repeated(plant, monkeypatch):
    plant.deliver(4, "2026-11-22")
    command = ("run", "iceberg://plant/db.images", plant.out, *plant.options)
    plant.command("extract", *command[1:])
    make_old(plant.out / "features")

    def collect(*listed):  # after it has listed its shards
        (plant.out / "runs").rename(plant.out / "aside")
        (plant.out / "runs").mkdir()
        assert collect_garbage(str(plant.out), 7, delete=True)
        check_kept(*listed)

    with monkeypatch.context() as patched:
        patched.setattr("musc_ray.pipeline.check_kept", collect)
        assert "were removed while the run began" in plant.command(*command, code=1)
    (plant.out / "gc-lease.json").write_text(json.dumps({"what": "Removing", "host": "far", "renewed": time.time()}))
    assert "Removing has been at work" in plant.command(*command, code=1)
    (plant.out / "gc-lease.json").unlink()
    plant.command(*command)
    assert len(plant.lake()) == 4


def test_gc_removes_what_no_run_needs_and_nothing_else(plant):
    plant.deliver(4, "2026-11-22")
    source = "iceberg://plant/db.images"
    plant.command("run", source, plant.out, *plant.options)
    assert "Nothing to remove" in plant.command("gc", plant.out)
    (features,) = (plant.out / "features").iterdir()
    (shard,) = features.rglob("*.parquet")
    other = features.parent / "fedcba9876543210" / "group=cells"
    other.mkdir(parents=True)
    (other / shard.name).write_bytes(shard.read_bytes())
    assert "Nothing to remove" in plant.command("gc", plant.out)  # a run on them may be to come
    make_old(features.parent)
    dead = plant.out / "runs" / "run-dead"
    dead.mkdir()
    started = json.loads(next((plant.out / "runs").glob("*/started.json")).read_text())
    long_ago = (datetime.now(UTC) - timedelta(days=30)).isoformat()
    (dead / "started.json").write_text(json.dumps({**started, "started_at": long_ago}))
    work = next(plant.out.glob("runs/*/run.json")).parent / "work"
    work.mkdir()
    (work / "left.npy").write_bytes(b"x" * 1000)

    before = sorted(plant.out.rglob("*"))
    assert "would be removed" in plant.command("gc", plant.out)
    assert sorted(plant.out.rglob("*")) == before
    assert "removed" in plant.command("gc", plant.out, "--delete")
    assert not other.parent.exists()
    assert not dead.exists()
    assert not work.exists()
    assert shard.exists()
    assert "Nothing to remove" in plant.command("gc", plant.out)


def test_gc_lets_runs_at_work_and_their_features_alone(plant):
    plant.deliver(4, "2026-11-22")
    plant.command("run", "iceberg://plant/db.images", plant.out, *plant.options)
    (run,) = (plant.out / "runs").iterdir()
    os.rename(run / "run.json", plant.out / "aside.json")  # noqa: PTH104
    progress = json.loads((run / "progress.json").read_text())
    assert "Nothing to remove" in plant.command("gc", plant.out)
    assert "is running" in plant.command("gc", plant.out, "--delete", code=1)
    for days, removed in ((3, False), (8, True)):
        progress["updated_at"] = (datetime.now(UTC) - timedelta(days=days)).isoformat()
        (run / "progress.json").write_text(json.dumps(progress))
        make_old(plant.out / "features")
        plant.command("gc", plant.out, "--delete")
        assert run.exists() != removed
    assert not list((plant.out / "features").iterdir())
