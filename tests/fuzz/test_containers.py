"""Tar shards, tables of images and lists of URIs, broken and hostile: listed and read, or a sentence."""

import io
import tarfile
from contextlib import suppress

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given

from musc_ray.errors import ImageError, MuscRayError
from musc_ray.sources import parquet_images, tar
from musc_ray.sources.catalog import catalog_images
from musc_ray.sources.decoding import decode_image
from musc_ray.sources.reading import read_image
from musc_ray.storage.retry import StorageError
from tests.fuzz.conftest import examples
from tests.fuzz.mutation import mutated
from tests.helpers.pictures import solar_cells

CELLS = [path.read_bytes() for path in solar_cells(3)]


def tar_of(kind: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        for number, cell in enumerate(CELLS):
            member = tarfile.TarInfo(f"{'long' * (24 if kind == tarfile.USTAR_FORMAT else 40)}/{number}.png")
            member.size = 2000
            archive.addfile(member, io.BytesIO(cell))
    return file.getvalue()


def parquet_of(**options) -> bytes:
    return written(pa.table({"image": [cell[:2000] for cell in CELLS], "group": ["a", "b", None]}), **options)


def written(table: pa.Table, **options) -> bytes:
    file = io.BytesIO()
    pq.write_table(table, file, **options)
    return file.getvalue()


URIS = pa.table(
    {
        "uri": pa.array([b"a.png", b"\xff", None, b"../b.png"]).dictionary_encode(),
        "group": [0, 1, None, 3.5],
        "version": ["1", None, "", "2"],
    }
)


TARS = (tar_of(tarfile.PAX_FORMAT), tar_of(tarfile.GNU_FORMAT), tar_of(tarfile.USTAR_FORMAT))
TABLES = (parquet_of(row_group_size=1), parquet_of(compression="zstd"), parquet_of(compression="none"), written(URIS))
LISTS = (
    b"uri,group\n/a/b.png,x\nc.png,\n",
    b'uri,version\n"memory://b/a,b.png",1\n\n"x""y.png"\n',
    b"uri\n" + b"a.png\n" * 50,
    'sep=;\r\n uri ;\tGroup \r\n ../\u00e4.png;001\r\n\r\n"x\r\ny.png";0\r\n'.encode("utf-8-sig"),
    "uri\tgroup\r\na\\b.png\tx\r\n".encode("utf-16"),
)


@pytest.fixture(autouse=True)
def _no_memory():
    """Nothing that was read of a file of the same name is kept."""
    yield
    for cached in (tar._cached_members, parquet_images._row_group_starts, parquet_images._images_of):
        cached.cache_clear()


def look_at(path) -> None:
    """List a source and read all that it names."""
    for cached in (tar._cached_members, parquet_images._row_group_starts, parquet_images._images_of):
        cached.cache_clear()
    try:
        groups = catalog_images(str(path))
    except MuscRayError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    for images in groups.values():
        for image in images:
            with suppress(ImageError, FileNotFoundError, IsADirectoryError):
                decode_image(read_image(image.uri, 2**24), (14, 14), max_pixels=200_000)


@pytest.mark.parametrize(
    ("suffix", "seeds", "count"), [("tar", TARS, 150), ("parquet", TABLES, 200), ("csv", LISTS, 100)]
)
def test_damaged_containers(suffix, seeds, count, tmp_path, no_hang, figures):
    path = tmp_path / f"images.{suffix}"

    @examples(count)
    @given(data=mutated(seeds))
    def damaged(data: bytes) -> None:
        figures["inputs fuzzed"] += 1
        path.write_bytes(data)
        with no_hang():
            look_at(path)

    damaged()


def test_a_tar_that_leads_back_to_its_start_is_refused(tmp_path, no_hang):
    """CVE-2025-8194: a negative size; older Pythons go round for ever."""
    header = bytearray(TARS[2][:512])
    header[124:136] = b"\xff" * 12  # base 256, -1 and so on
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    path = tmp_path / "round.tar"
    path.write_bytes(bytes(header) + TARS[2][512:])
    with no_hang():
        look_at(path)
        with pytest.raises(MuscRayError):
            catalog_images(str(path))


def test_uris_that_name_nothing_are_rows_and_not_the_end(figures):
    for uri in (
        "nothing://a/b.png", "c:/x.png", "file:///" + "n" * 5000 + ".png", "file:///a\x00b.png", "zip://a.png::s3://b/c",
        "memory://a.tar#b.png", "memory://t.parquet#row=" + "9" * 30, "://x", "file://", "",
    ):  # fmt: skip
        figures["inputs fuzzed"] += 1
        with pytest.raises((ImageError, FileNotFoundError, IsADirectoryError)):
            read_image(uri)


def test_a_storage_that_cannot_be_asked_is_one_sentence_and_no_broken_image(monkeypatch):
    class NoCredentialsError(Exception):
        """As botocore's, which is no OSError."""

    def ask(self, path, mode="rb", **options):
        raise NoCredentialsError("Unable to locate credentials")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "open", ask)
    with pytest.raises(StorageError, match="Unable to locate credentials; check the storage"):
        read_image("memory://b/a.png")

    def unopened(name):
        raise ImportError("Install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "get_filesystem_class", unopened)
    with pytest.raises(StorageError, match="Install gcsfs"):
        read_image("gs://b/a.png")


def test_bytes_beyond_the_limit_are_not_read(monkeypatch):
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/limit/large.png", bytes(3000))
    memory.pipe_file("/limit/images.tar", TARS[2])
    memory.pipe_file("/limit/images.parquet", parquet_of(row_group_size=1, compression="none"))
    assert len(read_image("memory://limit/large.png", 3000)) == 3000
    for uri in ("large.png", f"images.tar#{'long' * 24}/2.png", "images.parquet#row=1"):
        with pytest.raises(ImageError, match="more than max_image_mb"):
            read_image(f"memory://limit/{uri}", 1999)

    asked = []

    class Answer(io.BytesIO):
        size = None

        def read(self, count=-1):
            asked.append(count)
            return super().read(count)

    def untold(self, path, mode="rb", **options):  # a web server that does not say how long its answer is
        return Answer(bytes(10_000))

    monkeypatch.setattr(type(memory), "open", untold)
    with pytest.raises(ImageError, match="The file is larger than max_image_mb"):
        read_image("memory://limit/large.png", 2000)
    assert asked == [2001]


def test_signed_uris_in_a_table_are_refused(tmp_path):
    path = tmp_path / "images.csv"
    for uri in (
        "https://h/x.png?X-Amz-Signature=abcdef123",
        "https://h/x.png?sv=1&sig=abcdef123",
        "s3://k:abcdef123@b/x.png",
    ):
        path.write_text(f"uri\ngood.png\n{uri}\n")
        with pytest.raises(MuscRayError, match="carries credentials") as error:
            catalog_images(str(path))
        assert "abcdef123" not in str(error.value)
    path.write_text("uri\ns3://b/token=abc/x.png\ns3://b/a?key=1.png\nhttps://h/x.png?width=3\n")
    assert len(catalog_images(str(path))["all"]) == 3
