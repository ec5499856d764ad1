"""Read the original images that a report or a heat map shows."""

from PIL import Image

from musc_ray.errors import ImageError
from musc_ray.settings.limits import ImageLimits
from musc_ray.sources.deep import BY_FORMAT, Intensity, Range
from musc_ray.sources.reading import read_image
from musc_ray.storage.retry import PERMANENT


def read_original(
    uri: str, limits: ImageLimits, at_least: int | None = None, intensity: tuple[float, float] | None = None
) -> Image.Image:
    """Read and decode an image as it was taken.

    Args:
        uri: of the image.
        limits: of its file and its pixels.
        at_least: pixels of the longer side that are enough, see `decode_original`.
        intensity: what deep pixels of its group are scaled from, as the run did; None for that of their format.

    Raises:
        ImageError: this image cannot be read: missing, broken, too large.
        StorageError: the storage failed, which says nothing about the image.
    """
    from musc_ray.sources.decoding import decode_original  # here, for the workers alone: it loads all of Pillow

    try:
        used: Intensity = BY_FORMAT if intensity is None else Range.stated(*intensity)
        return decode_original(read_image(uri, limits.bytes), limits.pixels, at_least, used)
    except (MemoryError, *PERMANENT) as error:
        raise ImageError(str(error) or type(error).__name__) from error
