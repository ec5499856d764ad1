"""One command at a time; a dead one's lease is taken over, a lost one is noticed."""

import json
import os
import threading
import time

import fsspec
import pytest

from musc_ray.errors import MuscRayError
from musc_ray.storage import lease as module
from musc_ray.storage.conditional import replace
from musc_ray.storage.lease import lease
from musc_ray.storage.retry import StorageError


@pytest.fixture(params=["file", "memory"])
def place(request, tmp_path):
    """A filesystem and a path on it."""
    if request.param == "file":
        return fsspec.filesystem("file"), str(tmp_path / "out" / "lease.json")
    return fsspec.filesystem("memory"), f"/{tmp_path.name}/lease.json"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(module, "WATCH_SECONDS", 0.5)


def write(place, **content: object) -> None:
    fs, path = place
    held = {"owner": "other", "what": "A nightly run", "host": "elsewhere", "pid": 1, "renewed": time.time()}
    fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
    fs.pipe_file(path, json.dumps(held | content).encode())


def test_the_second_is_refused_until_the_first_ends(place):
    fs, path = place
    with lease(fs, path, "A nightly run"):
        with pytest.raises(MuscRayError, match=f"A nightly run has been at work .* \\(process {os.getpid()} on "):
            lease(fs, path, "Another").__enter__()
        assert fs.exists(path)
    assert not fs.exists(path)
    with lease(fs, path, "A nightly run"):
        pass


def test_a_lease_that_is_renewed_elsewhere_is_respected(place):
    write(place)
    with pytest.raises(MuscRayError, match="on elsewhere"):
        lease(*place, "A nightly run").__enter__()


def test_a_dead_one_is_taken_over(place):
    fs, path = place
    write(place, renewed=time.time() - module.LEASE_SECONDS - 1)
    with lease(fs, path, "A nightly run"):
        assert json.loads(fs.cat_file(path))["owner"] != "other"


@pytest.mark.parametrize("jump", [-86_400, 86_400])
def test_a_clock_that_jumps_takes_no_lease_from_one_at_work(place, monkeypatch, jump):
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.6)  # renewed every 0.1 s
    true_time = time.time
    with lease(*place, "A nightly run"):
        taken = threading.local()
        taken.here = True  # the clock of this thread alone jumps, as another machine's would
        monkeypatch.setattr(time, "time", lambda: true_time() + (jump if hasattr(taken, "here") else 0))
        with pytest.raises(MuscRayError, match="A nightly run has been at work"):
            lease(*place, "Another").__enter__()


@pytest.mark.parametrize("renewed", [-86_400, 86_400])
def test_a_dead_one_with_a_wrong_clock_locks_nobody_out(place, renewed):
    write(place, renewed=time.time() + renewed)
    with lease(*place, "A nightly run"):
        pass


def test_a_dead_process_of_this_machine_is_taken_over_at_once(place, monkeypatch):
    monkeypatch.setattr(module.socket, "gethostname", lambda: "elsewhere")
    write(place, pid=2**22 + 1)
    with lease(*place, "A nightly run"):
        pass


def test_only_one_of_two_takes_over(place):
    write(place, renewed=0)
    held, refused, all_in = [], [], threading.Barrier(4)

    def take() -> None:
        all_in.wait()
        try:
            with lease(*place, "A nightly run"):
                held.append(1)
                time.sleep(0.5)
        except MuscRayError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 3)


def test_it_is_renewed(place, monkeypatch):
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.6)
    fs, path = place
    with lease(fs, path, "A nightly run"):
        first = json.loads(fs.cat_file(path))["renewed"]
        time.sleep(0.5)
        assert json.loads(fs.cat_file(path))["renewed"] > first


def test_a_store_that_is_away_ends_neither_the_renewing_nor_the_command(place, monkeypatch):
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.6)
    fs, path = place
    away = []

    def replace_if_there(*arguments: object) -> object:
        if away:
            raise StorageError("away")
        return replace(*arguments)

    monkeypatch.setattr(module, "replace", replace_if_there)
    with lease(fs, path, "A nightly run"):
        away.append(1)
        time.sleep(0.4)
        away.clear()
        before = json.loads(fs.cat_file(path))["renewed"]
        time.sleep(0.4)
        assert json.loads(fs.cat_file(path))["renewed"] > before


def test_the_error_of_the_command_is_told_and_not_that_of_its_lease(place, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError("Forbidden")

    def refused_at_work() -> None:
        with lease(*place, "A nightly run"):
            monkeypatch.setattr(module, "_owner", refused)
            raise StorageError("the store refuses")

    with pytest.raises(StorageError, match="the store refuses"):
        refused_at_work()


def test_half_a_lease_is_none(place):
    fs, path = place
    write(place)
    fs.pipe_file(path, b'{"owner": ')
    with lease(fs, path, "A nightly run"):
        pass
