"""What a source lists: images, what is not an image, and what cannot be read; and an image as the catalog holds it."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

DEFAULT_GROUP = "all"
"""The group of images whose source names none."""


class ListedImage(NamedTuple):
    """An image that a source lists.

    Attributes:
        uri: where its bytes are read from: a file, or `<container>#<image>`.
        relative: its path below the source; groups are named from it.
        group: the group that its source gives it.
        version: changes when the file does; empty where the source does not say.
        modified: when the file was last changed, in UTC; None where the source does not say.
        same_as: URI of another name of the same object (hard link, symbolic link), listed before; None for most.
    """

    uri: str
    relative: str
    group: str
    version: str
    modified: datetime | None = None
    same_as: str | None = None


class Skipped(NamedTuple):
    """Something below a source that is plainly not an image of the archive; a row of the table `skipped`.

    Attributes:
        uri: where it is.
        reason: one of SKIP_REASONS.
        message: one sentence for people.
    """

    uri: str
    reason: str
    message: str


class Unreadable(NamedTuple):
    """Something below a source that could be an image but cannot be listed as one; a row of the table `errors`.

    Attributes:
        uri: where it is; of a table's row that names no URI `<table>#row=<n>`, n as for images in tables, from 0.
        relative: its path below the source; groups are named from it.
        group: the group that its source gives it.
        error: kind of the error, such as `FileNotFoundError`.
        message: one sentence for people.
    """

    uri: str
    relative: str
    group: str
    error: str
    message: str


Entry = ListedImage | Skipped | Unreadable
"""Everything that a source lists is one of these: nothing disappears."""

SKIP_REASONS = {
    "hidden": "a hidden file, or one in a hidden folder",
    "system": "a file of an operating system, NAS or tool (thumbnails, resource forks, markers)",
    "text": "a text file",
    "other": "a file of another kind (table, model, video, ...)",
    "empty": "an empty file without the name of an image",
    "mask": "a mask of a dataset's layout",
    "second_name": "another name of an image that is listed already",
    "special": "not a file (device, socket, pipe)",
}
"""Reasons in the table `skipped`, and what they mean."""


@dataclass(frozen=True, order=True, slots=True)
class CatalogImage:
    """An image of the catalog; ordered by its id, which makes shards random samples.

    Attributes:
        image_id: see `image_id`.
        uri, version, modified: as in `ListedImage`.
        group: the images that it is scored among.
    """

    image_id: str
    uri: str
    group: str
    version: str
    modified: datetime | None = field(default=None, compare=False)


def image_id(uri: str) -> str:
    """Return the stable id of an image: 32 hexadecimal digits of its URI's SHA-256."""
    return hashlib.sha256(uri.encode("utf-8", "surrogateescape")).hexdigest()[:32]
