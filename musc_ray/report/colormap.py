"""Colours of heat maps, and patch maps as bytes for the pages that draw them (static/heatmap.js)."""

import numpy as np
import numpy.typing as npt

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


def colormap(values: np.ndarray) -> npt.NDArray[np.uint8]:
    """Map `values` (...) in [0, 1] to inferno colours, uint8 (..., 3); values outside are clipped.

    Inferno is perceptually uniform and readable with colour-vision deficiencies. The polynomial (source above) is
    within 9/255 of the published table.
    """
    x = np.clip(np.asarray(values, dtype=np.float64), 0.0, 1.0)
    rgb = np.moveaxis(np.polynomial.polynomial.polyval(x, _INFERNO), 0, -1)
    result: npt.NDArray[np.uint8] = np.rint(np.clip(rgb, 0.0, 1.0) * 255.0).astype(np.uint8)
    return result


def quantise(patch_maps: np.ndarray, high: float) -> npt.NDArray[np.uint8]:
    """Quantise patch scores (...), which are distances, to bytes: 0 at 0, 255 from `high` on; all 0 where `high` is 0.

    Raises:
        MuscRayError: values that are not finite, or a negative `high`.
    """
    if not (np.isfinite(patch_maps).all() and np.isfinite(high)) or high < 0:
        raise MuscRayError(
            f"Patch maps up to {high} are not usable: all values must be finite and not negative; score the run again."
        )
    if high == 0:
        return np.zeros(patch_maps.shape, np.uint8)
    scaled = patch_maps.astype(np.float64) / high
    result: npt.NDArray[np.uint8] = np.rint(np.clip(scaled, 0.0, 1.0) * 255.0).astype(np.uint8)
    return result
