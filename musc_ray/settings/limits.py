"""What one image may cost, and how many may fail: stated in the settings."""

from dataclasses import dataclass

MAX_PIXELS = 100_000_000
MAX_IMAGE_MB = 1024

MAX_ERROR_FRACTION = 0.05
"""Default of `max_error_fraction`; at it, small archives may have a few errors more, see `features/errors_table.py`."""


@dataclass(frozen=True)
class ImageLimits:
    """Pixels of an image (setting `max_pixels`), and bytes of its file (setting `max_image_mb`)."""

    pixels: int = MAX_PIXELS
    bytes: int = MAX_IMAGE_MB * 2**20
