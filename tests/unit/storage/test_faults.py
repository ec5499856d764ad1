"""What is a fault of the storage and what is not; a wrong clock; what killed commands leave."""

import errno
import os
import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import fsspec
import pyarrow as pa
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, EndpointConnectionError, NoCredentialsError
from PIL import UnidentifiedImageError
from s3fs.errors import translate_boto_error
from typer.testing import CliRunner

from musc_ray.cli.app import app
from musc_ray.errors import MuscRayError
from musc_ray.storage.complete_runs import complete_run, time_after_all
from musc_ray.storage.filesystem import atomic_file
from musc_ray.storage.parquet import write_table
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.retry import StorageError, is_storage_fault, with_retries
from musc_ray.storage.s3 import may_pass, wait_for_s3
from tests.helpers.scored_run import RUN, SCORED_AT, write_run

ENDPOINT = "http://store:9000"


def answer(status: int, code: str = "") -> ClientError:
    response = {"Error": {"Code": code or str(status)}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "GetObject")


@pytest.mark.parametrize(
    "error",
    [
        EndpointConnectionError(endpoint_url=ENDPOINT),
        ConnectTimeoutError(endpoint_url=ENDPOINT),
        aiohttp.ServerDisconnectedError(),
        answer(500, "InternalError"),
        answer(503, "SlowDown"),
    ],
)
def test_a_store_that_is_away_is_waited_for(error):
    assert may_pass(error)
    assert is_storage_fault(error)
    calls = []

    def work() -> str:
        calls.append(1)
        if len(calls) < 3:
            raise error
        return "answer"

    assert with_retries(work, "read x", lambda _: None) == "answer"


@pytest.mark.parametrize("error", [answer(404, "NoSuchKey"), answer(403, "AccessDenied"), NoCredentialsError()])
def test_what_no_other_try_mends_is_not(error):
    assert not may_pass(error)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), True),
        (OSError(errno.EIO, "Input/output error"), True),
        (ConnectionResetError("reset by peer"), True),
        (TimeoutError(), True),
        (PermissionError("Forbidden"), True),
        (StorageError("away"), True),
        # these are about one file
        (FileNotFoundError(errno.ENOENT, "no such file"), False),
        (IsADirectoryError(errno.EISDIR, "a directory"), False),
        (OSError("Couldn't deserialize thrift: TProtocolException: Invalid data"), False),
        (UnidentifiedImageError("cannot identify image file"), False),
        (pa.ArrowInvalid("Parquet magic bytes not found in footer"), False),
        (MuscRayError("shard 3 is broken"), False),
        (ValueError("a bug"), False),
    ],
)
def test_faults_of_the_storage_are_told_from_broken_files(error, fault):
    assert is_storage_fault(error) == fault


@pytest.mark.parametrize("code", ["InvalidAccessKeyId", "ExpiredToken", "RequestTimeTooSkewed", "AccessDenied", "403"])
def test_an_image_that_the_store_refuses_is_not_broken(code):
    refused = translate_boto_error(answer(403, code))
    if not isinstance(refused, PermissionError):  # a HEAD has no body to say why
        refused = PermissionError("Forbidden")
        refused.__cause__ = answer(403, code)

    def work() -> None:
        raise refused

    with pytest.raises(StorageError, match=r"Cannot read s3://b/x\.png: the store refuses it"):
        with_retries(work, "read s3://b/x.png", lambda _: None)


def test_an_object_in_an_archive_tier_and_a_file_without_rights_are_about_themselves():
    for error in (translate_boto_error(answer(403, "InvalidObjectState")), PermissionError(errno.EACCES, "denied")):

        def work(error=error) -> None:
            raise error

        with pytest.raises(PermissionError):
            with_retries(work, "read x", lambda _: None)


def test_s3fs_is_told_what_may_pass():
    import s3fs.core

    wait_for_s3()
    assert s3fs.core.CUSTOM_ERROR_HANDLER is may_pass


def test_a_full_disk_is_one_sentence(monkeypatch, tmp_path):
    def full(out: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"{out}/x")

    monkeypatch.setattr("musc_ray.cli.status.read_status", full)
    result = CliRunner().invoke(app, ["status", str(tmp_path)])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The storage failed ([Errno 28] No space left on device:")
    assert "the same command resumes the job" in result.stderr


def test_a_full_disk_is_named(tmp_path):
    def write() -> None:
        with atomic_file(fsspec.filesystem("file"), str(tmp_path / "out" / "x")):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{tmp_path / 'out'}'")):
        write()
    assert list((tmp_path / "out").iterdir()) == []


def test_a_clock_set_back_does_not_change_the_order_of_runs(tmp_path, caplog):
    out_paths = OutPaths.at(str(tmp_path))
    now = datetime.now(UTC)
    assert time_after_all(out_paths, now) == now
    write_run(out_paths, {"cells": ["file:///a.png", "file:///b.png"]})
    assert time_after_all(out_paths, SCORED_AT + timedelta(days=1)) == SCORED_AT + timedelta(days=1)
    assert "clock" not in caplog.text
    for earlier in (SCORED_AT, SCORED_AT - timedelta(hours=2)):
        assert SCORED_AT < time_after_all(out_paths, earlier) < SCORED_AT + timedelta(seconds=1)
    assert f"run {RUN} was scored at {SCORED_AT}: check this machine's clock" in caplog.text


def test_gc_removes_what_killed_commands_were_writing(tmp_path):
    out_paths = OutPaths.at(str(tmp_path))
    run = write_run(out_paths, {"cells": ["file:///a.png", "file:///b.png"]}, features_id="f" * 16)
    catalog = {"image_id": pa.array([], pa.string()), "version": pa.array([], pa.string())}
    write_table(out_paths.fs, out_paths.run(run.run_id).catalog, pa.table(catalog))
    folder = Path(out_paths.run(RUN).scores)
    left = [folder / ".part-00000.parquet.0123abcd.partial", tmp_path / ".musc-ray-write-check-0123abcd"]
    young = folder / ".part-00001.parquet.4567abcd.partial"
    for path in (*left, young):
        path.write_bytes(b"PAR1")
    an_hour_ago = time.time() - 3600
    for path in left:
        os.utime(path, (an_hour_ago, an_hour_ago))
    kept = {path for path in tmp_path.rglob("*") if path.is_file()} - {*left}
    result = CliRunner().invoke(app, ["gc", str(tmp_path), "--delete"])
    assert result.exit_code == 0, result.output
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == kept
    assert complete_run(out_paths, RUN) == run
