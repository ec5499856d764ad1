"""Images inside containers: found by the catalog, read again from their URI alone."""

import io
import tarfile
from types import SimpleNamespace

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from musc_ray.errors import MuscRayError
from musc_ray.sources import parquet_images, tar
from musc_ray.sources.catalog import catalog_images
from musc_ray.sources.overlap import lists_out
from musc_ray.sources.reading import read_image
from musc_ray.sources.registry import open_source

CONTENT = {f"{n:03d}/cell 'ü' {n}.png": bytes([n]) * (700 + n) for n in range(7)}


@pytest.fixture(autouse=True)
def fresh_caches(monkeypatch):
    monkeypatch.setattr("musc_ray.storage.retry.FIRST_PAUSE_SECONDS", 0.0)
    for cached in (tar._cached_members, parquet_images._row_group_starts, parquet_images._images_of):
        cached.cache_clear()


@pytest.fixture(params=["file", "memory"])
def folder(request, tmp_path):
    """A place on two filesystems, as a URI without trailing slash."""
    if request.param == "file":
        yield str(tmp_path)
    else:
        yield "memory://lake"
        fsspec.filesystem("memory").rm("/lake", recursive=True)


def write(uri: str, content: bytes) -> None:
    with fsspec.open(uri, "wb") as file:
        file.write(content)


def tar_of(content: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def parquet_of(columns: dict[str, list]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, row_group_size=3)
    return file.getvalue()


def contents(source: str, group_by: str | None = None) -> dict[str, list[bytes]]:
    listed = catalog_images(source, group_by)
    assert len({image.image_id for images in listed.values() for image in images}) == sum(map(len, listed.values()))
    return {group: sorted(read_image(image.uri) for image in images) for group, images in listed.items()}


def test_webdataset_shards(folder):
    names = list(CONTENT)
    more = {"notes.json": b"{}", "class.cls": b"1"}
    write(f"{folder}/a.tar", tar_of({name: CONTENT[name] for name in names[:4]} | more))
    write(f"{folder}/b.tar", tar_of({name: CONTENT[name] for name in names[4:]}))
    assert contents(folder) == {"all": sorted(CONTENT.values())}
    assert contents(f"{folder}/*.tar") == {"all": sorted(CONTENT.values())}
    assert len(contents(f"{folder}/b.tar")["all"]) == 3
    assert set(contents(folder, "{group}.tar/**")) == {"a", "b"}
    uris = [image.uri for image in catalog_images(f"{folder}/b.tar")["all"]]
    assert all(uri.split("#")[0].endswith("/b.tar") and uri.split("#")[1] in CONTENT for uri in uris)


@pytest.mark.parametrize("struct", [False, True])
@pytest.mark.parametrize("column", ["image", "bytes", "image_bytes"])
def test_tables_of_image_bytes(folder, column, struct):
    values = [{"bytes": data, "path": name} if struct else data for name, data in CONTENT.items()]
    write(f"{folder}/part-0.parquet", parquet_of({column: values, "group": list("aabbbbb")}))
    expected = list(CONTENT.values())
    assert contents(f"{folder}/part-0.parquet") == {"a": expected[:2], "b": expected[2:]}
    assert contents(folder) == {"a": expected[:2], "b": expected[2:]}


def test_plain_files_and_containers_side_by_side(folder):
    write(f"{folder}/plain #1.png", b"plain")
    write(f"{folder}/shard.tar", tar_of({"in.png": b"tar"}))
    write(f"{folder}/table.parquet", parquet_of({"image": [b"parquet"]}))
    write(f"{folder}/other.parquet", parquet_of({"number": [1]}))
    assert contents(folder) == {"all": [b"parquet", b"plain", b"tar"]}


def test_a_container_that_changes_is_a_new_version_of_its_images(tmp_path):
    path = tmp_path / "shard.tar"
    path.write_bytes(tar_of({"a.png": b"one"}))
    (before,) = catalog_images(str(path))["all"]
    path.write_bytes(tar_of({"b.png": b"zero", "a.png": b"other"}))
    after = next(image for image in catalog_images(str(path))["all"] if image.uri.endswith("a.png"))
    assert before.image_id == after.image_id
    assert before.version != after.version


def test_an_empty_and_a_broken_container_are_named(folder):
    write(f"{folder}/empty.tar", tar_of({}))
    with pytest.raises(MuscRayError, match="No images found"):
        catalog_images(f"{folder}/empty.tar")
    for name in ("broken.tar", "broken.parquet"):
        write(f"{folder}/{name}", b"neither tar nor parquet" * 50)
        with pytest.raises(MuscRayError, match=name) as error:
            catalog_images(f"{folder}/{name}")
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["no.png", "a.tar#no.png", "t.parquet#row=9", "no.tar#a.png", "t.parquet#row=1"])
def test_what_is_not_there_is_not_found_at_once(folder, missing):
    write(f"{folder}/a.tar", tar_of({"a.png": b"a"}))
    write(f"{folder}/t.parquet", parquet_of({"image": [b"a", None]}))
    with pytest.raises(FileNotFoundError):
        read_image(f"{folder}/{missing}")


