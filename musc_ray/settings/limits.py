"""What one image may cost: stated in the settings, checked before memory is taken for it."""

from dataclasses import dataclass

MAX_PIXELS = 100_000_000
MAX_IMAGE_MB = 1024


@dataclass(frozen=True)
class ImageLimits:
    """Pixels of an image (setting `max_pixels`), and bytes of its file (setting `max_image_mb`)."""

    pixels: int = MAX_PIXELS
    bytes: int = MAX_IMAGE_MB * 2**20
