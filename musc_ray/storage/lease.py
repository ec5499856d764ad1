"""A lease on a file: one command at a time, on any filesystem, and none is locked out by one that died."""

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import fsspec

from musc_ray.errors import MuscRayError
from musc_ray.storage.filesystem import is_local, read_json, write_json
from musc_ray.storage.retry import is_storage_fault

LEASE_SECONDS = 180.0
"""Not renewed for so long, a lease is given up: its command died, or its machine did."""

WATCH_SECONDS = LEASE_SECONDS / 2
"""A lease that looks old, or renewed in the future, is watched for so long: one of the two clocks may be wrong."""

SETTLE_SECONDS = 2.0
"""After taking over a lease: two that do so at once both see whose it is then."""

logger = logging.getLogger(__name__)


@contextmanager
def lease(fs: fsspec.AbstractFileSystem, path: str, what: str) -> Iterator[None]:
    """Hold the lease at `path` while the block lasts; it is renewed meanwhile and removed at the end.

    Args:
        what: what holds it, for the error of others.

    Raises:
        MuscRayError: another command holds it.
    """
    mine = {"owner": uuid.uuid4().hex, "what": what, "host": socket.gethostname(), "pid": os.getpid()}
    mine["since"] = datetime.now(UTC).isoformat(timespec="seconds")
    _acquire(fs, path, mine)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(fs, path, mine, over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        _release(fs, path, mine)


def check_free(fs: fsspec.AbstractFileSystem, path: str) -> None:
    """See that no command holds the lease at `path`.

    Raises:
        MuscRayError: one does.
    """
    held = _read(fs, path)
    if held is not None and not _given_up(fs, path, held):
        raise _is_held(path, held)


def _is_held(path: str, held: dict[str, Any]) -> MuscRayError:
    return MuscRayError(
        f"{held.get('what', 'Another command')} has been at work in {path.rsplit('/', 1)[0]} since "
        f"{held.get('since')} (process {held.get('pid')} on {held.get('host')}): wait for its end; if it died on "
        f"another machine, this works again {LEASE_SECONDS:.0f} s after its death."
    )


def _acquire(fs: fsspec.AbstractFileSystem, path: str, mine: dict[str, Any]) -> None:
    if _create(fs, path, _renewed(mine)):
        return
    held = _read(fs, path)
    if held is not None:
        if not _given_up(fs, path, held):
            raise _is_held(path, held)
        logger.warning("Taking over from process %s on %s, which is gone.", held.get("pid"), held.get("host"))
    write_json(fs, path, _renewed(mine))
    time.sleep(SETTLE_SECONDS)
    if _owner(fs, path) != mine["owner"]:
        raise MuscRayError(f"Another command took over {path} at the same time: wait for its end.")


def _create(fs: fsspec.AbstractFileSystem, path: str, content: dict[str, Any]) -> bool:
    """Write a file unless it is there; whether it was written. Atomic where the filesystem has a way."""
    data = json.dumps(content).encode()
    try:
        if is_local(fs):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with Path(path).open("xb") as file:
                file.write(data)
        else:
            fs.pipe_file(path, data, mode="create")
    except OSError:  # FileExistsError; s3fs has a plain one for a failed precondition
        fs.invalidate_cache()
        if not fs.exists(path):
            raise
        return False
    return True


def _renew(fs: fsspec.AbstractFileSystem, path: str, mine: dict[str, Any], over: threading.Event) -> None:
    while not over.wait(LEASE_SECONDS / 6):
        try:
            if _owner(fs, path) != mine["owner"]:
                logger.warning("The lease %s was taken over: this command was thought dead.", path)
                return
            write_json(fs, path, _renewed(mine))
        except Exception as error:
            if not is_storage_fault(error):
                raise
            logger.warning("The lease %s could not be renewed: %s", path, error)


def _release(fs: fsspec.AbstractFileSystem, path: str, mine: dict[str, Any]) -> None:
    """Remove the lease; where the storage has failed, what it failed with is the news, not this."""
    try:
        if _owner(fs, path) == mine["owner"]:
            fs.rm_file(path)
    except Exception as error:
        if not is_storage_fault(error):
            raise
        logger.warning("The lease %s could not be removed, and ends by itself: %s", path, error)


def _renewed(mine: dict[str, Any]) -> dict[str, Any]:
    return {**mine, "renewed": time.time()}


def _read(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """The content; None when the file is gone or half written by another command right now."""
    try:
        return read_json(fs, path)
    except MuscRayError:
        return None


def _owner(fs: fsspec.AbstractFileSystem, path: str) -> str | None:
    held = _read(fs, path)
    return None if held is None else held.get("owner")


def _given_up(fs: fsspec.AbstractFileSystem, path: str, held: dict[str, Any]) -> bool:
    """Whether the holder of a lease is dead: clocks of two machines alone, or one that jumps, do not decide."""
    if held.get("host") == socket.gethostname() and not _is_alive(int(held.get("pid", 0))):
        return True
    if abs(time.time() - float(held.get("renewed", 0))) <= LEASE_SECONDS:
        return False
    deadline = time.monotonic() + WATCH_SECONDS
    while time.monotonic() < deadline:
        time.sleep(WATCH_SECONDS / 30)
        now = _read(fs, path)
        if now is not None and now.get("renewed") != held.get("renewed"):
            return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
