"""Folders, prefixes, globs and single files: images by their names, and the images in the containers among them."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import fsspec

from musc_ray.sources.base import ListedFile, Source
from musc_ray.sources.containers import container_kind
from musc_ray.sources.images import DEFAULT_GROUP, ListedImage, is_image_name
from musc_ray.storage.filesystem import open_filesystem

GLOB_SIGNS = re.compile(r"[*?\[]")


class FilesSource(Source):
    """A folder, prefix, glob or single file on any fsspec filesystem."""

    @classmethod
    def recognises(cls, text: str) -> bool:
        """Return True: whatever no other kind recognises is a place of files."""
        return True

    def walked(self) -> str:
        """Return the SOURCE itself; see `Source.walked`."""
        return self.text

    def images(self) -> Iterator[ListedImage]:
        """List the images among the files, and those in containers."""
        fs, path = open_filesystem(self.text)
        base, found = find_files(fs, path)
        for name, info in found.items():
            if is_image_name(name):
                file = ListedFile.of(fs, name, base, info)
                yield ListedImage(file.uri, file.relative, DEFAULT_GROUP, file.version, file.modified)
            elif (container := container_kind(name)) is not None:
                yield from container.images(ListedFile.of(fs, name, base, info))


def find_files(fs: fsspec.AbstractFileSystem, path: str) -> tuple[str, dict[str, dict[str, Any]]]:
    """Find the files of a folder, prefix, glob or single file.

    Returns:
        The folder that relative paths start from, and the files by path with what the filesystem says of them.

    Raises:
        FileNotFoundError: there is nothing.
    """
    if fs.isfile(path):
        return str(PurePosixPath(path).parent), {path: fs.info(path)}
    if not fs.exists(path) and GLOB_SIGNS.search(path):
        found = fs.glob(path, detail=True)
        files = {name: info for name, info in found.items() if info.get("type") != "directory"}
        return re.split(r"[^/]*[*?\[]", path, maxsplit=1)[0], files
    found = fs.find(path, detail=True)
    if not found and not fs.exists(path):
        raise FileNotFoundError(path)
    return path, found
