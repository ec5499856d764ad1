"""Runs at work keep what they need: their folders, their features, their leases."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import write_json
from musc_ray.storage.garbage import check_unread, collect_garbage
from musc_ray.storage.lease import lease
from musc_ray.storage.listing import exists
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import OutPaths
from tests.helpers.manifests import run_record, started_record

LONG_AGO = datetime.now(UTC) - timedelta(days=30)


@pytest.fixture(params=["file", "memory"])
def out(request, tmp_path) -> str:
    """An OUT with a run that wrote nothing for 30 days."""
    out = str(tmp_path) if request.param == "file" else f"memory://garbage{tmp_path}"
    run = OutPaths.at(out).run("run-a")
    write_json(run.fs, run.started_json, {**started_record("run-a", {"all": 2}), "started_at": LONG_AGO.isoformat()})
    write_table(run.fs, run.catalog, pa.table({"image_id": ["a", "b"], "version": ["1", "1"]}))
    return out


def test_a_run_that_holds_its_lease_is_not_given_up(out):
    run = OutPaths.at(out).run("run-a")
    assert [garbage.path for garbage in collect_garbage(out, 7, delete=False)] == [run.folder]
    with lease(run.fs, run.lease, "Run run-a"):
        assert collect_garbage(out, 7, delete=False) == []
        with pytest.raises(MuscRayError, match=r"Run run-a is running in .* \(process \d+ on .*\): wait until it ends"):
            collect_garbage(out, 7, delete=True)
        assert exists(run.fs, run.started_json)
    assert [garbage.path for garbage in collect_garbage(out, 7, delete=True)] == [run.folder]
    assert not exists(run.fs, run.folder)


def test_the_lease_of_a_command_that_died_is_removed_with_its_run(out):
    run = OutPaths.at(out).run("run-a")
    run.fs.pipe_file(run.lease, b'{"owner": "x", "host": "elsewhere", "pid": 1, "renewed": 0}')
    assert [garbage.path for garbage in collect_garbage(out, 7, delete=True)] == [run.folder]
    assert not exists(run.fs, run.lease)


def test_the_lease_that_a_complete_run_left_is_removed_and_one_that_is_held_is_not(out):
    run = OutPaths.at(out).run("run-a")
    write_json(run.fs, run.run_json, run_record("run-a"))
    with lease(run.fs, run.lease, "Run run-a"):
        assert collect_garbage(out, 7, delete=True) == []
    run.fs.pipe_file(run.lease, b'{"owner": "x", "host": "elsewhere", "pid": 1, "renewed": 0}')
    assert [garbage.path for garbage in collect_garbage(out, 7, delete=True)] == [run.lease]
    assert exists(run.fs, run.run_json)
    assert not exists(run.fs, run.lease)


def test_features_of_a_run_at_work_are_not_overwritten(out):
    run = OutPaths.at(out).run("run-a")
    check_unread(run.out, "none")
    with lease(run.fs, run.lease, "Run run-a"):
        check_unread(run.out, "others")
        with pytest.raises(MuscRayError, match=r"Run run-a has been at work .*: wait for its end before you use"):
            check_unread(run.out, "none")
    check_unread(run.out, "none")
