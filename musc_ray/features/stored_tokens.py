"""From a backbone's tokens to what is stored of a group's images: raw or projected, as float16 or int8."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from musc_ray.backbones import Tokens
from musc_ray.core.compression import project, round_tokens
from musc_ray.storage.bases import Compression, compressed_meta, read_directions
from musc_ray.storage.layer_columns import LayerTokens
from musc_ray.storage.paths import OutPaths
from musc_ray.storage.shards import FeaturesMeta


class Features(NamedTuple):
    """What is stored of A images.

    Attributes:
        class_tokens: (A, class_channels) float32.
        layers: of each layer.
        outside: (A, layers) float32, share of the energy outside the basis; (A, 0) of tokens that are not compressed.
    """

    class_tokens: npt.NDArray[np.float32]
    layers: list[LayerTokens]
    outside: npt.NDArray[np.float32]

    @property
    def finite(self) -> npt.NDArray[np.bool_]:
        """Tell which images have finite numbers alone, (A,)."""
        arrays = [self.class_tokens, *(array for layer in self.layers for array in _arrays(layer))]
        floats = [array for array in arrays if array.dtype != np.int8]
        checked = [np.isfinite(array).all(axis=tuple(range(1, array.ndim))) for array in floats]
        found: npt.NDArray[np.bool_] = np.logical_and.reduce(checked)
        return found

    def select(self, images: npt.NDArray[np.bool_]) -> "Features":
        """Return the features of some images, (A,) bool."""
        layers = [
            LayerTokens(
                layer.tokens[images],
                None if layer.scales is None else layer.scales[images],
                None if layer.norms is None else layer.norms[images],
            )
            for layer in self.layers
        ]
        return Features(self.class_tokens[images], layers, self.outside[images])


def concatenate(parts: Sequence[Features]) -> Features:
    """Concatenate the features of several batches of a group."""
    layers = [_concatenated(of_layer) for of_layer in zip(*(part.layers for part in parts), strict=True)]
    return Features(
        np.concatenate([part.class_tokens for part in parts]),
        layers,
        np.concatenate([part.outside for part in parts]),
    )


class TokenStore:
    """Turns tokens into features; keeps the directions of the group that it met last.

    Args:
        out_paths: of the OUT.
        meta: what all shards have in common.
        compressed_dtype: number format of compressed features.
        device: where the tokens are.
    """

    def __init__(self, out_paths: OutPaths, meta: FeaturesMeta, compressed_dtype: str, device: torch.device) -> None:
        self.out_paths, self.meta, self.compressed_dtype, self.device = out_paths, meta, compressed_dtype, device
        self._directions: tuple[str, list[Tensor]] = ("", [])

    def meta_of(self, compression: Compression | None) -> FeaturesMeta:
        """Return what the shards of a group have in common."""
        return compressed_meta(self.meta, compression, self.compressed_dtype)

    def features(self, tokens: Tokens, group: str, compression: Compression | None) -> Features:
        """Compute what is stored of some images of a group.

        Raises:
            MuscRayError: the basis of the group is broken.
        """
        class_tokens = tokens.class_tokens.cpu().numpy()
        if compression is None or compression.sha256 is None:
            layers = [_stored(layer, self.meta.dtype) for layer in tokens.layers]
            return Features(class_tokens, layers, np.empty((len(class_tokens), 0), np.float32))
        found = [
            project(layer, vectors)
            for layer, vectors in zip(tokens.layers, self._directions_of(group, compression.sha256), strict=True)
        ]
        layers = [_stored(layer.tokens, self.compressed_dtype, layer.norms) for layer in found]
        return Features(class_tokens, layers, torch.stack([layer.outside for layer in found], dim=1).cpu().numpy())

    def _directions_of(self, group: str, sha256: str) -> list[Tensor]:
        if self._directions[0] != sha256:
            found = read_directions(self.out_paths, self.meta.features_id, group, sha256, self.meta.layers)
            self._directions = sha256, [torch.from_numpy(found[layer]).to(self.device) for layer in self.meta.layers]
        return self._directions[1]


def _stored(tokens: Tensor, dtype: str, norms: Tensor | None = None) -> LayerTokens:
    """Round tokens (A, L, C) to a number format; NaN and infinite ones show in the result."""
    kept = None if norms is None else norms.cpu().numpy()
    if dtype == "float16":
        return LayerTokens(tokens.half().cpu().numpy(), None, kept)
    rounded, scales = round_tokens(tokens)
    return LayerTokens(rounded.cpu().numpy(), scales.cpu().numpy(), kept)


def _arrays(layer: LayerTokens) -> list[npt.NDArray[np.generic]]:
    return [array for array in (layer.tokens, layer.scales, layer.norms) if array is not None]


def _concatenated(parts: Sequence[LayerTokens]) -> LayerTokens:
    scales = [part.scales for part in parts if part.scales is not None]
    norms = [part.norms for part in parts if part.norms is not None]
    return LayerTokens(
        np.concatenate([part.tokens for part in parts]),
        np.concatenate(scales) if scales else None,
        np.concatenate(norms) if norms else None,
    )