def test_every_row_of_a_table_with_many_row_groups_is_found_with_one_addition_a_row_group(monkeypatch):
    class Count(int):
        additions = 0

        def __add__(self, other):
            Count.additions += 1
            return Count(int(self) + int(other))

        __radd__ = __add__

    class Footer:
        num_row_groups = 2000

        def row_group(self, number):
            return SimpleNamespace(num_rows=Count(number % 3))

    fsspec.filesystem("memory").pipe_file("/many.parquet", b"")
    monkeypatch.setattr(parquet_images.pq, "read_metadata", lambda file: Footer())
    read = lambda container, group, max_bytes, column: pa.chunked_array(  # noqa: E731
        [pa.array([f"{group}-{row}".encode() for row in range(group % 3)], pa.binary())]
    )
    monkeypatch.setattr(parquet_images, "_images_of", read)
    expected = [f"{group}-{row}".encode() for group in range(2000) for row in range(group % 3)]
    assert [read_image(f"memory://many.parquet#row={row}") for row in range(len(expected))] == expected
    with pytest.raises(FileNotFoundError):
        read_image(f"memory://many.parquet#row={len(expected)}")
    assert Count.additions <= 2000


@pytest.mark.parametrize(
    ("source", "kind", "walked"),
    [
        ("iceberg://plant/db.images?filter=day = 1", "IcebergSource", None),
        ("/data/day?filter=line = 3", "DatasetSource", "/data/day"),
        ("s3://plant/list.csv", "TableSource", None),
        ("/data/list.PARQUET", "TableSource", None),
        ("/data/*.tar", "FilesSource", "/data/*.tar"),
        ("s3://plant/photos/", "FilesSource", "s3://plant/photos/"),
        ("photo.png", "FilesSource", "photo.png"),
    ],
)
def test_each_source_is_of_the_first_kind_that_recognises_it(source, kind, walked):
    found = open_source(source)
    assert (type(found).__name__, found.walked(), found.text) == (kind, walked, source)


def test_a_folder_with_a_filter_lists_what_is_written_below_it():
    assert lists_out("/data/day?filter=line = 3", "/data/day/out")
    assert not lists_out("/data/day?filter=line = 3", "/data/out")
    assert not lists_out("iceberg://plant/db.images", "/data/out")


def test_a_folder_called_like_a_table_is_a_folder(folder):
    write(f"{folder}/photos.parquet/a.png", b"a")
    write(f"{folder}/photos.csv/b.png", b"b")
    assert contents(f"{folder}/photos.parquet") == {"all": [b"a"]}
    assert contents(f"{folder}/photos.csv") == {"all": [b"b"]}
