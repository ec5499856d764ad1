"""Reads and decodes the images of a shard ahead of the model, in batches."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from musc_ray.core.crops import InputShape
from musc_ray.errors import ImageError
from musc_ray.settings.credentials import redacted
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.decoding import decode_for_model
from musc_ray.sources.deep import Range
from musc_ray.sources.images import CatalogImage
from musc_ray.sources.model_input import ModelInput
from musc_ray.sources.reading import read_image
from musc_ray.storage.retry import PERMANENT
from musc_ray.storage.shards import ShardImage

BATCHES_AHEAD = 2
"""Batches decoded ahead of the model: enough to keep it busy, few enough to bound memory. Large images are limited by
their bytes, too, see `sources/decoding_memory.py`."""

MIN_READERS = 2


class DecodedImage(NamedTuple):
    """An image between decoding and the model.

    Attributes:
        image: what its shard will say of it; with an error if it could not be read.
        pictures: of the whole image, and of its crops; None if it could not be read.
    """

    image: ShardImage
    pictures: ModelInput | None


Read = Callable[[CatalogImage], DecodedImage]


class ReadAhead:
    """Threads that read and decode images ahead of the model."""

    def __init__(self, batch_size: int, limits: ImageLimits, threads: int) -> None:
        """Start no more than `threads` readers, but at least two.

        Args:
            batch_size: inputs of the model in a batch: images, or whole images and crops, but at least one image.
            limits: larger images fail.
            threads: CPU threads of the worker.
        """
        self.batch_size, self.limits = batch_size, limits
        self.readers = max(MIN_READERS, threads)
        self._readers = ThreadPoolExecutor(self.readers)

    def batches(
        self, images: Sequence[CatalogImage], shape: InputShape, intensity: Range | None = None
    ) -> Iterator[list[DecodedImage]]:
        """Decode images in batches, in their order; the first ones begin at once, before a batch is asked for.

        An image that cannot be read is a `DecodedImage` with an error; a fault of the storage is raised.

        Args:
            images: what to decode.
            shape: what of them enters the model.
            intensity: range of deep pixels; without one, images that have any are errors.

        Raises:
            StorageError: the storage did not answer.
        """
        read = partial(self._read, shape=shape, intensity=intensity)
        size = max(1, self.batch_size // shape.places)
        ahead = size * (BATCHES_AHEAD + 1)
        if shape.crops is not None:  # a batch is one image, or few: all readers are needed
            ahead = max(ahead, self.readers + 1)
        pending = deque(self._readers.submit(read, image) for image in images[:ahead])
        return self._batches(images, pending, size, read)

    def _batches(
        self, images: Sequence[CatalogImage], pending: deque[Future[DecodedImage]], size: int, read: Read
    ) -> Iterator[list[DecodedImage]]:
        """Yield batches as they are decoded; each makes room for another."""
        ahead = len(pending)
        for start in range(0, len(images), size):
            batch = [_result(pending.popleft(), image, read) for image in images[start : start + size]]
            further = images[start + ahead : start + ahead + size]
            pending.extend(self._readers.submit(read, image) for image in further)
            yield batch

    def _read(self, image: CatalogImage, shape: InputShape, intensity: Range | None) -> DecodedImage:
        """Read and decode one image; what is wrong with it is data, but a storage fault is an exception."""
        try:
            data = read_image(image.uri, self.limits.bytes)
            decoded = decode_for_model(data, shape, self.limits.pixels, intensity)
        except (ImageError, *PERMANENT) as error:
            return DecodedImage(_failed(image, type(error).__name__, redacted(_sentence(image.uri, error))), None)
        height, width = decoded.size
        extracted = ShardImage(
            image.image_id, image.uri, image.version, height=height, width=width, remarks=decoded.remarks
        )
        return DecodedImage(extracted, decoded.pictures)


def _result(reading: Future[DecodedImage], image: CatalogImage, read: Read) -> DecodedImage:
    """Return what was read; read again, now that the model is idle, if memory was too short beside it."""
    try:
        return reading.result()
    except MemoryError:
        pass
    try:
        return read(image)
    except MemoryError:
        message = "The image needs more memory than its worker has: lower max_pixels, or raise max_worker_gb."
        return DecodedImage(_failed(image, "MemoryError", message), None)


def _sentence(uri: str, error: Exception) -> str:
    """Say why an image cannot be read."""
    if "\\udc" in uri and isinstance(error, FileNotFoundError):
        return "The name of the file is not UTF-8: rename it."
    if isinstance(error, OSError) and error.errno is not None:
        return f"The file cannot be read: {error.strerror}."
    return str(error)


def _failed(image: CatalogImage, error: str, message: str) -> ShardImage:
    return ShardImage(image.image_id, image.uri, image.version, error, message)
