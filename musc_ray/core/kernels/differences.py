"""Differences of the patches of images at the same place, on a CPU."""

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from musc_ray.core.kernels.simd import OPTIONS

U = np.uintp


@intrinsic
def _floats_at(_context, address):
    """Return a pointer to float32 at an address: numba has no list of arrays that costs nothing to pass."""

    def generate(_context, builder, _signature, arguments):
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return types.CPointer(types.float32)(address), generate


@numba.njit(**OPTIONS)
def place_distances(x, y, channels, wanted, out):
    """Compute |x - y| of unit vectors at the same place for pairs of images, place by place, so that each is read once.

    Args:
        x, y: addresses of the images' vectors (L, C) float32, contiguous; any for images that are not wanted.
        channels: C.
        wanted: (a, b, L) bool, what to compute.
        out: (a, b, L) float32, left as it is elsewhere.
    """
    for m in range(U(wanted.shape[2])):
        for i in range(U(len(x))):
            own = _floats_at(x[i])
            for j in range(U(len(y))):
                if wanted[i, j, m]:
                    other, square = _floats_at(y[j]), np.float32(0)
                    for t in range(m * channels, (m + U(1)) * channels):
                        difference = own[t] - other[t]
                        square += difference * difference
                    out[i, j, m] = np.sqrt(square)
