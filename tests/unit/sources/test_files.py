"""Files, folders and links as people have them: every entry is an image, an error, or skipped with its reason."""

import errno
import io
import os
import re
import subprocess
import tarfile
from collections import Counter
from typing import ClassVar

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from musc_ray.errors import MuscRayError, SettingsError
from musc_ray.sources.catalog import Catalog, list_images
from musc_ray.sources.decoding import FORMATS
from musc_ray.sources.images import SKIP_REASONS
from musc_ray.sources.names import (
    IMAGE_SUFFIXES,
    OTHER_SUFFIXES,
    PACKED_SUFFIXES,
    TEXT_SUFFIXES,
    UNSUPPORTED_SUFFIXES,
    skipped_part,
)
from musc_ray.sources.reading import read_image
from tests.helpers.door import ERROR, FILES, IMAGE, picture, tar_of, write_files, write_links


def outcomes(catalog: Catalog, root: str) -> dict[str, str]:
    """Return what became of each entry, by its path below the root; an entry that is listed twice shows both."""
    found: dict[str, str] = {}
    entries = [(image.uri, IMAGE) for images in catalog.groups.values() for image in images]
    entries += [(entry.uri, entry.reason) for entry in catalog.skipped]
    entries += [(entry.uri, ERROR) for entry in catalog.unreadable]
    for uri, outcome in entries:
        name = uri.partition(root)[2].lstrip("/")
        found[name] = f"{found[name]}, {outcome}" if name in found else outcome
    assert catalog.listed == len(entries)
    return found


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr("musc_ray.storage.retry.FIRST_PAUSE_SECONDS", 0.0)


@pytest.mark.parametrize("place", ["local", "memory"])
def test_a_messy_folder_loses_nothing(tmp_path, place):
    expected = write_files(tmp_path / "src")
    root = str(tmp_path / "src")
    if place == "memory":
        memory, root = fsspec.filesystem("memory"), "memory://messy"
        for path in (tmp_path / "src").rglob("*"):
            if path.is_file():
                memory.pipe_file(f"/messy/{path.relative_to(tmp_path / 'src')}", path.read_bytes())
    try:
        catalog = list_images(root)
        assert outcomes(catalog, root.rpartition("//")[2]) == expected
        for images in catalog.groups.values():
            for image in images:
                assert len(read_image(image.uri)) > 0
    finally:
        if place == "memory":
            memory.rm("/messy", recursive=True)
    assert {entry.reason for entry in catalog.skipped} <= set(SKIP_REASONS)


def test_links_are_followed_and_rings_end(tmp_path):
    expected = write_files(tmp_path / "src") | write_links(tmp_path / "src", tmp_path / "outside")
    assert outcomes(list_images(str(tmp_path / "src")), str(tmp_path / "src")) == expected


def test_a_link_to_a_hidden_store_is_the_image(tmp_path):
    """As git-annex, DVC and Hugging Face's cache have it: the file itself lies in a hidden folder."""
    (tmp_path / ".store").mkdir()
    (tmp_path / ".store/9f86d0").write_bytes(picture("PNG"))
    (tmp_path / "a.png").symlink_to(".store/9f86d0")
    (tmp_path / ".photos").mkdir()
    (tmp_path / ".photos/b.png").write_bytes(picture("PNG"))
    (tmp_path / "photos").symlink_to(".photos")
    found = outcomes(list_images(str(tmp_path)), str(tmp_path))
    assert found == {
        ".store/9f86d0": "hidden",
        ".photos/b.png": "hidden",
        "a.png": IMAGE,
        "photos/b.png": IMAGE,
    }


@pytest.mark.parametrize("place", ["local", "memory"])
def test_results_of_earlier_runs_are_not_images(tmp_path, place):
    fs, root = (
        (fsspec.filesystem("file"), str(tmp_path)) if place == "local" else (fsspec.filesystem("memory"), "/plant")
    )
    names = ["features/f/group=a/shard-00000.parquet", "runs/r/started.json", "runs/r/report/pictures/1.png"]
    for name in [*(f"old/{name}" for name in names), "photos/a.png", "photos/runs/b.png", "photos/features/c.png"]:
        fs.makedirs(f"{root}/{name}".rpartition("/")[0], exist_ok=True)
        fs.pipe_file(f"{root}/{name}", picture("PNG"))
    try:
        found = outcomes(list_images(root if place == "local" else f"memory:/{root}"), root)
    finally:
        if place == "memory":
            fs.rm(root, recursive=True)
    assert found == {
        **{f"old/{name}": "system" for name in names},
        **{f"photos/{name}": IMAGE for name in ("a.png", "runs/b.png", "features/c.png")},
    }


