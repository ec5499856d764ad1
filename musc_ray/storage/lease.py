"""A lease on a file: one command at a time on any filesystem; the lease of a command that died can be taken over.

Where the store has conditional writes (local files, S3), exactly one command wins; elsewhere the last to write does.
"""

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
from typing import Any

import fsspec

from musc_ray.errors import MuscRayError
from musc_ray.storage.conditional import create, read_version, replace
from musc_ray.storage.retry import is_storage_fault

LEASE_SECONDS = 180.0
"""A lease that was not renewed for this long is abandoned: its command or its machine died."""

WATCH_SECONDS = LEASE_SECONDS / 2
"""A lease that looks old, or renewed in the future, is watched this long: one of the two clocks may be wrong."""

SETTLE_SECONDS = 2.0
"""Wait after a write without a condition: by then all that took the lease over at once see who wrote last."""

logger = logging.getLogger(__name__)


@contextmanager
def lease(fs: fsspec.AbstractFileSystem, path: str, what: str) -> Iterator[None]:
    """Hold the lease at `path` while the block lasts; it is renewed meanwhile and removed at the end.

    Args:
        what: what the holder does, for the error that other commands get.

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
    """Check that no command holds the lease at `path`.

    Raises:
        MuscRayError: a command holds it.
    """
    held = _read(fs, path)
    if held is not None and not _is_abandoned(fs, path, held):
        raise _is_held(path, held)


def _is_held(path: str, held: dict[str, Any]) -> MuscRayError:
    return MuscRayError(
        f"{held.get('what', 'Another command')} has been at work in {path.rsplit('/', 1)[0]} since "
        f"{held.get('since')} (process {held.get('pid')} on {held.get('host')}): wait for its end; if it died on "
        f"another machine, this works again {LEASE_SECONDS:.0f} s after its death."
    )


def _acquire(fs: fsspec.AbstractFileSystem, path: str, mine: dict[str, Any]) -> None:
    """Create the lease, or take it over from a dead command.

    Raises:
        MuscRayError: another command holds it, or was quicker.
    """
    seen = read_version(fs, path)
    if seen is None:
        if create(fs, path, _content(mine)) or _owner(fs, path) == mine["owner"]:  # a repeated request is refused
            return
        seen = read_version(fs, path)
    held = None if seen is None else _parsed(seen.content)
    if held is not None:
        if not _is_abandoned(fs, path, held):
            raise _is_held(path, held)
        seen = read_version(fs, path)
        if seen is not None and _parsed(seen.content) != held:
            raise _taken_over(path)
        logger.warning("Taking over from process %s on %s, which is gone.", held.get("pid"), held.get("host"))
    replaced = create(fs, path, _content(mine)) if seen is None else replace(fs, path, _content(mine), seen)
    if replaced is None:
        time.sleep(SETTLE_SECONDS)
    if not replaced and _owner(fs, path) != mine["owner"]:
        raise _taken_over(path)


def _taken_over(path: str) -> MuscRayError:
    return MuscRayError(f"Another command took over {path} at the same time: wait for its end.")


def _renew(fs: fsspec.AbstractFileSystem, path: str, mine: dict[str, Any], over: threading.Event) -> None:
    while not over.wait(LEASE_SECONDS / 6):
        try:
            seen = read_version(fs, path)
            if seen is None or (_parsed(seen.content) or {}).get("owner") != mine["owner"]:
                logger.warning("Lease %s was taken over by another command, because it had expired.", path)
                return
            replace(fs, path, _content(mine), seen)  # if refused, the next round sees who holds it
        except Exception as error:
            if not is_storage_fault(error):
                raise
            logger.warning("The lease %s could not be renewed: %s", path, error)


def _release(fs: fsspec.AbstractFileSystem, path: str, mine: dict[str, Any]) -> None:
    """Remove the lease; a storage fault is only logged, so that it does not hide the error of the command."""
    try:
        if _owner(fs, path) == mine["owner"]:
            fs.rm_file(path)
    except Exception as error:
        if not is_storage_fault(error):
            raise
        logger.warning("The lease %s could not be removed, and ends by itself: %s", path, error)


def _content(mine: dict[str, Any]) -> bytes:
    return json.dumps({**mine, "renewed": time.time()}, indent=2).encode()


def _parsed(content: bytes) -> dict[str, Any] | None:
    """Parse a lease; None for one that is broken."""
    try:
        held = json.loads(content)
    except ValueError:
        return None
    return held if isinstance(held, dict) else None


def _read(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """Read a lease; None where it is missing or broken."""
    seen = read_version(fs, path)
    return None if seen is None else _parsed(seen.content)


def _owner(fs: fsspec.AbstractFileSystem, path: str) -> str | None:
    held = _read(fs, path)
    return None if held is None else held.get("owner")


def _is_abandoned(fs: fsspec.AbstractFileSystem, path: str, held: dict[str, Any]) -> bool:
    """Return whether the holder of a lease is dead; watch the lease first, since clocks differ and jump."""
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
