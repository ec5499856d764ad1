"""All kinds of containers, and which of them holds an image."""

from pathlib import PurePosixPath
from typing import NamedTuple

from musc_ray.sources.base import Container
from musc_ray.sources.parquet_images import ParquetImages
from musc_ray.sources.tar import TarShard

CONTAINERS: tuple[Container, ...] = (ParquetImages(), TarShard())
"""In the order in which they are asked for a URI."""


class ImageInContainer(NamedTuple):
    """A URI taken apart: the kind of container, the container's URI, the image's name in it."""

    kind: Container
    container: str
    name: str

    def read(self, max_bytes: int) -> bytes:
        """Read the encoded image; see `Container.read`."""
        return self.kind.read(self.container, self.name, max_bytes)


def container_kind(path: str) -> Container | None:
    """Return the kind of container that a file is; None for any other file."""
    return next((kind for kind in CONTAINERS if kind.recognises(path)), None)


def split_uri(uri: str) -> list[ImageInContainer]:
    """Take a URI apart in each way that it may name an image in a container; none for most plain files."""
    return [ImageInContainer(kind, *found) for kind in CONTAINERS for found in kind.splits(uri)]


def image_name(uri: str) -> str:
    """Return what people know an image by: its file's name without suffix; of a table's row the table and the row."""
    name = PurePosixPath(uri.rpartition("/")[2])
    return name.name if "#" in name.suffix else name.stem
