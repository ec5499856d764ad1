"""Pictures for the report: thumbnails, heat maps of patch scores, and images as data URIs."""

import base64
import io

import numpy as np
from PIL import Image

from musc_ray.errors import MuscRayError

# Least-squares polynomial of degree 6 to matplotlib's "inferno" (van der Walt and Smith, CC0), by Matt Zucker,
# https://www.shadertoy.com/view/WlfXRN (CC0); rows are the powers 0..6 of the value, columns red, green, blue.
_INFERNO = np.array(
    [
        [0.0002189404, 0.0016510046, -0.0194808984],
        [0.1065134195, 0.5639564368, 3.9327123889],
        [11.6024930825, -3.9728539657, -15.9423941063],
        [-41.7039961314, 17.4363988821, 44.3541451987],
        [77.1629356994, -33.4023589421, -81.8073092574],
        [-71.3194282450, 32.6260642640, 73.2095198580],
        [25.1311262248, -12.2426689524, -23.0703250029],
    ]
)
# Chosen by eye on real tiles: 1 tints the normal regions, 2 hides the weaker defects.
ALPHA_EXPONENT = 1.5


def colormap(values: np.ndarray) -> np.ndarray:
    """Inferno colours, uint8 (..., 3), of `values` (...) in [0, 1]; values outside are clipped.

    Inferno is perceptually uniform and readable with colour-vision deficiencies. The polynomial (source above) is
    within 9/255 of the published table.
    """
    x = np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0)
    rgb = np.moveaxis(np.polynomial.polynomial.polyval(x, _INFERNO), 0, -1)
    result: np.ndarray = np.rint(np.clip(rgb, 0.0, 1.0) * 255.0).astype(np.uint8)
    return result


def upsample(patch_map: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Bilinear upsampling with aligned corners of an (h, w) map to `size` = (width, height): float64 (height, width).

    The corners of the map fall on the corner pixels, as in step 4 of the method (torch: align_corners=True).
    """
    width, height = size
    rows = _interpolation_matrix(patch_map.shape[0], height)
    columns = _interpolation_matrix(patch_map.shape[1], width)
    result: np.ndarray = rows @ patch_map.astype(np.float64) @ columns.T
    return result


def _interpolation_matrix(n_in: int, n_out: int) -> np.ndarray:
    """(n_out, n_in) weights of one-dimensional linear interpolation with aligned corners."""
    position = np.linspace(0.0, n_in - 1.0, n_out)
    left = np.minimum(position.astype(int), max(n_in - 2, 0))
    right = np.minimum(left + 1, n_in - 1)
    weights = np.zeros((n_out, n_in))
    weights[np.arange(n_out), left] += 1.0 - (position - left)
    weights[np.arange(n_out), right] += position - left
    return weights


def heatmap(patch_map: np.ndarray, size: tuple[int, int], low: float, high: float) -> Image.Image:
    """RGBA heat map of an (h, w) `patch_map`, upsampled to `size` = (width, height), to lay over the picture.

    `low` and `high` are the ends of the scale; values beyond are clipped, and a scale without extent (low = high) gives
    a fully transparent image. Alpha is v**ALPHA_EXPONENT for v in [0, 1] on the scale, so that normal regions stay
    readable. Raises MuscRayError for a map that is not two-dimensional, or values or a scale that are not finite.
    """
    if patch_map.ndim != 2 or patch_map.size == 0:
        raise MuscRayError(f"A patch map must be two-dimensional and not empty, but its shape is {patch_map.shape}.")
    if not (np.isfinite(patch_map).all() and np.isfinite([low, high]).all()) or high < low:
        raise MuscRayError(
            f"The patch map or its scale [{low}, {high}] is not usable: all values must be finite and low <= high; "
            "score the run again."
        )
    extent = high - low
    values = np.clip((upsample(patch_map, size) - low) / extent, 0.0, 1.0) if extent > 0 else np.zeros(size[::-1])
    alpha = np.rint(values**ALPHA_EXPONENT * 255.0).astype(np.uint8)
    return Image.fromarray(np.dstack([colormap(values), alpha]))


def thumbnail(picture: Image.Image, long_side: int) -> Image.Image:
    """`picture` in RGB with its longer side at most `long_side` pixels, its aspect ratio kept; never enlarged."""
    scale = min(1.0, long_side / max(picture.size))
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.convert("RGB").resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def data_uri(image: Image.Image, format: str, quality: int = 75) -> str:  # noqa: A002 - Pillow's own name for it
    """`image` encoded as `format` (JPEG, WEBP or PNG) and `quality` (0-100; means nothing to PNG) in a data: URI."""
    buffer = io.BytesIO()
    image.save(buffer, format, quality=quality)
    return f"data:{Image.MIME[format.upper()]};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
