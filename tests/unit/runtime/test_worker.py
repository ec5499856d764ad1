"""What a worker imports."""

import gc
import mmap
import sys

import pytest

from musc_ray.errors import MuscRayError
from musc_ray.runtime import worker
from musc_ray.runtime.worker import Role, RoleHost, WorkerResources, data_bytes, import_modules
from tests.unit.runtime.players import role


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that says whether garbage was collected while it was imported; it has a role, too."""
    (tmp_path / "played.py").write_text("import gc\ncollected = gc.isenabled()\nclass Player: ...\n")
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "played"
    sys.modules.pop("played", None)


def test_garbage_is_not_collected_while_a_role_is_imported(module):
    assert gc.isenabled()
    player = Role(module, "Player").load()
    assert (player.__name__, sys.modules[module].collected) == ("Player", False)
    assert gc.isenabled()


def test_garbage_is_collected_again_after_an_import_that_fails(module):
    with pytest.raises(ModuleNotFoundError):
        import_modules([module, "broken"])
    assert gc.isenabled()


def test_a_process_that_does_not_collect_garbage_stays_so(module):
    gc.disable()
    try:
        import_modules([module])
        assert not gc.isenabled()
    finally:
        gc.enable()


GB = 10**9


@pytest.fixture
def limits(monkeypatch) -> list[int]:
    """The limits of memory that are set, of a process whose data are 5 GB."""
    found: list[int] = []
    monkeypatch.setattr(worker, "limit_memory", lambda size: found.append(size) or -1)
    monkeypatch.setattr(worker, "data_bytes", lambda: 5 * GB)
    return found


def test_a_worker_in_a_process_of_others_may_use_what_it_was_given_beside_what_was_there(limits):
    host = RoleHost(WorkerResources(1, 1, 0.0, 1, "cpu", memory=2 * GB), shared=4 * GB)
    host.assign(role("Adder"), [1.0])
    assert limits == [6 * GB]
    host.lift_limits()
    assert limits == [6 * GB, -1]


def test_a_worker_whose_libraries_leave_no_memory_says_how_much_it_needs(limits):
    host = RoleHost(WorkerResources(1, 1, 0.0, 1, "cpu", memory=2 * GB), shared=3 * GB)
    with pytest.raises(MuscRayError, match=r"max_worker_gb is 2, of which a worker takes 2.0 GB .* give at least 3"):
        host.assign(role("Adder"), [1.0])
    assert limits == []


def test_a_later_role_may_use_what_the_first_left(limits, monkeypatch):
    host = RoleHost(WorkerResources(1, 1, 0.0, 1, "cpu", memory=2 * GB), shared=4 * GB)
    host.assign(role("Adder"), [1.0])
    monkeypatch.setattr(worker, "data_bytes", lambda: 6 * GB)
    host.assign(role("Multiplier"), [1.0])
    assert host.call("times", 3) == 3.0


def test_the_data_of_this_process_are_measured():
    before = data_bytes()
    # not from the allocator, which may give what other tests have freed
    block = mmap.mmap(-1, 300_000_000, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    assert data_bytes() - before > len(block) * 0.9
