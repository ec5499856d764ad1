"""Tar shards (WebDataset and any other uncompressed tar): members that are images, `<container>.tar#<member>`."""

import posixpath
import re
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from typing import IO, NamedTuple

import fsspec

from musc_ray.errors import MuscRayError, reason_of
from musc_ray.settings.columns import ColumnNames
from musc_ray.sources.base import Container, ListedFile
from musc_ray.sources.images import DEFAULT_GROUP, Entry, ListedImage, Skipped, Unreadable
from musc_ray.sources.judged import judged_by_head, judged_by_name
from musc_ray.sources.limits import too_large
from musc_ray.sources.names import is_image_name, skipped_part, suffix_of
from musc_ray.sources.sniff import HEAD_BYTES
from musc_ray.storage.filesystem import open_filesystem

IN_TAR = re.compile(r"(?<=.)\.tar#(?=.)", re.DOTALL | re.IGNORECASE)

MAX_CACHED_TARS = 64
"""Tars whose members a process keeps in mind: shards are random samples, so reads jump between them."""

MAX_LINKS = 40
"""Links to links that are followed, as in Linux."""


class Span(NamedTuple):
    """Where a member's content lies in its tar, in bytes."""

    offset: int
    size: int


class Members(NamedTuple):
    """The members of a tar that are not folders.

    Attributes:
        files: the content of each name, links resolved; of several members of one name the last counts.
        links: names of links, and the name of the file that each leads to.
        to_folders: names of links to folders, whose files are listed by their own names.
        replaced: names of members that a later one of the same name replaces, once each time.
        broken: names of links that lead nowhere.
        special: names of devices and pipes.
        sparse: names of files whose zeros are left out, so that their content does not lie there in one piece.
    """

    files: dict[str, Span]
    links: dict[str, str]
    to_folders: list[str]
    replaced: list[str]
    broken: list[str]
    special: list[str]
    sparse: list[str]


class TarShard(Container):
    """An uncompressed tar; of an image only its own bytes are read."""

    def recognises(self, path: str) -> bool:
        """Return whether a path ends with .tar."""
        return suffix_of(path) == ".tar"

    def entries(self, file: ListedFile, columns: ColumnNames) -> Iterator[Entry]:
        """List the members, as `FilesSource` lists files; those of unknown names by their content."""
        _cached_members.cache_clear()  # it may have been written again
        members = tar_members(file.fs, file.path)
        for name, span in sorted(members.files.items(), key=lambda item: item[0] in members.links):
            yield _judged(file, name, span, members.links.get(name))
        for name in members.replaced:
            yield Skipped(f"{file.uri}#{name}", "second_name", "A later member of the tar has the same name.")
        for name in members.to_folders:
            yield Skipped(f"{file.uri}#{name}", "second_name", "The link leads to a folder that is listed already.")
        for name in members.special:
            yield Skipped(f"{file.uri}#{name}", "special", "It is a device or pipe.")
        for names, error, message in (
            (members.broken, "FileNotFoundError", "The link leads to nothing in its tar."),
            (members.sparse, "UnsupportedFormat", "The member is a sparse file: write the tar without --sparse."),
        ):
            for name in names:
                yield Unreadable(f"{file.uri}#{name}", f"{file.relative}/{name}", DEFAULT_GROUP, error, message)

    def splits(self, uri: str) -> list[tuple[str, str]]:
        """Return the tar's URI and the member's name: either may have `.tar#` in it."""
        return [(uri[: match.end() - 1], uri[match.end() :]) for match in IN_TAR.finditer(uri)]

    def read(self, container: str, name: str, max_bytes: int) -> bytes:
        """Read a member; see `Container.read`."""
        fs, path = open_filesystem(container)
        span = _cached_members(container).files.get(name)
        if span is None:
            raise FileNotFoundError(f"{container} has no member {name}.")
        if span.size > max_bytes:
            raise too_large("The member", span.size, max_bytes)
        return _read(fs, path, span)


def _read(fs: fsspec.AbstractFileSystem, path: str, span: Span) -> bytes:
    return bytes(fs.cat_file(path, start=span.offset, end=span.offset + span.size)) if span.size else b""


