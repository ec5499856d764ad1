"""The interfaces of sources: `Source`, a kind of SOURCE that lists images, and `Container`, a file that holds many."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import fsspec

from musc_ray.settings.columns import USUAL, ColumnNames
from musc_ray.sources.images import Entry
from musc_ray.storage.file_info import file_time, file_version


class Source(ABC):
    """A SOURCE of one kind.

    Attributes:
        text: the SOURCE as the user gave it.
        columns: names of the columns of its tables.
    """

    def __init__(self, text: str, columns: ColumnNames = USUAL) -> None:
        self.text = text
        self.columns = columns

    @classmethod
    @abstractmethod
    def recognises(cls, text: str) -> bool:
        """Return whether a SOURCE is of this kind, from its text alone; all earlier kinds of the registry declined."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """List everything: images, what is skipped, and what cannot be read.

        Raises:
            FileNotFoundError: there is nothing at this SOURCE.
            MuscRayError: it cannot be listed, or not to its end.
        """

    @abstractmethod
    def may_hold_images(self) -> bool:
        """Return False where a quick look shows that there is nothing to list; nothing is listed for it.

        Raises:
            FileNotFoundError: there is nothing at this SOURCE.
            MuscRayError: it cannot be looked at.
        """

    def walked(self) -> str | None:
        """Return the path, prefix or glob whose files are listed; None if only rows of a table are.

        Whatever a run writes below it would be listed, too.
        """
        return None

    def snapshot(self) -> int | None:
        """Return the snapshot that this source stands for now; None if its kind has no snapshots, or it is empty."""
        return None

    def between(self, snapshot: int, after: int | None) -> "Source":
        """Return this source as of a snapshot, without the images that an earlier one had already.

        Args:
            snapshot: what `snapshot` returned.
            after: the earlier one; None keeps all images.
        """
        raise NotImplementedError(f"{type(self).__name__} has no snapshots.")


class ListedFile(NamedTuple):
    """A file that a source lists: an image or a container.

    Attributes:
        fs, path: where it is.
        relative: its path below the source.
        version, modified, same_as: as in `ListedImage`.
    """

    fs: fsspec.AbstractFileSystem
    path: str
    relative: str
    version: str
    modified: datetime | None
    same_as: str | None = None

    @classmethod
    def of(cls, fs: fsspec.AbstractFileSystem, path: str, base: str, info: Mapping[str, Any]) -> "ListedFile":
        """Describe a file below the folder `base`; `info` is what its filesystem says of it."""
        relative = path[len(base) :].lstrip("/") if path.startswith(base) else path
        return cls(fs, path, relative, file_version(info), file_time(info))

    @property
    def uri(self) -> str:
        """The file's URI."""
        return str(self.fs.unstrip_protocol(self.path))


class Container(ABC):
    """A kind of file that holds many images, each with the URI `<container>#<name>`."""

    @abstractmethod
    def recognises(self, path: str) -> bool:
        """Return whether a file is of this kind, from its path alone."""

    @abstractmethod
    def entries(self, file: ListedFile, columns: ColumnNames) -> Iterator[Entry]:
        """List everything in a file.

        Args:
            file: of this kind.
            columns: names of its columns, if it is a table.

        Raises:
            MuscRayError: the file is broken, or ends early.
        """

    @abstractmethod
    def splits(self, uri: str) -> list[tuple[str, str]]:
        """Return the container's URI and the image's name in it, in each way that the URI can be read; often none."""

    @abstractmethod
    def read(self, container: str, name: str, max_bytes: int) -> bytes:
        """Read an encoded image.

        Args:
            container, name: what `splits` returned.
            max_bytes: larger images are refused before they are read.

        Raises:
            ImageError: it is too large, or its container is broken.
            FileNotFoundError: there is no such container, or no such image in it.
        """
