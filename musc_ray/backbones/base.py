"""The interface of a backbone: images in, raw tokens of the requested layers and class tokens out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from musc_ray.backbones.shape import BackboneInfo, Network
from musc_ray.core.kernels.onednn import OneDnnLinear

AUTOCAST = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Tokens:
    """The tokens of B images, not normalised.

    Attributes:
        layers: one (B, h*w, C) float tensor per layer.
        class_tokens: (B, class_channels).
    """

    layers: list[Tensor]
    class_tokens: Tensor


class TokenModel(Network, Protocol):
    """A model of one library, at the image size its weights were trained for until `resize`."""

    module: Any
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors under this model's names."""
        ...

    def resize(self, image_size: tuple[int, int]) -> None:
        """Resample the position embedding to another image size."""
        ...

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
