"""The interface of a backbone: images in, raw tokens of the requested layers and class tokens out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from musc_ray.core.kernels.onednn import OneDnnLinear
from musc_ray.errors import SettingsError

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}

MAX_DEFAULT_SIDE = 518
"""Pixels of the default image size: the largest multiple of the patch size up to this."""


@dataclass(frozen=True)
class BackboneInfo:
    """The shape of a backbone at an image size; known without its weights.

    Attributes:
        name: in full, see `BackboneName.canonical`.
        image_size: (H, W) in pixels.
        patch_size: side of a patch in pixels.
        grid: (h, w) in patches.
        depth: blocks of the transformer.
        layers: 0-based blocks whose tokens are returned.
        channels: of a patch token; class_channels: of a class token.
    """

    name: str
    image_size: tuple[int, int]
    patch_size: int
    grid: tuple[int, int]
    depth: int
    layers: tuple[int, ...]
    channels: int
    class_channels: int


@dataclass(frozen=True)
class Tokens:
    """The tokens of B images, not normalised.

    Attributes:
        layers: one (B, h*w, C) float tensor per layer.
        class_tokens: (B, class_channels).
    """

    layers: list[Tensor]
    class_tokens: Tensor


class TokenModel(Protocol):
    """A model of one library, resized to the requested image size."""

    module: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def tokens(self, images: Tensor, layers: Sequence[int]) -> Tokens:
        """Embed normalised images (B, 3, H, W); returns patch tokens of `layers`, which ascend, and class tokens."""
        ...


class Backbone:
    """A vision transformer with its weights on a device.

    Attributes:
        info: its shape.
        weights_sha256: hash of the weights file; empty for random weights.
    """

    def __init__(self, model: TokenModel, info: BackboneInfo, weights_sha256: str, device: str, precision: str) -> None:
        self.info, self.weights_sha256 = info, weights_sha256
        self.device, self.precision = torch.device(device), precision
        self._model = model
        self._model.module.to(self.device).eval().requires_grad_(False)
        self._mean = torch.tensor(model.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(model.std, device=self.device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def forward(self, images: Tensor) -> Tokens:
        """Embed images.

        Args:
            images: (B, H, W, 3) uint8 RGB of the info's image size.

        Returns:
            Raw patch tokens, one (B, h*w, C) float32 tensor for each of info.layers in their order, and class tokens
            (B, class_channels) float32, all on the device.
        """
        pixels = images.to(self.device).permute(0, 3, 1, 2).float().div_(255)
        arithmetic = (
            torch.autocast(self.device.type, AUTOCAST[self.precision]) if self.precision in AUTOCAST else OneDnnLinear()
        )
        with arithmetic:
            ascending = sorted(set(self.info.layers))  # the libraries return each layer once, in this order
            tokens = self._model.tokens((pixels - self._mean) / self._std, ascending)
        by_layer = dict(zip(ascending, tokens.layers, strict=True))
        return Tokens([by_layer[layer].float() for layer in self.info.layers], tokens.class_tokens.float())


def default_layers(depth: int) -> tuple[int, ...]:
    """Return the last block of each quarter of a network, 0-based: 24 blocks -> 5, 11, 17, 23 (MuSc, section 4.1)."""
    return tuple(sorted({max(1, depth * quarter // 4) - 1 for quarter in (1, 2, 3, 4)}))


def check_layers(layers: Sequence[int] | None, depth: int, name: str) -> tuple[int, ...]:
    """Return the requested layers, or the default ones.

    Raises:
        SettingsError: a layer that the model does not have.
    """
    if layers is None:
        return default_layers(depth)
    for layer in layers:
        if not 0 <= layer < depth:
            raise SettingsError(
                f"Setting 'layers' holds {layer}, but {name} has layers 0 to {depth - 1}: "
                f"try {','.join(map(str, default_layers(depth)))}."
            )
    return tuple(layers)


def check_image_size(image_size: tuple[int, int] | None, patch_size: int, name: str) -> tuple[int, int]:
    """Return the requested (H, W), or the largest square of whole patches up to MAX_DEFAULT_SIDE.

    Raises:
        SettingsError: not a multiple of the patch size; names the nearest ones.
    """
    if image_size is None:
        return (MAX_DEFAULT_SIDE // patch_size * patch_size,) * 2
    for side in image_size:
        if side < patch_size or side % patch_size:
            below, above = side // patch_size * patch_size, (side // patch_size + 1) * patch_size
            near = f"{below} or {above}" if below else f"{above}"
            raise SettingsError(
                f"Setting 'image_size' holds {side}, which is not a multiple of the patch size {patch_size} of {name}: "
                f"try {near}."
            )
    return image_size
