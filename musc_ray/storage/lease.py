"""A lease on a file: one command at a time on any filesystem; the lease of a command that died can be taken over.

Where the store has conditional writes (local files, S3), exactly one command wins; elsewhere the last to write does.
"""

import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from typing import Self

import fsspec
from pydantic import BaseModel, ConfigDict, ValidationError

from musc_ray.errors import MuscRayError
from musc_ray.storage.conditional import Version, create, read_version, replace
from musc_ray.storage.processes import is_alive, machine, start_of
from musc_ray.storage.retry import is_storage_fault, with_retries

LEASE_SECONDS = 180.0
"""A lease that was not renewed for this long is abandoned: its command or its machine died."""

WATCH_SECONDS = LEASE_SECONDS / 2
"""A lease that looks old, or renewed in the future, is watched this long: one of the two clocks may be wrong."""

SETTLE_SECONDS = 2.0
"""Wait after a write without a condition: by then all that took the lease over at once see who wrote last."""

ADVICE = "wait for its end, or stop it"

Waiting = Callable[[str], AbstractContextManager[None]]
"""Shows what is waited for, such as `Progress.phase`."""

logger = logging.getLogger(__name__)


class Holder(BaseModel):
    """The command that holds a lease.

    Attributes:
        owner: random id of this one hold.
        what: what the command does.
        host: name of its machine.
        pid: of its process.
        since: when it got the lease, ISO.
        renewed: when it last renewed it, by the clock of its machine, in seconds since 1970.
        machine, start: which machine and process these are; see `processes`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    owner: str = ""
    what: str = "Another command"
    host: str = "an unknown host"
    pid: int = 0
    since: str = "an unknown time"
    renewed: float = 0.0
    machine: str = ""
    start: int | None = None

    @classmethod
    def here(cls, what: str) -> Self:
        """Return this process as a new holder."""
        return cls(
            owner=uuid.uuid4().hex,
            what=what,
            host=socket.gethostname(),
            pid=os.getpid(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            machine=machine(),
            start=start_of(os.getpid()),
        )

    @classmethod
    def parsed(cls, content: bytes) -> Self | None:
        """Parse the content of a lease; None for one that is broken."""
        try:
            return cls.model_validate_json(content)
        except ValidationError:
            return None

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, so that it is known to be alive or dead."""
        return self.machine == machine() if machine() else self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it is alive; meant for one that is here."""
        return is_alive(self.pid, self.start)

    @property
    def age(self) -> float:
        """Return the seconds since it was renewed, as far as two clocks agree."""
        return abs(time.time() - self.renewed)

    @property
    def process(self) -> str:
        """Name the process and its host."""
        return f"process {self.pid} on {self.host}"

    def content(self) -> bytes:
        """Return the content of the lease, renewed now."""
        return self.model_copy(update={"renewed": time.time()}).model_dump_json(indent=2).encode()


@contextmanager
def lease(
    fs: fsspec.AbstractFileSystem, path: str, what: str, waiting: Waiting | None = None, advice: str = ADVICE
) -> Iterator[None]:
    """Hold the lease at `path` while the block lasts; it is renewed meanwhile and removed at the end.

    Args:
        fs, path: where the lease is.
        what: what the holder does, for the error that other commands get.
        waiting: if given, a command of another machine that renewed its lease just now is watched, until it renews it
            again or has been silent for LEASE_SECONDS, since it may have died; else it holds it.
        advice: what to do while another command holds it.

    Raises:
        MuscRayError: another command holds it.
    """
    mine = Holder.here(what)
    _acquire(fs, path, mine, waiting, advice)
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(fs, path, mine, over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        _release(fs, path, mine)


def holder(fs: fsspec.AbstractFileSystem, path: str) -> Holder | None:
    """Return who holds the lease at `path`, as far as can be told without waiting; None for nobody."""
    held = _read(fs, path)
    if held is None:
        return None
    return held if (held.is_alive if held.is_here else held.age <= LEASE_SECONDS) else None


def check_free(fs: fsspec.AbstractFileSystem, path: str, waiting: Waiting | None = None, advice: str = ADVICE) -> None:
    """Check that no command holds the lease at `path`.

    Args:
        fs, path, waiting, advice: as for `lease`.

    Raises:
        MuscRayError: a command holds it.
    """
    held = _read(fs, path)
    if held is not None and (alive := _alive(fs, path, held, waiting)) is not None:
        raise _is_held(path, alive, advice)


def _is_held(path: str, held: Holder, advice: str) -> MuscRayError:
    folder, since = path.rsplit("/", 1)[0], held.since[:16].replace("T", " ")
    return MuscRayError(f"{held.what} has been at work in {folder} since {since} UTC ({held.process}): {advice}.")


def _acquire(fs: fsspec.AbstractFileSystem, path: str, mine: Holder, waiting: Waiting | None, advice: str) -> None:
    """Create the lease, or take it over from a dead command.

    Raises:
        MuscRayError: another command holds it, or was quicker.
    """
    seen = _version(fs, path)
    if seen is None:
        if _create(fs, path, mine) or _owner(fs, path) == mine.owner:  # a repeated request is refused
            return
        seen = _version(fs, path)
    held = None if seen is None else Holder.parsed(seen.content)
    if held is not None:
        alive = _alive(fs, path, held, waiting)
        if alive is not None:
            raise _is_held(path, alive, advice)
        seen = _version(fs, path)
        if seen is not None:
            if Holder.parsed(seen.content) != held:
                raise _taken_over(path)
            logger.warning("Taking over from %s, which is gone.", held.process)
    replaced = _create(fs, path, mine) if seen is None else _replace(fs, path, mine, seen)
    if replaced is None:
        time.sleep(SETTLE_SECONDS)
    if not replaced and _owner(fs, path) != mine.owner:
        raise _taken_over(path)


def _version(fs: fsspec.AbstractFileSystem, path: str) -> Version | None:
    return with_retries(lambda: read_version(fs, path), f"read {path}")


def _create(fs: fsspec.AbstractFileSystem, path: str, mine: Holder) -> bool:
    return with_retries(lambda: create(fs, path, mine.content()), f"write {path}")


def _replace(fs: fsspec.AbstractFileSystem, path: str, mine: Holder, seen: Version) -> bool | None:
    return with_retries(lambda: replace(fs, path, mine.content(), seen), f"write {path}")


def _taken_over(path: str) -> MuscRayError:
    return MuscRayError(f"Another command took over {path} at the same time: wait for its end.")


def _renew(fs: fsspec.AbstractFileSystem, path: str, mine: Holder, over: threading.Event) -> None:
    while not over.wait(LEASE_SECONDS / 6):
        try:
            seen = read_version(fs, path)
            held = None if seen is None else Holder.parsed(seen.content)
            if seen is None or held is None or held.owner != mine.owner:
                logger.warning("Lease %s was taken over by another command, because it had expired.", path)
                return
            replace(fs, path, mine.content(), seen)  # if refused, the next round sees who holds it
        except Exception as error:
            if not is_storage_fault(error):
                raise
            logger.warning("The lease %s could not be renewed: %s", path, error)


def _release(fs: fsspec.AbstractFileSystem, path: str, mine: Holder) -> None:
    """Remove the lease; a storage fault is only logged, so that it does not hide the error of the command."""
    try:
        seen = read_version(fs, path)  # not retried: the command is at its end
        held = None if seen is None else Holder.parsed(seen.content)
        if held is not None and held.owner == mine.owner:
            fs.rm_file(path)
    except Exception as error:
        if not is_storage_fault(error):
            raise
        logger.warning("The lease %s could not be removed, and ends by itself: %s", path, error)


def _read(fs: fsspec.AbstractFileSystem, path: str) -> Holder | None:
    """Read a lease; None where it is missing or broken."""
    seen = _version(fs, path)
    return None if seen is None else Holder.parsed(seen.content)


def _owner(fs: fsspec.AbstractFileSystem, path: str) -> str | None:
    held = _read(fs, path)
    return None if held is None else held.owner


def _alive(fs: fsspec.AbstractFileSystem, path: str, held: Holder, waiting: Waiting | None) -> Holder | None:
    """Return who holds a lease now; None where its holder is dead, or has ended meanwhile.

    A holder elsewhere is watched, since clocks differ and jump, and since it may have died just after it renewed.
    """
    if held.is_here:
        return held if held.is_alive else None
    if waiting is None and held.age <= LEASE_SECONDS:
        return held
    with (waiting or nullcontext)(f"waiting to see whether {held.process} is alive"):
        deadline = time.monotonic() + max(WATCH_SECONDS, LEASE_SECONDS - held.age)
        while time.monotonic() < deadline:
            time.sleep(WATCH_SECONDS / 30)
            now = _read(fs, path)
            if now is None or now != held:
                return now
    return None
