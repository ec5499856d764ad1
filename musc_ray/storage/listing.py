"""What lies where on a filesystem. "Missing" is said only of what the filesystem says is missing; all else is raised.

fsspec's own `exists`, `isdir`, `isfile`, `glob`, `find`, `walk` and `du` answer "not there" to errors, too (a stale NFS
handle, a folder without permission): a run would be deleted, or half an archive scored. Nothing here uses them on
folders, and tests/unit/test_architecture.py keeps it so.
"""

from collections.abc import Iterator
from typing import Any

import fsspec
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.local import LocalFileSystem

from musc_ray.storage.retry import with_retries

Info = dict[str, Any]
"""What a filesystem says of a file or folder: name, type, size, times."""

MISSING = (FileNotFoundError, NotADirectoryError)


def describe(fs: fsspec.AbstractFileSystem, path: str) -> Info | None:
    """Return what the filesystem says of a path, links followed; None where there is nothing.

    Raises:
        OSError, StorageError: the filesystem cannot tell.
    """
    try:
        return dict(with_retries(lambda: fs.info(path), f"look at {_named(fs, path)}"))
    except MISSING:
        return None


def exists(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """Return whether there is a file or folder; raises as `describe`."""
    return describe(fs, path) is not None


def is_file(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """Return whether there is a file; raises as `describe`."""
    found = describe(fs, path)
    return found is not None and found["type"] == "file"


def list_folder(fs: fsspec.AbstractFileSystem, folder: str) -> list[Info]:
    """List a folder, sorted by name; links are not followed, and the folder itself is not part of it.

    Raises:
        FileNotFoundError, NotADirectoryError: there is no such folder.
        OSError, StorageError: it cannot be listed.
    """
    found = with_retries(lambda: fs.ls(folder, detail=True), f"list {_named(fs, folder)}")
    inside = (info for info in found if info["name"].rstrip("/") != folder and not _is_marker(info))
    return sorted(inside, key=lambda info: str(info["name"]))


def names_in(fs: fsspec.AbstractFileSystem, folder: str) -> list[str]:
    """List the paths in a folder as they are now, sorted; empty where it is missing; raises as `list_folder`."""
    fs.invalidate_cache(folder)
    try:
        return [str(info["name"]).rstrip("/") for info in list_folder(fs, folder)]
    except MISSING:
        return []


def files_below(fs: fsspec.AbstractFileSystem, folder: str) -> Iterator[Info]:
    """List all files below a folder; empty where it is missing. Folders that vanish meanwhile count as empty.

    Raises:
        OSError, StorageError: a folder cannot be listed.
    """
    if lists_flat(fs):
        yield from flat_listing(fs, folder)
        return
    folders = [folder]
    while folders:
        try:
            found = list_folder(fs, folders.pop())
        except MISSING:
            continue
        for info in found:
            if info["type"] == "directory":
                folders.append(str(info["name"]).rstrip("/"))
            else:
                yield info


def lists_flat(fs: fsspec.AbstractFileSystem) -> bool:
    """Return whether a filesystem lists all keys below a prefix in one go, as object stores do."""
    find = type(fs)._find if isinstance(fs, AsyncFileSystem) else type(fs).find
    return find not in (AsyncFileSystem._find, fsspec.AbstractFileSystem.find)


def flat_listing(fs: fsspec.AbstractFileSystem, prefix: str) -> list[Info]:
    """List all keys below a prefix of an object store, sorted; markers of folders are left out.

    Raises:
        OSError, StorageError: it cannot be listed to its end.
    """
    found = with_retries(lambda: fs.find(prefix, detail=True), f"list {_named(fs, prefix)}")
    fs.invalidate_cache()  # the driver would keep all of them
    return [info for _, info in sorted(found.items()) if info["type"] != "directory" and not _is_marker(info)]


def _is_marker(info: Info) -> bool:
    """Return whether a key is only there for tools to show a folder: `photos/`, of zero bytes."""
    return info["type"] != "directory" and str(info["name"]).endswith("/") and not info.get("size")


def _named(fs: fsspec.AbstractFileSystem, path: str) -> str:
    return path if isinstance(fs, LocalFileSystem) else str(fs.unstrip_protocol(path))
