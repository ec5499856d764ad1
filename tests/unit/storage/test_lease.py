"""One command at a time; a dead one's lease is taken over, a lost one is noticed."""

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import fsspec
import pytest

from musc_ray.errors import MuscRayError
from musc_ray.storage import lease as module
from musc_ray.storage import processes, retry
from musc_ray.storage.conditional import replace
from musc_ray.storage.lease import check_free, holder, lease
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


@pytest.mark.parametrize("known", [True, False], ids=["proc", "no-proc"])
def test_a_dead_process_of_this_machine_is_taken_over_at_once(place, monkeypatch, known):
    if not known:  # as on macOS: the name of the host says which machine it is
        monkeypatch.setattr(module, "machine", lambda: "")
        monkeypatch.setattr(module.socket, "gethostname", lambda: "elsewhere")
    write(place, pid=2**22 + 1, machine=module.machine())
    assert holder(*place) is None
    with lease(*place, "A nightly run"):
        pass


def test_a_process_of_this_machine_that_got_the_id_of_a_dead_one_holds_nothing(place):
    """As the driver of a container that was started again: its id is always 1."""
    write(place, pid=os.getpid(), start=1, machine=module.machine())
    assert holder(*place) is None
    with lease(*place, "A nightly run"):
        pass


def test_a_process_that_lives_holds_its_lease_though_it_could_not_renew_it(place):
    start = module.start_of(os.getpid())
    write(place, pid=os.getpid(), start=start, machine=module.machine(), renewed=0)
    assert holder(*place).pid == os.getpid()
    with pytest.raises(MuscRayError, match="has been at work"):
        lease(*place, "Another").__enter__()


def test_a_host_of_the_same_name_is_another_machine(place):
    """As two containers with the network of their node: their ids of processes mean nothing to each other."""
    write(place, pid=2**22 + 1, host=socket.gethostname(), machine="another")
    assert holder(*place).pid == 2**22 + 1
    with pytest.raises(MuscRayError, match="has been at work"):
        lease(*place, "Another").__enter__()


def take_at_once(count: int, *arguments) -> tuple[int, int]:
    """Take a lease on several threads at once; return how many got it, and how many were refused."""
    held, refused, all_in = [], [], threading.Barrier(count)

    def take() -> None:
        all_in.wait()
        try:
            with lease(*arguments):
                held.append(1)
                time.sleep(0.5)
        except MuscRayError:
            refused.append(1)

    threads = [threading.Thread(target=take) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return len(held), len(refused)


def test_only_one_of_two_takes_over(place):
    write(place, renewed=0)
    assert take_at_once(4, *place, "A nightly run") == (1, 3)


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


def test_a_store_that_is_away_for_a_moment_refuses_no_command(place, monkeypatch):
    monkeypatch.setattr(retry, "FIRST_PAUSE_SECONDS", 0.01)
    faults = iter(range(4))

    def away_at_first(work: object) -> object:
        def call(*arguments: object) -> object:
            if next(faults, None) is not None:
                raise OSError(errno.EIO, "away")
            return work(*arguments)

        return call

    for name in ("read_version", "create"):
        monkeypatch.setattr(module, name, away_at_first(getattr(module, name)))
    with lease(*place, "A run"):
        assert next(faults, None) is None
        assert holder(*place).what == "A run"


def test_the_error_of_the_command_is_told_and_not_that_of_its_lease(place, monkeypatch):
    def refused(*_: object) -> None:
        raise PermissionError("Forbidden")

    def refused_at_work() -> None:
        with lease(*place, "A nightly run"):
            monkeypatch.setattr(module, "read_version", refused)
            raise StorageError("the store refuses")

    with pytest.raises(StorageError, match="the store refuses"):
        refused_at_work()


@pytest.mark.parametrize("content", [b'{"owner": ', b"[]", b'{"renewed": "soon"}'])
def test_half_a_lease_is_none(place, content):
    fs, path = place
    write(place)
    fs.pipe_file(path, content)
    assert holder(fs, path) is None
    with lease(fs, path, "A nightly run"):
        pass


# --- a lease that is renewed elsewhere, and watched ---------------------------------------------------------------


class Waits:
    """What was waited for."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    @contextmanager
    def __call__(self, text: str) -> Iterator[None]:
        self.texts.append(text)
        yield


@contextmanager
def renewed(place, **content: object) -> Iterator[None]:
    """A command of another machine that renews its lease."""
    over = threading.Event()

    def renew() -> None:
        while not over.wait(0.02):
            write(place, **content, renewed=time.time())

    write(place, **content)
    thread = threading.Thread(target=renew)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_one_that_lives_elsewhere_is_respected_once_it_renews(place):
    waits = Waits()
    with renewed(place, pid=7), pytest.raises(MuscRayError, match="7 on elsewhere\\): see its status\\."):
        lease(*place, "Another", waits, "see its status").__enter__()
    assert waits.texts == ["waiting to see whether process 7 on elsewhere is alive"]


def test_one_that_died_elsewhere_just_now_is_taken_over(place, monkeypatch):
    """As a driver on Kubernetes that was killed and started again, with another host name."""
    monkeypatch.setattr(module, "LEASE_SECONDS", 1.0)
    fs, path = place
    write(place)
    waits, began = Waits(), time.monotonic()
    with lease(fs, path, "Another", waits):
        assert holder(fs, path).pid == os.getpid()
    assert len(waits.texts) == 1
    assert time.monotonic() - began > 0.9  # not before it had its time


def test_one_that_ends_elsewhere_meanwhile_leaves_the_lease(place, caplog):
    fs, path = place
    write(place)

    class Ends(Waits):
        @contextmanager
        def __call__(self, text: str) -> Iterator[None]:
            fs.rm_file(path)
            yield

    with lease(fs, path, "Another", Ends()):
        assert holder(fs, path).pid == os.getpid()
    assert "gone" not in caplog.text


def test_two_that_wait_for_a_dead_one_do_not_both_get_its_lease(place, monkeypatch):
    monkeypatch.setattr(module, "LEASE_SECONDS", 0.6)
    write(place)
    assert take_at_once(3, *place, "A run", Waits()) == (1, 2)


# --- who holds it, without waiting --------------------------------------------------------------------------------


def test_the_holder_of_a_lease(place):
    assert holder(*place) is None
    with lease(*place, "A run"):
        found = holder(*place)
        assert (found.what, found.pid, found.host) == ("A run", os.getpid(), socket.gethostname())
        with pytest.raises(MuscRayError, match="A run has been at work"):
            check_free(*place)
    assert holder(*place) is None
    check_free(*place)


def test_the_holder_elsewhere_is_one_that_renewed_lately(place):
    write(place, pid=7)
    assert holder(*place).process == "process 7 on elsewhere"
    write(place, renewed=time.time() - module.LEASE_SECONDS - 1)
    assert holder(*place) is None


def test_a_process_that_was_killed_holds_nothing(place):
    """Also while nobody has asked for its exit code."""
    if place[0].protocol == "memory":
        pytest.skip("of another process")
    script = (
        "import sys, time, fsspec\nfrom musc_ray.storage.lease import lease\n"
        f"with lease(fsspec.filesystem('file'), {place[1]!r}, 'A run'):\n"
        "    print('held', flush=True)\n    time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    assert holder(*place).pid == process.pid
    process.kill()
    process.stdout.close()
    while processes.start_of(process.pid) is not None:
        time.sleep(0.01)
    assert holder(*place) is None
    with lease(*place, "Another"):
        assert holder(*place).pid == os.getpid()
    process.wait()
