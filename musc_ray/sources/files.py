"""Folders, prefixes, globs and single files: images by name or content, and what containers among them hold."""

import re
from array import array
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from musc_ray.errors import MuscRayError, reason_of
from musc_ray.sources.base import Container, ListedFile, Source
from musc_ray.sources.containers import container_kind
from musc_ray.sources.images import DEFAULT_GROUP, Entry, ListedImage, Skipped, Unreadable
from musc_ray.sources.judged import judged_by_head, judged_by_name
from musc_ray.sources.mask_folders import without_masks
from musc_ray.sources.names import is_image_name
from musc_ray.sources.sniff import read_head
from musc_ray.sources.walk import may_hold_files, walk_files
from musc_ray.storage.filesystem import open_filesystem
from musc_ray.storage.retry import StorageError

DELTA_LOG = re.compile(r"/_delta_log/\d+\.json\Z")

SNIFFERS = 16
"""Files of unknown names whose first bytes are read at the same time."""


class FilesSource(Source):
    """A folder, prefix, glob or single file on any fsspec filesystem."""

    @classmethod
    def recognises(cls, text: str) -> bool:
        """Return True: whatever no other kind recognises is a place of files."""
        return True

    def may_hold_images(self) -> bool:
        """Look whether there is a file, a folder with files, or the folder of a glob; see `Source.may_hold_images`."""
        return may_hold_files(*open_filesystem(self.text))

    def walked(self) -> str:
        """Return the SOURCE itself; see `Source.walked`."""
        return self.text

    def entries(self) -> Iterator[Entry]:
        """List everything: the files, and what lies in containers; masks of known layouts are skipped.

        A row of a table that names a file below the source is a second name of it.
        """
        return without_masks(self._with_masks())

    def _with_masks(self) -> Iterator[Entry]:
        containers: list[tuple[Container, ListedFile]] = []
        hashes = array("q")  # of the URIs: 8 bytes for each, of perhaps millions
        for entry in self._of_files(containers):
            if isinstance(entry, ListedImage):
                hashes.append(hash(entry.uri))
            yield entry
        files = set(hashes) if containers else set()
        for container, file in containers:
            for entry in container.entries(file, self.columns):
                if isinstance(entry, ListedImage) and hash(entry.uri) in files:
                    message = f"The file is listed itself; give {file.uri} as the source for the groups of its rows."
                    yield Skipped(entry.uri, "second_name", message)
                else:
                    yield entry

    def _of_files(self, containers: list[tuple[Container, ListedFile]]) -> Iterator[Entry]:
        """List what is not in a container; containers are appended."""
        unnamed = []
        for found in walk_files(*open_filesystem(self.text)):
            _refuse_delta(found)
            if not isinstance(found, ListedFile):
                yield found
            elif is_image_name(found.path):
                yield image_of(found)
            elif (container := container_kind(found.path)) is not None:
                containers.append((container, found))
            else:
                verdict = judged_by_name(found.uri, found.relative)
                if verdict is None:
                    unnamed.append(found)
                else:
                    yield verdict
        with ThreadPoolExecutor(SNIFFERS) as readers:
            yield from readers.map(_judged_by_content, unnamed)


def _refuse_delta(found: ListedFile | Skipped | Unreadable) -> None:
    """Refuse a folder of a Delta table: it keeps files that are no longer part of the table.

    Raises:
        MuscRayError: this is a file of a Delta table's log.
    """
    if isinstance(found, ListedFile) and DELTA_LOG.search(f"/{found.relative}"):
        raise MuscRayError(
            f"{found.uri} is the log of a Delta table, whose folder keeps removed files, too: give the table's live "
            f"rows as a Parquet file or a CSV of URIs."
        )


def image_of(file: ListedFile) -> ListedImage:
    """Return a file as an image."""
    return ListedImage(file.uri, file.relative, DEFAULT_GROUP, file.version, file.modified, file.same_as)


def _judged_by_content(file: ListedFile) -> Entry:
    try:
        head = read_head(file.fs, file.path)
    except StorageError:
        raise
    except OSError as error:
        message = f"The file cannot be read: {reason_of(error)}."
        return Unreadable(file.uri, file.relative, DEFAULT_GROUP, type(error).__name__, message)
    return judged_by_head(file.uri, file.relative, head) or image_of(file)
