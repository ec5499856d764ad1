"""What a worker imports."""

import gc
import sys

import pytest

from musc_ray.runtime.worker import Role, import_modules


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