def test_all_extensions_of_the_formats_are_known():
    Image.init()
    registered = {suffix for suffix, name in Image.registered_extensions().items() if name in FORMATS}
    assert registered <= IMAGE_SUFFIXES
    kinds = (IMAGE_SUFFIXES, UNSUPPORTED_SUFFIXES, PACKED_SUFFIXES, TEXT_SUFFIXES, OTHER_SUFFIXES)
    assert max(Counter(suffix for kind in kinds for suffix in kind).values()) == 1


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO, errno.ESTALE])
def test_a_folder_that_cannot_be_listed_fails_the_listing_and_is_named(tmp_path, monkeypatch, no_pauses, number):
    write_files(tmp_path)
    real = os.scandir

    def broken(path):
        if str(path).endswith("notes"):
            raise OSError(number, os.strerror(number), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", broken)
    for source in (str(tmp_path), f"{tmp_path}/**/*.png"):
        with pytest.raises(MuscRayError, match=re.escape(f"{tmp_path}/notes")) as error:
            list_images(source)
        assert os.strerror(number) in str(error.value)


def test_a_system_folder_that_cannot_be_listed_is_skipped(tmp_path, monkeypatch):
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    real = os.scandir

    def broken(path):
        if str(path).endswith("lost+found"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", broken)
    assert outcomes(list_images(str(tmp_path)), str(tmp_path)) == {"a.png": IMAGE, "lost+found": "system"}


def test_a_file_of_unknown_name_that_cannot_be_read_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    (tmp_path / "b").write_bytes(picture("PNG"))
    real = LocalFileSystem.open

    def broken(self, path, *others, **options):
        if path.endswith("/b"):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)
        return real(self, path, *others, **options)

    monkeypatch.setattr(LocalFileSystem, "open", broken)
    assert outcomes(list_images(str(tmp_path)), str(tmp_path)) == {"a.png": IMAGE, "b": ERROR}


TWO = tar_of({f"{n}.png": picture("PNG") for n in range(2)})
BROKEN = {
    "cut in the content": TWO[: 512 + 100],
    "cut in a header": TWO[: 512 + 512 + 100],
    "cut between members": TWO[:1024],
    "without its end": TWO.rstrip(b"\0") + bytes(-len(TWO.rstrip(b"\0")) % 512),
    "a broken header": TWO[:1024] + b"\xff" * 512 + TWO[1536:],
    "other bytes behind the end": TWO + b"other bytes" * 100,
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_tar_that_breaks_or_ends_early_fails_the_listing(tmp_path, how):
    (tmp_path / "a.tar").write_bytes(BROKEN[how])
    with pytest.raises(MuscRayError, match=r"a\.tar"):
        list_images(str(tmp_path))


def test_concatenated_tars_are_listed_whole(tmp_path):
    parts = [tar_of({f"{n}.png": picture("PNG"), "same.png": picture("PNG")}) for n in range(3)]
    (tmp_path / "a.tar").write_bytes(b"".join(parts))
    catalog = list_images(str(tmp_path))
    found = outcomes(catalog, f"{tmp_path}/a.tar#")
    assert found == {
        "0.png": IMAGE,
        "1.png": IMAGE,
        "2.png": IMAGE,
        "same.png": "image, second_name, second_name",
    }
    assert all(read_image(image.uri) == picture("PNG") for image in catalog.groups["all"])


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_tars_lead_to_their_image(tmp_path, kind):
    target = "blob/1" if kind == tarfile.LNKTYPE else "../blob/1"
    (tmp_path / "a.tar").write_bytes(tar_of({"blob/1": b"text", "img/1.png": target}, kind))
    (image,) = list_images(str(tmp_path)).groups["all"]
    assert image.uri.endswith("a.tar#img/1.png")
    assert read_image(image.uri) == b"text"


def test_links_in_tars_of_the_present_folder_and_through_folders(tmp_path):
    """As `tar cf x.tar .` writes them."""
    members = {
        "./a.png": picture("PNG"),
        "./l.png": "a.png",
        "./day/b.jpg": picture("JPEG"),
        "./latest": "day",
        "./through.jpg": "latest/b.jpg",
        "./twice": "latest",
        "./gone.png": "latest/c.png",
    }
    (tmp_path / "x.tar").write_bytes(tar_of(members))
    catalog = list_images(str(tmp_path))
    assert outcomes(catalog, f"{tmp_path}/x.tar#") == {
        "./a.png": IMAGE,
        "./l.png": "second_name",
        "./day/b.jpg": IMAGE,
        "./latest": "second_name",
        "./through.jpg": "second_name",
        "./twice": "second_name",
        "./gone.png": ERROR,
    }


def test_members_with_names_of_containers_are_read(tmp_path):
    inside = {"y.tar#z.png": picture("PNG"), "t.parquet#row=1": picture("JPEG")}
    (tmp_path / "x.tar").write_bytes(tar_of(inside))
    (tmp_path / "odd.tar#name.tar").write_bytes(tar_of({"a.png": picture("BMP")}))
    read = {
        image.uri.partition(".tar#")[2]: read_image(image.uri) for image in list_images(str(tmp_path)).groups["all"]
    }
    assert read == {**inside, "name.tar#a.png": picture("BMP")}


def test_sparse_members_of_tars_are_errors(tmp_path):
    with (tmp_path / "a.bmp").open("wb") as file:
        file.write(b"BM")
        file.seek(2**20)
        file.write(b"end")
    for kind in ("gnu", "pax"):
        command = ["tar", f"--format={kind}", "--sparse", "-cf", f"{tmp_path}/{kind}.tar", "-C", str(tmp_path), "a.bmp"]
        subprocess.run(command, check=True)
        (tmp_path / "kept.png").write_bytes(picture("PNG"))
        found = outcomes(list_images(f"{tmp_path}/*.[tp][an][rg]"), str(tmp_path))
        (tmp_path / f"{kind}.tar").unlink()
        assert [(outcome, name.startswith(kind)) for name, outcome in found.items() if "#" in name] == [(ERROR, True)]


def test_a_container_that_is_written_again_is_read_anew(tmp_path):
    path = tmp_path / "x.tar"
    for names in (("a.png", "b.png"), ("b.png", "a.png")):
        path.write_bytes(tar_of({name: name.encode() for name in names}))
        images = list_images(str(tmp_path)).groups["all"]
        assert {image.uri.rpartition("#")[2]: read_image(image.uri) for image in images} == {
            "a.png": b"a.png",
            "b.png": b"b.png",
        }


def test_one_object_is_one_image_of_each_group(tmp_path):
    for folder in ("A", "B", "C", ".store"):
        (tmp_path / folder).mkdir()
    (tmp_path / "A/x.png").write_bytes(picture("PNG"))
    (tmp_path / ".store/k").write_bytes(picture("PNG"))
    for name, target in {"B/x.png": "../A/x.png", "B/y.png": "../A/x.png", "C/1.png": "../.store/k"}.items():
        (tmp_path / name).symlink_to(target)
    (tmp_path / "C/2.png").symlink_to("../.store/k")
    (tmp_path / "D").symlink_to("A")
    catalog = list_images(str(tmp_path), "{group}/*")
    assert {name: len(images) for name, images in catalog.groups.items()} == {"A": 1, "B": 1, "C": 1, "D": 1}
    assert outcomes(catalog, str(tmp_path)) == {
        "A/x.png": IMAGE,
        "B/x.png": IMAGE,
        "B/y.png": "second_name",
        "C/1.png": IMAGE,
        "C/2.png": "second_name",
        "D/x.png": IMAGE,
        ".store/k": "hidden",
    }


def test_a_group_without_a_name_is_an_error(tmp_path):
    for name in ("lot1 a.png", "b.png"):
        (tmp_path / name).write_bytes(picture("PNG"))
    for group_by in (r"(?P<group>lot\d)?.*", r"(?P<group>[lot]*\d?).*"):
        catalog = list_images(str(tmp_path), group_by)
        assert list(catalog.groups) == ["lot1"]
        assert [entry.error for entry in catalog.unreadable] == ["GroupByError"]


def test_the_folder_of_a_delta_table_is_refused(tmp_path):
    (tmp_path / "_delta_log").mkdir()
    (tmp_path / "_delta_log/00000000000000000000.json").write_text("{}")
    (tmp_path / "a.png").write_bytes(picture("PNG"))
    with pytest.raises(MuscRayError, match="Delta table"):
        list_images(str(tmp_path))


class Store(fsspec.AbstractFileSystem):
    """An object store with keys that a disk cannot hold: markers of folders, a key that begins others."""

    protocol = "store"
    keys: ClassVar[dict[str, bytes]] = {
        "bk/e/im.parquet/": b"",
        "bk/e/im.parquet/a.png": picture("PNG"),
        "bk/sub": picture("PNG"),
        "bk/sub/c.png": picture("PNG"),
    }

    def find(self, path, **_):
        return {key: self.info(key) for key in self.keys if key == path or key.startswith(f"{path}/")}

    def _open(self, path, *_, **__):
        return io.BytesIO(self.keys[path])

    def info(self, path, **_):
        if path in self.keys:
            return {"name": path, "type": "file", "size": len(self.keys[path])}
        if any(key.startswith(f"{path}/") for key in self.keys):
            return {"name": path, "type": "directory", "size": 0}
        raise FileNotFoundError(path)


def test_markers_of_folders_and_keys_that_begin_others():
    fsspec.register_implementation("store", Store, clobber=True)
    assert outcomes(list_images("store://bk/e"), "bk/e") == {"im.parquet/a.png": IMAGE}
    assert outcomes(list_images("store://bk/sub"), "bk") == {"sub": IMAGE, "sub/c.png": IMAGE}


def test_images_that_group_by_does_not_match_are_errors(tmp_path):
    for name in ("line 1/a.png", "line 2/b.png", "loose.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(picture("PNG"))
    catalog = list_images(str(tmp_path), "{group}/*")
    assert {name: len(images) for name, images in catalog.groups.items()} == {"line 1": 1, "line 2": 1}
    (loose,) = catalog.unreadable
    assert (loose.error, loose.group) == ("GroupByError", "")
    assert "'{group}/*'" in loose.message
    with pytest.raises(SettingsError, match=r"fits none of the 3 images .*'loose\.png'"):
        list_images(str(tmp_path), "x/{group}/y/**")


@pytest.mark.parametrize(
    ("folders", "group_by", "said"),
    [
        (("bottle", "cable"), None, True),
        (("bottle", "cable"), "{group}/*", False),
        (("good", "defective"), None, False),
        (("train", "test"), None, False),
        (("2026-11-23", "2026-11-24"), None, False),
        (("day=2026-11-23", "day=2026-11-24"), None, False),
        (("bottle",), None, False),
    ],
)
def test_subfolders_that_look_like_products_are_said(tmp_path, folders, group_by, said):
    for name in folders:
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.png").write_bytes(picture("PNG"))
    notes = list_images(str(tmp_path), group_by).notes
    assert bool(notes) == said
    if said:
        assert "bottle, cable" in notes[0]
        assert "--group-by '{group}/**'" in notes[0]


def test_no_images_names_what_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "a.heic").write_bytes(b"x")
    with pytest.raises(MuscRayError, match=r"No images found .* 2 other entries") as error:
        list_images(str(tmp_path))
    assert "a.heic" in str(error.value)
    assert "notes.txt" in str(error.value)


NAMES = st.sampled_from(
    [*(name.rpartition("/")[2] for name in FILES), "b.png", "c", "lost+found", "masks", "a.tar", "t.parquet"]
)


@st.composite
def trees(draw):
    """A tree of files: paths below the root with contents; a folder and a file never share a path."""
    contents = [content for content, _ in FILES.values()]
    found: dict[str, bytes | None] = {}
    for _ in range(draw(st.integers(1, 12))):
        parts = draw(st.lists(NAMES, min_size=1, max_size=3))
        path = "/".join(parts)
        above = ["/".join(parts[:end]) for end in range(1, len(parts))]
        in_file = any(found.get(each) is not None for each in above)
        if path not in found and not in_file and not any(other.startswith(f"{path}/") for other in found):
            found[path] = draw(st.sampled_from(contents))
    members = draw(st.dictionaries(NAMES, st.sampled_from([*contents, "c", "b.png"]), max_size=4))
    return found, members


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(trees())
def test_all_that_a_plain_walk_counts_is_somewhere(tmp_path_factory, tree):
    files, members = tree
    root = tmp_path_factory.mktemp("tree")
    for name, content in {**files, "kept.png": picture("PNG")}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    tars = [path for path in root.rglob("*.tar") if path.is_file()]
    for path in tars:
        path.write_bytes(tar_of(members))
    tables = [path for path in root.rglob("*.parquet") if path.is_file()]
    rows = [content if isinstance(content, bytes) else None for content in members.values()]
    for path in tables:
        pq.write_table(pa.table({"image": pa.array(rows, pa.binary())}), path)
    (root / "link.png").symlink_to("kept.png")
    catalog = list_images(str(root))
    entries = sum(len(names) for _, _, names in os.walk(root)) - len(tars) - len(tables)
    containers = [path.relative_to(root).as_posix() for path in tars + tables]
    inside = sum(1 if skipped_part(name) else len(members) for name in containers)
    assert catalog.listed == entries + inside
