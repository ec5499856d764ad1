"""Images from an Iceberg table: which rows and columns are read, and which need not be."""

import pyarrow as pa
import pytest
from pyiceberg.io.pyarrow import ArrowScan
from pyiceberg.utils.config import Config

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
