"""The URI of a file that a table names, on disks, in buckets and on web servers."""

import fsspec
import pytest

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import uri_beside

BUCKET = "bucket/lot/list.csv"


@pytest.fixture
def bucket():
    return fsspec.filesystem("s3", anon=True)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a.png", "s3://bucket/lot/a.png"),
        ("./a.png", "s3://bucket/lot/a.png"),
        ("../b/a.png", "s3://bucket/b/a.png"),
        ("../a.png", "s3://bucket/a.png"),
        ("x/../../a.png", "s3://bucket/a.png"),
        ("x//a.png", "s3://bucket/lot/x//a.png"),
        ("x\\a.png", "s3://bucket/lot/x/a.png"),
        ("s3://other/./a.png", "s3://other/./a.png"),
        ("a#1 ?.png", "s3://bucket/lot/a#1 ?.png"),
    ],
)
def test_in_a_bucket(bucket, given, expected):
    assert uri_beside(bucket, BUCKET, given) == expected


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ("../../a.png", "leads out of the table's bucket"),
        ("x/../../../a.png", "leads out of the table's bucket"),
        ("/data/a.png", "begins with /"),
        ("D:\\a.png", "path of Windows"),
        ("d:/a.png", "path of Windows"),
    ],
)
def test_what_means_nothing_in_a_bucket(bucket, given, reason):
    with pytest.raises(MuscRayError, match=reason):
        uri_beside(bucket, BUCKET, given)


@pytest.mark.parametrize(
    ("table", "given", "expected"),
    [
        ("/data/lot/list.csv", "a.png", "file:///data/lot/a.png"),
        ("/data/lot/list.csv", "../.././a.png", "file:///a.png"),
        ("/data/lot/list.csv", "x//a.png", "file:///data/lot/x/a.png"),
        ("/data/lot/list.csv", "/b/a.png", "file:///b/a.png"),
        ("/data/x/../lot/list.csv", "a.png", "file:///data/x/../lot/a.png"),  # as a walk of that folder names it
        ("/data/x/../list.csv", "../a.png", "file:///a.png"),
        ("/list.csv", "a.png", "file:///a.png"),
    ],
)
def test_on_a_disk(table, given, expected):
    assert uri_beside(fsspec.filesystem("file"), table, given) == expected


def test_on_a_web_server():
    web = fsspec.filesystem("http")
    assert uri_beside(web, "http://host/lot/list.csv", "../b/a.png") == "http://host/b/a.png"
    with pytest.raises(MuscRayError, match="leads out"):
        uri_beside(web, "http://host/lot/list.csv", "../../a.png")
