"""One image of an archive: as a source lists it, and as the catalog holds it with its id."""

import hashlib
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import PurePosixPath
from typing import NamedTuple

IMAGE_SUFFIXES = frozenset(
    (".bmp", ".gif", ".jfif", ".jp2", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
)
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
    """

    uri: str
    relative: str
    group: str
    version: str
    modified: datetime | None = None


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


def is_image_name(path: str) -> bool:
    """Return whether a file is an image by the suffix of its name."""
    return PurePosixPath(path).suffix.lower() in IMAGE_SUFFIXES
