"""Walk a folder, prefix or glob: every file once, links followed, and every error of a folder raised with its place."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import fsspec
from fsspec.utils import glob_translate

from musc_ray.errors import MuscRayError, reason_of
from musc_ray.sources.base import ListedFile
from musc_ray.sources.images import DEFAULT_GROUP, Skipped, Unreadable
from musc_ray.sources.names import skipped_part
from musc_ray.storage.filesystem import is_local
from musc_ray.storage.listing import Info, describe, flat_listing, list_folder, lists_flat
from musc_ray.storage.retry import IMPOSSIBLE_NAMES, StorageError

GLOB_SIGNS = re.compile(r"[*?\[]")

RUNS = "runs"
RESULT_FOLDERS = ("features", RUNS)
RESULT = re.compile(rf"(.*/){RUNS}/[^/]+/started\.json", re.S)
"""What tells an OUT: its folders, and the manifest of a run in one of them."""

Found = ListedFile | Skipped | Unreadable
FileNumber = tuple[int, int]
"""Device and inode: what all names of a local file or folder share."""


def walk_files(fs: fsspec.AbstractFileSystem, path: str) -> Iterator[Found]:
    """List the files of a folder, prefix, glob or single file; what is hidden or of a system is skipped.

    Raises:
        FileNotFoundError: there is nothing.
        MuscRayError: a folder cannot be listed; it is named.
    """
    found = describe(fs, path)
    if found is not None and found["type"] == "directory":
        yield from _Walk(fs, path).files()
    elif found is not None:
        yield ListedFile.of(fs, path, str(PurePosixPath(path).parent), found)
        if lists_flat(fs):
            yield from _Walk(fs, path).files()  # in a store, a key may also be the beginning of others
    elif GLOB_SIGNS.search(path):
        yield from _glob(fs, path)
    else:
        raise FileNotFoundError(path)


def may_hold_files(fs: fsspec.AbstractFileSystem, path: str) -> bool:
    """Return False for a local folder without files; True for whatever else there is. Nothing large is listed.

    Raises:
        FileNotFoundError: there is nothing.
        OSError, StorageError: the filesystem cannot tell.
    """
    found = describe(fs, path)
    if found is not None:
        return found["type"] != "directory" or not is_local(fs) or _has_files(path)
    if not GLOB_SIGNS.search(path) or describe(fs, base_of_glob(path)) is None:
        raise FileNotFoundError(path)
    return True


def _has_files(folder: str) -> bool:
    """Return whether anything but folders lies in a local folder; True where it cannot be told."""
    folders = [folder]
    while folders:
        try:
            with os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        return True
                    folders.append(entry.path)
        except OSError:  # the listing names what cannot be read
            return True
    return False


def base_of_glob(pattern: str) -> str:
    """Return the folder that a glob begins in."""
    return re.split(r"[^/]*[*?\[]", pattern, maxsplit=1)[0].rstrip("/") or "/"


def _glob(fs: fsspec.AbstractFileSystem, pattern: str) -> Iterator[Found]:
    """List the files whose paths match a glob; nothing is said of others."""
    base = base_of_glob(pattern).rstrip("/")
    depth = None if "**" in pattern else pattern.count("/") - base.count("/")
    wanted = re.compile(glob_translate(pattern))
    if describe(fs, base or "/") is None:
        raise FileNotFoundError(pattern)
    for found in _Walk(fs, base or "/", depth).files():
        path = found.path if isinstance(found, ListedFile) else str(fs._strip_protocol(found.uri))
        if wanted.match(path):
            yield found


@dataclass
class _Walk:
    """One walk below a folder.

    Attributes:
        fs, root: where.
        depth: levels of folders that are listed, the root included; None for all.
        folders: local folders walked so far.
        names: first URI of each local file with several names.
        links: symbolic links, their level, and whether another link led there; followed last, so that a file is listed
            by its own name.
        real_root: the local root without symbolic links.
        results: folders that musc_ray wrote: pictures of a report are not images of the archive.
    """

    fs: fsspec.AbstractFileSystem
    root: str
    depth: int | None = None
    folders: set[FileNumber] = field(default_factory=set)
    names: dict[FileNumber, str] = field(default_factory=dict)
    links: list[tuple[str, int, bool]] = field(default_factory=list)
    real_root: str = ""
    results: set[str] = field(default_factory=set)

    def files(self) -> Iterator[Found]:
        """List all files."""
        if lists_flat(self.fs) and self.depth is None:
            infos = [info for info in self._listed(self.root, flat_listing) if info["name"] != self.root]
            found = (RESULT.fullmatch(str(info["name"])) for info in infos)
            self.results = {f"{match[1]}{folder}/" for match in found if match for folder in RESULT_FOLDERS}
            infos.reverse()
            while infos:  # a million of them weigh as much as the catalog: none is held longer than needed
                yield self._judged(infos.pop(), linked=False)
            return
        if is_local(self.fs):
            self.real_root = os.path.realpath(self.root)
        yield from self._below(self.root, level=1, linked=False)
        while self.links:
            yield from self._follow(*self.links.pop(0))

    def _below(self, folder: str, level: int, linked: bool) -> Iterator[Found]:
        """List the files below a folder of some level; `linked` if a symbolic link leads there."""
        pending = [(folder, level)]
        while pending:
            path, level = pending.pop()
            skipped = self._skipped_part(path)
            if skipped is None and is_local(self.fs):
                self.folders.add(_number(path))
            try:
                infos = self._listed(path, list_folder)
            except MuscRayError as error:
                if skipped is None:
                    raise
                yield skipped._replace(message=f"{skipped.message} {error}")
                continue
            self._find_results(path, infos)
            if self._enters(level):
                inside = [str(info["name"]).rstrip("/") for info in infos if info["type"] == "directory"]
                pending += [(name, level + 1) for name in reversed(inside)]  # the last is the next
            for info in infos:
                name = str(info["name"]).rstrip("/")
                if info.get("islink"):
                    self.links.append((name, level, linked))
                elif info["type"] != "directory":
                    yield self._judged(info, linked)

    def _find_results(self, folder: str, infos: list[Info]) -> None:
        """Note the results in a folder, if it is the OUT of runs."""
        names = {str(info["name"]).rstrip("/").rpartition("/")[2] for info in infos}
        if not set(RESULT_FOLDERS) <= names:
            return
        for run in self._listed(f"{folder}/{RUNS}", list_folder):
            if describe(self.fs, f"{run['name']}/started.json") is not None:
                self.results.update(f"{folder}/{name}/" for name in RESULT_FOLDERS)
                return

    def _enters(self, level: int) -> bool:
        return self.depth is None or level < self.depth

    def _follow(self, path: str, level: int, in_linked: bool) -> Iterator[Found]:
        """List what a symbolic link leads to; a folder that is listed already only for the source's own links."""
        skipped = self._skipped_part(path)
        if skipped is not None:
            yield skipped
            return
        try:
            found = describe(self.fs, path)
            reason = "there is nothing at its end"
        except (OSError, StorageError) as error:
            if not isinstance(error, OSError) or error.errno not in IMPOSSIBLE_NAMES:  # it may be a folder of images
                raise _incomplete(self._uri(path), error) from error
            found, reason = None, reason_of(error)
        if found is None:
            message = f"The symbolic link leads nowhere: {reason}."
            yield Unreadable(self._uri(path), self._relative(path), DEFAULT_GROUP, "FileNotFoundError", message)
        elif found["type"] != "directory":
            yield self._judged(found, linked=True)
        elif _number(path) in _above(path):
            yield Skipped(self._uri(path), "second_name", "The link leads back to a folder that holds it.")
        elif in_linked and _number(path) in self.folders:
            yield Skipped(self._uri(path), "second_name", "The link leads to a folder that is listed already.")
        elif self._enters(level):
            yield from self._below(path, level + 1, linked=True)

    def _judged(self, info: Info, linked: bool) -> Found:
        """Return a file; or that it is skipped because of its path, or is not a file."""
        path = str(info["name"])
        skipped = self._skipped_part(path)
        if skipped is not None:
            return skipped
        if info["type"] != "file":
            return Skipped(self._uri(path), "special", "It is a device, socket or pipe.")
        file = ListedFile.of(self.fs, path, self.root, info)
        if is_local(self.fs) and (linked or info.get("nlink", 1) > 1):
            return file._replace(same_as=self._first_name(file, linked))
        return file

    def _first_name(self, file: ListedFile, linked: bool) -> str | None:
        """Return the URI by which a local file with several names is listed before; None where this is the first."""
        real = os.path.realpath(file.path)
        if linked and real.startswith(f"{self.real_root.rstrip('/')}/"):
            return self._uri(self.root + real[len(self.real_root) :])
        first = self.names.setdefault(_number(file.path), file.uri)
        return None if first == file.uri else first

    def _skipped_part(self, path: str) -> Skipped | None:
        if any(f"{path}/".startswith(folder) for folder in self.results):
            return Skipped(self._uri(path), "system", "It is a result of musc-ray.")
        found = skipped_part(self._relative(path))
        return None if found is None else Skipped(self._uri(path), *found)

    def _relative(self, path: str) -> str:
        return path[len(self.root) :].lstrip("/")

    def _uri(self, path: str) -> str:
        return str(self.fs.unstrip_protocol(path))

    def _listed(self, folder: str, how: Callable[[fsspec.AbstractFileSystem, str], list[Info]]) -> list[Info]:
        """List a folder; an error names it."""
        try:
            return how(self.fs, folder)
        except (OSError, StorageError) as error:
            raise _incomplete(self._uri(folder), error) from error


def _incomplete(place: str, error: Exception) -> MuscRayError:
    return MuscRayError(f"Cannot list {place}: {reason_of(error)}; an archive that is seen in part is not scored.")


def _above(path: str) -> set[FileNumber]:
    """Return the folders that hold a link, up to the root of the filesystem."""
    folder = PurePosixPath(os.path.realpath(PurePosixPath(path).parent))
    return {_number(str(above)) for above in (folder, *folder.parents)}


def _number(path: str) -> FileNumber:
    found = Path(path).stat()
    return (found.st_dev, found.st_ino)
