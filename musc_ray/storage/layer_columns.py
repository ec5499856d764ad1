"""The columns of a layer's tokens in the features table.

`layer_05` holds tokens (h*w, C); of 8 bits, with `layer_05_scale`, a float32 a token: token = scale * int8. Compressed
tokens have `layer_05_norm`, two float32 an image: mean and standard deviation of its raw tokens, which LNAMD's
LayerNorm takes away.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from musc_ray.storage.checked_columns import FLOAT16, FLOAT32, INT8

TOKEN_DTYPES: dict[str, np.dtype[Any]] = {"float16": FLOAT16, "int8": INT8}


@dataclass(frozen=True)
class LayerTokens:
    """What is stored of one layer of A images.

    Attributes:
        tokens: (A, h*w, C) float16 or int8.
        scales: (A, h*w) float32, of int8 tokens.
        norms: (A, 2) float32, of compressed tokens: mean and standard deviation of each image's raw ones.
    """

    tokens: npt.NDArray[Any]
    scales: npt.NDArray[np.float32] | None = None
    norms: npt.NDArray[np.float32] | None = None


def layer_column(layer: int) -> str:
    """Column name of a layer's tokens: layer_05."""
    return f"layer_{layer:02d}"


def scale_column(layer: int) -> str:
    """Column name of the scales of a layer's tokens: layer_05_scale."""
    return f"{layer_column(layer)}_scale"


def norm_column(layer: int) -> str:
    """Column name of what LayerNorm took from a layer's tokens: layer_05_norm."""
    return f"{layer_column(layer)}_norm"


def layer_values(dtype: str, compressed: bool, layer: int, stored: LayerTokens) -> dict[str, npt.NDArray[Any]]:
    """Return a layer's columns: tokens, and what belongs to them.

    Args:
        dtype: float16 or int8.
        compressed: whether the tokens are projections.
        layer: its number.
        stored: what to store of it.

    Raises:
        ValueError: scales or norms are missing, or not wanted.
    """
    values = {layer_column(layer): np.ascontiguousarray(stored.tokens, TOKEN_DTYPES[dtype])}
    for needed, name, array in (
        (dtype == "int8", scale_column(layer), stored.scales),
        (compressed, norm_column(layer), stored.norms),
    ):
        if needed != (array is not None):
            raise ValueError(f"{name} does not go with features of {dtype}{', compressed' if compressed else ''}")
        if array is not None:
            values[name] = np.ascontiguousarray(array, FLOAT32)
    return values


def layer_bytes(dtype: str, compressed: bool, patches: int, channels: int) -> int:
    """Return the bytes of one layer of an image: its tokens, and what belongs to them."""
    scale = FLOAT32.itemsize if dtype == "int8" else 0
    norms = 2 * FLOAT32.itemsize if compressed else 0
    return patches * (channels * TOKEN_DTYPES[dtype].itemsize + scale) + norms


def layer_names(dtype: str, compressed: bool, layers: Iterable[int]) -> set[str]:
    """Return the names of the columns of some layers."""
    makes = [layer_column, *[scale_column] * (dtype == "int8"), *[norm_column] * compressed]
    return {make(layer) for make in makes for layer in layers}
