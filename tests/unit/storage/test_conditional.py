"""Of commands that write a file at once exactly one wins, on a local disk and on S3."""

import threading

import fsspec
import pytest

from musc_ray.storage import conditional
from musc_ray.storage.conditional import create, read_version, replace

WRITERS = 6


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def place(request, tmp_path):
    """Make a filesystem of each writer's own; and a path."""
    if request.param == "file":
        return lambda: fsspec.filesystem("file"), str(tmp_path / "out" / "lease.json")
    server = request.getfixturevalue("s3")
    if not server.filesystem().exists("conditional"):
        server.filesystem().mkdir("conditional")
    return server.filesystem, f"conditional/{tmp_path.name}/lease.json"


def winners(write) -> list[int]:
    """The numbers of the writers whose write succeeded, all at once."""
    all_in, won = threading.Barrier(WRITERS), []

    def attempt(number: int) -> None:
        all_in.wait()
        if write(number):
            won.append(number)

    threads = [threading.Thread(target=attempt, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_one_of_many_creates_a_file(place):
    filesystem, path = place
    (winner,) = winners(lambda number: create(filesystem(), path, b"%d" % number))
    assert filesystem().cat_file(path) == b"%d" % winner


def test_one_of_many_replaces_a_file(place):
    filesystem, path = place
    assert create(filesystem(), path, b"old")
    for turn in range(3):
        seen = read_version(filesystem(), path)
        (winner,) = winners(lambda number, t=turn, seen=seen: replace(filesystem(), path, b"%d %d" % (t, number), seen))
        assert filesystem().cat_file(path) == b"%d %d" % (turn, winner)
        assert replace(filesystem(), path, b"late", seen) is False


def test_a_file_that_is_gone_is_not_replaced(place):
    filesystem, path = place
    create(filesystem(), path, b"old")
    seen = read_version(filesystem(), path)
    filesystem().rm_file(path)
    assert replace(filesystem(), path, b"new", seen) is False
    assert read_version(filesystem(), path) is None


def test_a_store_without_conditions_says_so():
    fs, path = fsspec.filesystem("memory"), "/conditional/lease.json"
    assert create(fs, path, b"old")
    assert not create(fs, path, b"older")
    assert replace(fs, path, b"new", read_version(fs, path)) is None
    assert fs.cat_file(path) == b"new"


def test_a_file_system_without_locks_says_so(tmp_path, monkeypatch):
    def unsupported(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    fs, path = fsspec.filesystem("file"), str(tmp_path / "lease.json")
    create(fs, path, b"old")
    monkeypatch.setattr(conditional.fcntl, "flock", unsupported)
    assert replace(fs, path, b"new", read_version(fs, path)) is None


@pytest.mark.slow
def test_an_s3_store_that_ignores_conditions_is_found_out(s3, monkeypatch):
    fs = s3.filesystem()
    fs.mkdir("ignoring")
    path, write = "ignoring/lease.json", fs.pipe_file
    create(fs, path, b"old")
    seen = read_version(fs, path)
    monkeypatch.setattr(fs, "pipe_file", lambda path, content, IfMatch="": write(path, content))
    assert replace(fs, path, b"new", seen) is None
