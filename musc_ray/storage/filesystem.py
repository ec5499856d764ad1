"""Files on any fsspec filesystem, and writes that are either whole or not there."""

import errno
import json
import os
import posixpath
import re
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from musc_ray.errors import MuscRayError
from musc_ray.storage.listing import exists
from musc_ray.storage.retry import with_retries
from musc_ray.storage.s3 import wait_for_s3

PARTIAL = ".partial"
"""How the name of a local file ends while it is written."""

WINDOWS_PATH = re.compile(r"[A-Za-z]:[\\/]|\\\\")

WRITE_CHECK = ".musc-ray-write-check-"
"""How the name of a file begins with which a command tries whether it can write."""


def open_filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """The filesystem of a path or URI, and the path within it (absolute for local ones, no trailing slash).

    Credentials and endpoints come from the environment, as fsspec and the cloud SDKs read them. `::` is part of a name:
    fsspec would take it for a chain, and open what the name of a file in an archive tells it to.

    Raises:
        MuscRayError: a protocol that is unknown or whose driver is not installed.
    """
    try:
        fs, path = _literal(uri) if "::" in uri else fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise MuscRayError(f"Cannot open {uri!r}: {error}") from error
    if "s3" in fs.protocol:
        wait_for_s3()
    return fs, path.rstrip("/") or "/"


def _literal(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """As fsspec's `url_to_fs`, but that it knows no chains."""
    protocol, _ = fsspec.core.split_protocol(uri)
    kind = fsspec.get_filesystem_class(protocol or "file")
    return fsspec.filesystem(protocol or "file", **kind._get_kwargs_from_urls(uri)), str(kind._strip_protocol(uri))


def is_local(fs: fsspec.AbstractFileSystem) -> bool:
    """Whether paths of this filesystem can be used as they are by the operating system."""
    return isinstance(fs, LocalFileSystem)


def absolute(uri: str) -> str:
    """A path or URI as it means the same from any working directory: local ones as paths, others with protocol."""
    fs, path = open_filesystem(uri)
    return path if is_local(fs) else str(fs.unstrip_protocol(path))


def whole_uri(given: str) -> str | None:
    """Return a URI that a table names as other tables write it; None for a path.

    Of local files `.`, `..` and `//` are resolved, so that a file has one name; keys of stores may have them.
    """
    if given.startswith("file:/") and not given.startswith("file://"):  # as Java writes it
        given = f"file://{given.removeprefix('file:')}"
    if given.startswith("file:///"):
        return f"file://{posixpath.normpath(given.removeprefix('file://'))}"
    return given if "://" in given else None


def uri_beside(fs: fsspec.AbstractFileSystem, table: str, given: str) -> str:
    r"""The URI of a file that a table names: a URI as it is, a relative path beside the table.

    `./a.png` and `a.png` are one file; `..` leads out of the table's folder, but not out of its bucket; folders of a
    relative path may be separated by `\\`, as Windows does.

    Raises:
        MuscRayError: a path that means nothing here.
    """
    whole = whole_uri(given)
    if whole is not None:
        return whole
    if WINDOWS_PATH.match(given):
        raise MuscRayError(f"{given!r} is a path of Windows: write it relative to the table, or as a URI.")
    if given.startswith("/"):
        if fs.root_marker != "/":
            raise MuscRayError(f"{given!r} begins with / in a table that is not on a disk: write a whole URI.")
        return str(fs.unstrip_protocol(posixpath.normpath(given)))
    return str(fs.unstrip_protocol(_joined(table.rpartition("/")[0], given, fs.root_marker == "/")))


def _joined(folder: str, given: str, on_disk: bool) -> str:
    steps = given.replace("\\", "/").split("/")
    if ".." in steps and ".." in folder.split("/"):
        folder = posixpath.normpath(folder)
    parts = folder.split("/")
    root = 3 if "://" in folder else 1  # of http://host/folder, of bucket/folder, of /folder
    for step in steps:
        if step == "..":
            if len(parts) <= root:
                raise MuscRayError(f"{given!r} leads out of the table's bucket or disk: correct it.")
            parts.pop()
        elif step != "." and not (on_disk and not step):  # a//b is a name in a bucket
            parts.append(step)
    return "/".join(parts)


@contextmanager
def atomic_file(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Path]:
    """Yield a local file to write; it appears at `path` whole when the block ends, or not at all if it fails.

    Local: a hidden neighbour that is renamed, safe against any kill of the process. It is not synced: a power failure
    may leave a cut file, which readers name as broken. Object storage: a temporary file, uploaded at the end; a store
    shows an object only once its upload is complete; the file's suffix tells the store its content type.
    """
    if is_local(fs):
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}{PARTIAL}")
    else:
        handle, name = tempfile.mkstemp(prefix="musc-ray-", suffix=PurePosixPath(path).suffix)
        os.close(handle)
        partial = Path(name)
    try:
        yield partial
        if is_local(fs):
            partial.replace(path)
        else:
            with_retries(lambda: fs.put_file(str(partial), path), f"write {path}")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise OSError(error.errno, os.strerror(error.errno), str(partial.parent)) from error  # says which disk
    finally:
        partial.unlink(missing_ok=True)


def write_bytes(fs: fsspec.AbstractFileSystem, path: str, content: bytes) -> None:
    """Write a file atomically."""
    with atomic_file(fs, path) as partial:
        partial.write_bytes(content)


def write_text(fs: fsspec.AbstractFileSystem, path: str, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    write_bytes(fs, path, text.encode())


def write_json(fs: fsspec.AbstractFileSystem, path: str, content: dict[str, Any]) -> None:
    """Write a JSON object atomically, indented for people."""
    write_text(fs, path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Any] | None:
    """Read a JSON object; None when the file is not there.

    Raises:
        MuscRayError: the file is no JSON object.
    """
    try:
        content = json.loads(fs.cat_file(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise MuscRayError(f"{path} is not valid JSON ({error}): delete it and run again.") from error
    if not isinstance(content, dict):
        raise MuscRayError(f"{path} does not hold a JSON object: delete it and run again.")
    return content


def check_writable(fs: fsspec.AbstractFileSystem, folder: str) -> None:
    """Write and delete a small file in `folder`, so that a job fails before its work and not after.

    Raises:
        MuscRayError: the folder cannot be written.
    """
    probe = f"{folder}/{WRITE_CHECK}{uuid.uuid4().hex}"
    try:
        write_text(fs, probe, "")
        fs.rm_file(probe)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MuscRayError(
            f"Cannot write to {folder}: {reason}; choose another OUT or change its permissions."
        ) from error


def remove_tree(fs: fsspec.AbstractFileSystem, folder: str) -> None:
    """Delete a folder and all below it; nothing happens when it is missing.

    Raises:
        OSError, StorageError: the filesystem cannot tell, or cannot delete it.
    """
    if exists(fs, folder):
        fs.rm(folder, recursive=True)
        fs.invalidate_cache(folder)
