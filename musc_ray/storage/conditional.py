"""Write a file only if it has not changed since it was read, so that one of several concurrent commands wins."""

import fcntl
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import fsspec

from musc_ray.storage.filesystem import PARTIAL, atomic_file, is_local, write_bytes
from musc_ray.storage.listing import exists

REFUSALS = ("PreconditionFailed", "ConditionalRequestConflict")
"""Error codes of an S3 store whose condition was not met."""


@dataclass(frozen=True)
class Version:
    """The content of a file, and what identifies it on an object store that has conditional writes (ETag)."""

    content: bytes
    etag: str | None = None


def read_version(fs: fsspec.AbstractFileSystem, path: str) -> Version | None:
    """Read a small file; None where it is missing."""
    try:
        # the tag first: content that is newer than its tag only makes a later `replace` fail
        etag = str(fs.info(path, refresh=True)["ETag"]) if _is_s3(fs) else None
        return Version(fs.cat_file(path), etag)
    except FileNotFoundError:
        return None


def create(fs: fsspec.AbstractFileSystem, path: str, content: bytes) -> bool:
    """Write a file unless it is there; return whether it was written.

    Local: a link to a file that is written before. S3: `If-None-Match: *`. Other stores: as their fsspec driver can.
    """
    if is_local(fs):
        return _create_local(path, content)
    try:
        fs.pipe_file(path, content, mode="create")
    except OSError as error:
        fs.invalidate_cache()
        if _is_refusal(error) or exists(fs, path):
            return False
        raise
    return True


def replace(fs: fsspec.AbstractFileSystem, path: str, content: bytes, seen: Version) -> bool | None:
    """Replace a file that is still as it was seen; return whether it was replaced.

    Local: under a lock on the file that was seen, which must still be the one at `path`. S3: `If-Match`. The content
    must be one that the file never had, such as one with a random owner and a time.

    Returns:
        None where the file was written without a condition: the store has no conditional writes, or ignores them.
        Whoever wrote last has won, which shows when the others have written, too.
    """
    if is_local(fs):
        return _replace_local(fs, path, content, seen)
    if seen.etag is None:
        write_bytes(fs, path, content)
        return None
    try:
        fs.pipe_file(path, content, IfMatch=seen.etag)
    except (OSError, NotImplementedError) as error:
        if isinstance(error, FileNotFoundError) or _is_refusal(error):
            return False
        if _code(error) != "NotImplemented":
            raise
        write_bytes(fs, path, content)
        return None
    return None if _ignores_conditions(fs, path, content, seen.etag) else True


def _create_local(path: str, content: bytes) -> bool:
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    whole = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    whole.write_bytes(content)
    try:
        target.hardlink_to(whole)
    except FileExistsError:
        return False
    finally:
        whole.unlink()
    return True


def _replace_local(fs: fsspec.AbstractFileSystem, path: str, content: bytes, seen: Version) -> bool | None:
    try:
        with Path(path).open("r+b") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:  # a network file system without locks
                write_bytes(fs, path, content)
                return None
            if file.read() != seen.content or not os.path.samestat(os.fstat(file.fileno()), Path(path).stat()):
                return False
            with atomic_file(fs, path) as partial:  # renamed over the file, whose lock ends with this block
                partial.write_bytes(content)
            return True
    except FileNotFoundError:
        return False


def _ignores_conditions(fs: fsspec.AbstractFileSystem, path: str, content: bytes, old_etag: str) -> bool:
    """Whether a store writes although the condition no longer holds: try it with the content that is there."""
    try:
        fs.pipe_file(path, content, IfMatch=old_etag)
    except OSError as error:
        if not _is_refusal(error):
            raise
        return False
    return True


def _is_s3(fs: fsspec.AbstractFileSystem) -> bool:
    return "s3" in fs.protocol


def _code(error: BaseException) -> str:
    """The error code of an S3 store; empty for other errors."""
    response = getattr(error.__cause__, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def _is_refusal(error: BaseException) -> bool:
    return _code(error) in REFUSALS
