"""Images from an Iceberg table: which rows and columns are read, and which need not be."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.utils.config import Config

from musc_ray.errors import MuscRayError
from musc_ray.lake.catalog import open_catalog
from musc_ray.sources.catalog import list_images
from musc_ray.sources.iceberg import IcebergSource, TableRows, parse_source

IMAGES = pa.schema([("uri", pa.string()), ("group", pa.string()), ("line", pa.int32()), ("bytes", pa.binary())])
SOURCE = "iceberg://plant/db.images"


@pytest.fixture
def images(tmp_path, monkeypatch):
    monkeypatch.setenv("PYICEBERG_CATALOG__PLANT__URI", f"sqlite:///{tmp_path}/images.db")
    monkeypatch.setenv("PYICEBERG_CATALOG__PLANT__WAREHOUSE", tmp_path.as_uri())
    monkeypatch.setattr("pyiceberg.catalog._ENV_CONFIG", Config())
    catalog = open_catalog("plant")
    catalog.create_namespace("db")
    return catalog.create_table("db.images", IMAGES)


def deliver(images, *numbers: int) -> None:
    rows = [{"uri": f"s3://plant/{n}.png", "group": "cells", "line": n % 2, "bytes": b"x"} for n in numbers]
    images.append(pa.Table.from_pylist(rows, schema=IMAGES))


def listed(given: str, after: int | None = None) -> list[str]:
    groups = list_images(given, None, after).groups
    return sorted(image.uri[len("s3://plant/") : -len(".png")] for group in groups.values() for image in group)


def test_a_filter_reads_its_rows_and_only_the_columns_that_matter(images, monkeypatch):
    deliver(images, 1, 2, 3, 4)
    projected = []
    init = ArrowScan.__init__

    def watched(self, table_metadata, io, projected_schema, *rest, **more):
        projected.append(projected_schema.column_names)
        init(self, table_metadata, io, projected_schema, *rest, **more)

    monkeypatch.setattr(ArrowScan, "__init__", watched)
    assert listed(f"{SOURCE}?filter=line = 1") == ["1", "3"]
    assert listed(f"{SOURCE}?filter=uri%20!=%20's3://plant/1.png' and line = 1") == ["3"]
    assert projected == [["uri", "group"]] * 2


def test_after_a_snapshot_only_what_was_appended_since(images):
    deliver(images, 1, 2)
    seen = IcebergSource(SOURCE).snapshot()
    again = list_images(SOURCE, None, seen)
    assert (again.groups, again.snapshot, again.listed) == ({}, seen, 0)
    deliver(images, 3)
    deliver(images, 4)
    assert listed(SOURCE, seen) == ["3", "4"]
    assert listed(f"{SOURCE}?filter=line = 1", seen) == ["3"]
    assert listed(f"{SOURCE}?filter=line = 7", seen) == []
    assert listed(f"{SOURCE}?snapshot={seen}") == ["1", "2"]


@pytest.mark.parametrize("change", ["delete", "overwrite"])
def test_when_rows_were_changed_since_all_are_listed(images, change):
    deliver(images, 1, 2)
    seen = IcebergSource(SOURCE).snapshot()
    if change == "delete":
        images.delete("line = 1")
    else:
        images.overwrite(images.scan().to_arrow())
    deliver(images, 4)
    assert listed(SOURCE, seen) == (["2", "4"] if change == "delete" else ["1", "2", "4"])


def test_a_snapshot_that_is_gone_lists_all(images):
    deliver(images, 1)
    assert listed(SOURCE, 12345) == ["1"]


def test_parts_of_a_source():
    source = IcebergSource(f"{SOURCE}?filter=at >= '2026-11-23T00:00:00+00:00'").between(7, 5)
    assert parse_source(source.text) == TableRows("plant", "db.images", "at >= '2026-11-23T00:00:00+00:00'", 7, 5)


TYPED = pa.schema(
    [("path", pa.string()), ("line", pa.int32()), ("ts", pa.timestamp("us", "UTC")), ("image", pa.binary())]
)


@pytest.fixture
def typed(images):
    table = open_catalog("plant").create_table("db.typed", TYPED)
    boundary = datetime(2026, 11, 23, 23, tzinfo=UTC)
    rows = [
        {"path": "s3://plant/a.png", "line": 0, "ts": boundary - timedelta(microseconds=1)},
        {"path": None, "line": 0, "ts": boundary},
        {"path": "relative.png", "line": 1, "ts": boundary},
        {"path": "s3://plant/b.png", "line": None, "ts": boundary},
        {"path": "/data/c.png", "line": 1, "ts": boundary + timedelta(hours=1)},
    ]
    table.append(pa.Table.from_pylist(rows, schema=TYPED))
    return "iceberg://plant/db.typed"


@pytest.mark.parametrize("column", ["uri=path,group=line", "uri=path, group=line, version=line"])
def test_values_of_columns_keep_their_meaning(typed, column):
    catalog = list_images(typed, column=column)
    assert {group: [image.uri for image in images] for group, images in catalog.groups.items()} == {
        "0": ["s3://plant/a.png"],
        "1": ["file:///data/c.png"],
    }
    place = f"{typed}?snapshot={catalog.snapshot}#row="
    assert [row.uri for row in catalog.unreadable] == [f"{place}1", f"{place}2", "s3://plant/b.png"]
    assert "relative to nothing" in catalog.unreadable[1].message


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("ts >= '2026-11-24T00:00:00%2B01:00'", 4),
        ("ts >= '2026-11-24T00:00:00'", 1),
        ("ts < '2026-11-24'", 4),
        ("ts < '2026-11-23T23:00:00Z'", 1),
    ],
)
def test_times_of_any_zone(typed, condition, expected):
    assert list_images(f"{typed}?filter={condition}", column="path").listed == expected


def test_images_of_iceberg_tables_are_refused(typed):
    with pytest.raises(MuscRayError, match=r"no column 'uri'.*path"):
        list_images(typed)
    with pytest.raises(MuscRayError, match="give uri=NAME"):
        list_images(typed, column="image=image")