def _judged(file: ListedFile, name: str, span: Span, first_name: str | None) -> Entry:
    """Classify a member: an image, skipped, or unreadable."""
    uri, relative = f"{file.uri}#{name}", f"{file.relative}/{name}"
    skipped = skipped_part(posixpath.normpath(name))
    if skipped is not None:
        return Skipped(uri, *skipped)
    verdict = None
    if not is_image_name(name):
        verdict = judged_by_name(uri, relative)
        if verdict is None:
            head = _read(file.fs, file.path, span._replace(size=min(span.size, HEAD_BYTES)))
            verdict = judged_by_head(uri, relative, head)
    if verdict is not None:
        return verdict
    same_as = None if first_name is None else f"{file.uri}#{first_name}"
    version = f"{file.version}-{span.offset}-{span.size}"
    return ListedImage(uri, relative, DEFAULT_GROUP, version, file.modified, same_as)


def tar_members(fs: fsspec.AbstractFileSystem, path: str) -> Members:
    """Find all members of an uncompressed tar, also behind the end of a first one where several were concatenated.

    Raises:
        MuscRayError: not a tar file, or one that breaks or ends before its end: it is not listed in part.
    """
    found = Members({}, {}, [], [], [], [], [])
    targets: dict[str, str] = {}
    try:
        with fs.open(path, "rb") as file:
            start: int | None = 0
            while start is not None:
                start = _read_tar(file, start, found, targets)
    except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError) as error:
        raise MuscRayError(
            f"{path} is not a readable tar file ({reason_of(error)}): repair or remove it; it is not listed in part."
        ) from error
    _resolve(targets, found)
    return found


def _resolve(targets: dict[str, str], found: Members) -> None:
    """Give each link the content of the file that it leads to, through other links and links to folders."""
    files = {posixpath.normpath(name): name for name in found.files}
    folders = {folder for path in files for folder in _folders_of(path)}
    links = {posixpath.normpath(name): target for name, target in targets.items()}
    contents = {}
    for name in targets:
        path = _target(posixpath.normpath(name), links)
        if path in files:
            found.links[name] = files[path]
            contents[name] = found.files[files[path]]
        else:
            (found.to_folders if path in folders else found.broken).append(name)
    found.files.update(contents)


def _folders_of(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path


def _read_tar(file: IO[bytes], start: int, found: Members, targets: dict[str, str]) -> int | None:
    """Add the members of the tar that begins at `start`; return where the next one begins, None at the end.

    Raises:
        ValueError, tarfile.TarError: it is broken, or cut.
    """
    file.seek(start)
    last = start - 1
    with tarfile.open(fileobj=file, mode="r:") as archive:
        for member in archive:
            if member.offset <= last or member.size < 0:  # Pythons before August 2025 would loop for ever
                raise ValueError("a header points back to an earlier member")
            last = member.offset
            _add(member, found, targets)
        end = archive.offset
    return _next_tar(file, end)


def _add(member: tarfile.TarInfo, found: Members, targets: dict[str, str]) -> None:
    """Add one member that is not a folder."""
    name = member.name
    if member.isdir():
        return
    if name in found.files or name in targets:
        found.replaced.append(name)
        found.files.pop(name, None)
        targets.pop(name, None)
    if member.sparse is not None or any(key.startswith("GNU.sparse") for key in member.pax_headers):
        found.sparse.append(name)
    elif member.isfile():
        found.files[name] = Span(member.offset_data, member.size)
    elif member.issym():
        targets[name] = posixpath.normpath(posixpath.join(posixpath.dirname(name), member.linkname))
    elif member.islnk():
        targets[name] = posixpath.normpath(member.linkname)
    else:
        found.special.append(name)


def _target(path: str, links: dict[str, str]) -> str | None:
    """Return the path that a link leads to, which is not a link itself; None if it leads in a ring."""
    for _ in range(MAX_LINKS):
        steps = [path, *_folders_of(path)]
        link = next((step for step in reversed(steps) if step in links), None)  # the outermost folder first
        if link is None:
            return path
        path = posixpath.normpath(links[link] + path[len(link) :])
    return None


def _next_tar(file: IO[bytes], end: int) -> int | None:
    """Return where another tar begins behind the blocks of zeros that end one; None at the end of the file.

    Raises:
        ValueError: there is something else behind the last member, or nothing at all: the tar is broken or cut.
    """
    file.seek(end)
    block, zeros = file.read(tarfile.BLOCKSIZE), 0
    while block and not block.strip(b"\0"):
        zeros += 1
        block = file.read(tarfile.BLOCKSIZE)
    if not zeros:
        raise ValueError("it ends without its end mark" if not block else f"its header at byte {end:,} is broken")
    return end + zeros * tarfile.BLOCKSIZE if block else None


@lru_cache(maxsize=MAX_CACHED_TARS)
def _cached_members(container: str) -> Members:
    return tar_members(*open_filesystem(container))
