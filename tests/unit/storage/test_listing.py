"""What is missing and what only cannot be seen: an error of a filesystem never reads as "not there"."""

import errno
import os
from datetime import timedelta

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import remove_tree
from musc_ray.storage.garbage import collect_garbage
from musc_ray.storage.listing import describe, exists, files_below, is_file, list_folder, names_in
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.schemas import CATALOG
from tests.helpers.scored_run import RUN, SCORED_AT, write_run

LOCAL = fsspec.filesystem("file")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr("musc_ray.storage.retry.FIRST_PAUSE_SECONDS", 0.0)


@pytest.fixture
def failing(monkeypatch):
    """Return what makes the operating system fail for paths that end so, in `stat` and in listings."""

    def call(ending: str, number: int) -> None:
        def broken(real):
            def replacement(path, *others, **options):
                if isinstance(path, str | os.PathLike) and os.fspath(path).endswith(ending):
                    raise OSError(number, os.strerror(number), os.fspath(path))
                return real(path, *others, **options)

            return replacement

        monkeypatch.setattr(os, "stat", broken(os.stat))
        monkeypatch.setattr(os, "scandir", broken(os.scandir))

    return call


@pytest.fixture(params=["file", "memory"])
def place(request, tmp_path):
    fs = fsspec.filesystem(request.param)
    root = str(tmp_path) if request.param == "file" else "/listed"
    for name in ("b/2.txt", "b/c/3.txt", "a.txt"):
        fs.makedirs(f"{root}/{name.rpartition('/')[0]}", exist_ok=True)
        fs.pipe_file(f"{root}/{name}", b"x")
    yield fs, root
    if request.param == "memory":
        fs.rm(root, recursive=True)


def test_what_is_there(place):
    fs, root = place
    assert is_file(fs, f"{root}/a.txt")
    assert not is_file(fs, f"{root}/b")
    assert exists(fs, f"{root}/b")
    assert names_in(fs, root) == [f"{root}/a.txt", f"{root}/b"]
    assert [info["type"] for info in list_folder(fs, root)] == ["file", "directory"]
    assert sorted(info["name"] for info in files_below(fs, root)) == [
        f"{root}/{name}" for name in ("a.txt", "b/2.txt", "b/c/3.txt")
    ]


def test_what_is_missing(place):
    fs, root = place
    for missing in (f"{root}/none", f"{root}/a.txt/below a file"):
        assert describe(fs, missing) is None
        assert not exists(fs, missing)
    assert names_in(fs, f"{root}/none") == []
    assert list(files_below(fs, f"{root}/none")) == []
    with pytest.raises(FileNotFoundError):
        list_folder(fs, f"{root}/none")


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO, errno.EACCES])
@pytest.mark.parametrize(
    "look", [describe, exists, is_file, names_in, remove_tree, lambda fs, path: list(files_below(fs, path))]
)
def test_what_cannot_be_seen_is_not_missing(tmp_path, failing, look, number):
    (tmp_path / "lot").mkdir()
    failing("/lot", number)
    with pytest.raises((OSError, MuscRayError), match=os.strerror(number)):
        look(LOCAL, str(tmp_path / "lot"))


def test_a_folder_below_that_cannot_be_listed_is_an_error(tmp_path, failing):
    (tmp_path / "a/b/c").mkdir(parents=True)
    failing("/a/b/c", errno.EIO)
    with pytest.raises(MuscRayError, match="/a/b/c"):
        list(files_below(LOCAL, str(tmp_path)))


def test_a_folder_that_vanishes_meanwhile_is_empty(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "a.txt").write_text("x")
    real = LocalFileSystem.ls

    def ls(self, path, *others, **options):
        found = real(self, path, *others, **options)
        if path == str(tmp_path):
            (tmp_path / "work").rmdir()
        return found

    monkeypatch.setattr(LocalFileSystem, "ls", ls)
    assert [info["name"] for info in files_below(LOCAL, str(tmp_path))] == [str(tmp_path / "a.txt")]


@pytest.mark.parametrize("ending", ["/run.json", f"/runs/{RUN}", "/runs", "/features", "/none"])
@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_gc_deletes_nothing_when_the_storage_cannot_tell(tmp_path, failing, number, ending):
    """After one ESTALE from run.json, a complete run and its features were deleted."""
    out_paths = OutPaths.at(str(tmp_path))
    write_run(out_paths, {"all": [f"{n}.png" for n in range(4)]})
    write_table(out_paths.fs, out_paths.run(RUN).catalog, CATALOG.empty_table())
    shard = tmp_path / "features/none/group=all/shard-00000.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"features")
    before = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    assert collect_garbage(str(tmp_path), 7, delete=False, now=SCORED_AT + timedelta(days=400)), "the shard is old"
    failing(ending, number)
    with pytest.raises((OSError, MuscRayError), match=os.strerror(number)):
        collect_garbage(str(tmp_path), older_than_days=7, delete=True, now=SCORED_AT + timedelta(days=400))
    assert [path for path in before if not os.path.lexists(path)] == []
