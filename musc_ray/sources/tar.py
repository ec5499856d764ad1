"""Tar shards (WebDataset and any other uncompressed tar): members that are images, `<container>.tar#<member>`."""

import re
import tarfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath

import fsspec

from musc_ray.errors import MuscRayError, reason_of
from musc_ray.sources.base import Container, ListedFile
from musc_ray.sources.images import DEFAULT_GROUP, ListedImage, is_image_name
from musc_ray.sources.limits import too_large
from musc_ray.storage.filesystem import open_filesystem

IN_TAR = re.compile(r"(.+\.tar)#(.+)", re.DOTALL | re.IGNORECASE)

MAX_CACHED_TARS = 64
"""Tars whose members a process keeps in mind: shards are random samples, so reads jump between them."""

Span = tuple[int, int]
"""Offset and size in bytes."""


class TarShard(Container):
    """An uncompressed tar; of an image only its own bytes are read."""

    def recognises(self, path: str) -> bool:
        """Return whether a path ends with .tar."""
        return PurePosixPath(path).suffix.lower() == ".tar"

    def images(self, file: ListedFile) -> Iterator[ListedImage]:
        """List the members that are images by their names."""
        for member, (offset, size) in tar_members(file.fs, file.path).items():
            if is_image_name(member):
                yield ListedImage(
                    f"{file.uri}#{member}",
                    f"{file.relative}/{member}",
                    DEFAULT_GROUP,
                    f"{file.version}-{offset}-{size}",
                    file.modified,
                )

    def split(self, uri: str) -> tuple[str, str] | None:
        """Return the tar's URI and the member's name."""
        match = IN_TAR.fullmatch(uri)
        return None if match is None else (match[1], match[2])

    def read(self, container: str, name: str, max_bytes: int) -> bytes:
        """Read a member; see `Container.read`."""
        fs, path = open_filesystem(container)
        span = _cached_members(container).get(name)
        if span is None:
            raise FileNotFoundError(f"{container} has no member {name}.")
        offset, size = span
        if size > max_bytes:
            raise too_large("The member", size, max_bytes)
        return bytes(fs.cat_file(path, start=offset, end=offset + size))


def tar_members(fs: fsspec.AbstractFileSystem, path: str) -> dict[str, Span]:
    """Find where the files of an uncompressed tar begin and how long they are, by member name.

    Raises:
        MuscRayError: not a tar file.
    """
    found: dict[str, Span] = {}
    last = -1
    try:
        with fs.open(path, "rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.offset <= last or member.size < 0:  # Pythons before August 2025 would loop for ever
                    raise ValueError("a header points back to an earlier member")
                last = member.offset
                if member.isfile():
                    found[member.name] = (member.offset_data, member.size)
    except (tarfile.TarError, ValueError, EOFError, OverflowError, RecursionError) as error:
        raise MuscRayError(f"{path} is not a readable tar file ({reason_of(error)}).") from error
    return found


@lru_cache(maxsize=MAX_CACHED_TARS)
def _cached_members(container: str) -> dict[str, Span]:
    return tar_members(*open_filesystem(container))
