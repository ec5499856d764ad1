"""The interface of a backbone: images in, raw tokens of the requested layers and class tokens out."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from musc_ray.backbones.layers import CpuLayers, cast_weights
from musc_ray.backbones.shape import BackboneInfo, Network

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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
        """Resample the position embedding of the weights to another image size, whatever the size is now."""
        ...

    def tokens(self, images: Tensor, layers: Sequence[int]) -> Tokens:
        """Embed normalised images (B, 3, H, W); returns patch tokens of `layers`, which ascend, and class tokens."""
        ...


class Backbone:
    """A vision transformer with its weights on a device.

    Attributes:
        info: its shape, which `resize` changes.
        weights_sha256: hash of the weights file; empty for random weights.
        device: where it runs.
        dtype: that the products of linear layers and of attention have.
    """

    def __init__(self, model: TokenModel, info: BackboneInfo, weights_sha256: str, device: str, precision: str) -> None:
        self.info, self.weights_sha256 = info, weights_sha256
        self.device, self.dtype = torch.device(device), DTYPES[precision]
        self._model = model
        self._model.module.to(self.device).eval().requires_grad_(False)
        cast_weights(self._model.module, self.dtype)
        self._mean = torch.tensor(model.mean, device=self.device).view(1, 3, 1, 1)
        self._std = torch.tensor(model.std, device=self.device).view(1, 3, 1, 1)

    def resize(self, image_size: tuple[int, int]) -> None:
        """Take images of another size from now on: the same model as one that is loaded at this size.

        Args:
            image_size: (H, W) in pixels.

        Raises:
            SettingsError: not a multiple of the patch size.
        """
        if image_size != self.info.image_size:
            self.info = self.info.resized(image_size)
            self._model.resize(image_size)

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
        with self._arithmetic():
            ascending = sorted(set(self.info.layers))  # the libraries return each layer once, in this order
            tokens = self._model.tokens((pixels - self._mean) / self._std, ascending)
        by_layer = dict(zip(ascending, tokens.layers, strict=True))
        return Tokens([by_layer[layer].float() for layer in self.info.layers], tokens.class_tokens.float())

    def _arithmetic(self) -> AbstractContextManager[object]:
        """Return the context that the model runs in: on a GPU PyTorch's autocast, as in MuSc's own code."""
        if self.device.type == "cpu":
            return CpuLayers(self.dtype)
        return nullcontext() if self.dtype == torch.float32 else torch.autocast(self.device.type, self.dtype)
