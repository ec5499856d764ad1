"""Choose the part of a large image that the report shows at its own pixels: around where it is most anomalous."""

from typing import Any

from musc_ray.core.crops import Box, CropLayout
from musc_ray.report.pictures import PICTURE_SIDE

ZOOM_SIDE = 448
"""Pixels of the part around the peak, in both directions."""

MAX_CROP_SIDE = 1024
"""A crop that is larger is not shown as a whole, so that the picture stays small."""


def zoom_box(image: dict[str, Any], crops: CropLayout | None = None) -> Box | None:
    """Return the part to show of an image, which lies inside it; None if its picture shows all pixels already.

    It is the crop that holds the peak, of several that whose middle is nearest; without crops, or if they are large,
    ZOOM_SIDE pixels around the peak.

    Args:
        image: height, width, peak_y, peak_x; None where unknown.
        crops: where it is cut, if it is.
    """
    height, width, y, x = (image[name] for name in ("height", "width", "peak_y", "peak_x"))
    if y is None or max(height, width) <= PICTURE_SIDE:
        return None
    if crops is not None:
        twice = 2 * y + 1, 2 * x + 1  # the middle of the pixel, in halves of pixels
        box = min(
            crops.boxes(height, width),
            key=lambda box: (twice[0] - box[0] - box[2]) ** 2 + (twice[1] - box[1] - box[3]) ** 2,
        )
        if max(box[2] - box[0], box[3] - box[1]) <= MAX_CROP_SIDE:
            return box
    (top, bottom), (left, right) = _around(y, height), _around(x, width)
    return top, left, bottom, right


def _around(at: int, pixels: int) -> tuple[int, int]:
    """Return the range of ZOOM_SIDE pixels around a pixel, moved to lie inside the image."""
    side = min(ZOOM_SIDE, pixels)
    start = min(max(at - side // 2, 0), pixels - side)
    return start, start + side
