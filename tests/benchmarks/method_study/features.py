"""Tokens and distances of an image set, computed once and kept as files of a cache."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file

from method_study.choices import BACKBONE, DEPTH
from method_study.image_sets import ImageSet
from musc_ray.backbones import Backbone, load_backbone
from musc_ray.backbones.names import resolve_backbone
from musc_ray.backbones.shape import shaped_grid
from musc_ray.backbones.weights import fetch_weights
from musc_ray.core.operands.prepare import prepare
from musc_ray.core.tile_product import multiply_tile
from musc_ray.demo.dinov2_onnx import write_dinov2_weights
from musc_ray.sources.decoding import decode_original

PATCH, BATCH = 14, 8
DEGREES = (1, 3, 5)
PRECISION = torch.bfloat16
Pixels = npt.NDArray[np.uint8]
FILTERS = {
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
"""Pillow's, which average over the area of a pixel; `not antialiased` is PyTorch's bicubic without that."""

TURNS: dict[str, Callable[[Pixels], Pixels]] = {
    "": lambda pixels: pixels,
    "mirrored": lambda pixels: pixels[:, :, ::-1],
    "upside-down": lambda pixels: pixels[:, ::-1],
    "half-turn": lambda pixels: pixels[:, ::-1, ::-1],
    "quarter-turn": lambda pixels: np.rot90(pixels, 1, axes=(1, 2)),
    "three-quarter-turn": lambda pixels: np.rot90(pixels, 3, axes=(1, 2)),
}
"""Of batches (B, H, W, 3); quarter turns need square ones."""


@dataclass(frozen=True)
class Variant:
    """How images go into the model.

    Attributes:
        shape: `square`, or `kept`.
        side: of the square in pixels.
        positions: how the position embedding is resampled: `timm` (antialiased) or `authors`.
        resize: of FILTERS, or `not antialiased`.
        turn: of TURNS.
    """

    shape: str = "kept"
    side: int = 224
    positions: str = "timm"
    resize: str = "bicubic"
    turn: str = ""

    def grid(self, images: ImageSet) -> tuple[int, int]:
        """Return the patches (h, w) of the model's input."""
        side = self.side // PATCH
        return (side, side) if self.shape == "square" else shaped_grid(images.ratio, side)

    def folder(self, images: ImageSet) -> str:
        """Return the name of the features in the cache; equal for a square and a kept shape that is square."""
        h, w = self.grid(images)
        parts = (images.name, f"{h}x{w}", self.positions, self.resize.replace(" ", "-"), self.turn)
        return "_".join(part for part in parts if part)


class Features:
    """The tokens of a set and the distances of its patches, all lazily.

    Attributes:
        images: the set.
        grid: (h, w) patches; image_size: (H, W) pixels.
    """

    def __init__(self, images: ImageSet, variant: Variant, cache: Path) -> None:
        self.images, self._variant, self._cache = images, variant, cache
        self.grid = variant.grid(images)
        self.image_size = (self.grid[0] * PATCH, self.grid[1] * PATCH)
        self._folder = cache / variant.folder(images)
        self._folder.mkdir(parents=True, exist_ok=True)

    def extract(self, layers: Sequence[int] = range(DEPTH)) -> None:
        """Write the tokens of the layers that are missing."""
        missing = [layer for layer in layers if not self._tokens_path(layer).exists()]
        if not missing:
            return
        backbone = _load(self._cache, self.image_size, tuple(missing), self._variant.positions)
        shape = (len(self.images.paths), self.grid[0] * self.grid[1], backbone.info.channels)
        tokens = [np.empty(shape, np.float16) for _ in missing]
        class_tokens = []
        for start in range(0, shape[0], BATCH):
            paths = self.images.paths[start : start + BATCH]
            batch = TURNS[self._variant.turn](np.stack([self._picture(path) for path in paths]))
            found = backbone.forward(torch.from_numpy(np.ascontiguousarray(batch)))
            class_tokens.append(found.class_tokens.numpy())
            for into, layer in zip(tokens, found.layers, strict=True):
                into[start : start + BATCH] = layer.numpy()
        np.save(self._folder / "class_tokens.npy", np.concatenate(class_tokens))
        for layer, values in zip(missing, tokens, strict=True):
            _save(self._tokens_path(layer), values)

    def tokens(self, layer: int) -> torch.Tensor:
        """Return the patch tokens (N, L, C) float16 of a layer, extracted before."""
        return torch.from_numpy(np.load(self._tokens_path(layer), mmap_mode="c"))

    @cached_property
    def class_tokens(self) -> npt.NDArray[np.float32]:
        """Read the class tokens (N, C)."""
        return np.load(self._folder / "class_tokens.npy")

    def distances(self, layer: int, degree: int) -> npt.NDArray[np.float16]:
        """Return distances (N, L, N) of patches to their nearest ones in every image, +inf to its own; read-only."""
        path = self._folder / f"distances-{layer:02}-{degree}.npy"
        if not path.exists():
            shard = prepare(self.tokens(layer), self.grid, DEGREES, PRECISION)
            for of_degree, values in zip(DEGREES, multiply_tile(shard, shard, torch.float16)[0].numpy(), strict=True):
                _save(self._folder / f"distances-{layer:02}-{of_degree}.npy", values)
        return np.load(path, mmap_mode="r")

    def kept(self, name: str, compute: Callable[[], npt.NDArray[np.float32]]) -> npt.NDArray[np.float32]:
        """Return a result that is a file of the cache, computed the first time."""
        path = self._folder / f"{name}.npy"
        if not path.exists():
            _save(path, compute())
        return np.load(path)

    def _tokens_path(self, layer: int) -> Path:
        return self._folder / f"tokens-{layer:02}.npy"

    def _picture(self, path: Path) -> Pixels:
        picture = decode_original(path.read_bytes())
        height, width = self.image_size
        if self._variant.resize in FILTERS:
            return np.asarray(picture.resize((width, height), FILTERS[self._variant.resize]))
        planes = torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1)[None].float()
        resized = F.interpolate(planes, size=(height, width), mode="bicubic", antialias=False)
        return resized.clamp(0, 255).round().byte()[0].permute(1, 2, 0).numpy()


def authors_positions(embedding: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """Resample a position embedding (1, 1 + n*n, C) to a grid as DINOv2's own code does.

    Bicubic, with scale factors that are 0.1 patches too large, without antialiasing (`interpolate_pos_encoding`).
    """
    own, patches = embedding[:, :1], embedding[:, 1:]
    side = math.isqrt(patches.shape[1])
    planes = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = ((grid[0] + 0.1) / side, (grid[1] + 0.1) / side)
    resampled = F.interpolate(planes, scale_factor=factors, mode="bicubic", antialias=False)
    if resampled.shape[-2:] != grid:
        raise ValueError(f"the grid became {tuple(resampled.shape[-2:])} in place of {grid}.")
    return torch.cat([own, resampled.permute(0, 2, 3, 1).flatten(1, 2)], dim=1)


def difference_of_positions(cache: Path, grid: tuple[int, int]) -> float:
    """Compute the norm of the difference of timm's and the authors' resampling, relative to the authors'."""
    size = (grid[0] * PATCH, grid[1] * PATCH)
    timms, authors = (
        _load(cache, size, (0,), positions)._model.module.pos_embed.detach()[:, 1:] for positions in ("timm", "authors")
    )
    return float((timms - authors).norm() / authors.norm())


def _load(cache: Path, image_size: tuple[int, int], layers: tuple[int, ...], positions: str) -> Backbone:
    path = cache / "weights.safetensors"
    if not path.exists():
        write_dinov2_weights(path)
    weights = fetch_weights(resolve_backbone(BACKBONE), str(path))
    backbone = load_backbone(
        BACKBONE, image_size=image_size, layers=layers, weights=weights, precision=str(PRECISION).removeprefix("torch.")
    )
    if positions == "authors":
        parameter = backbone._model.module.pos_embed
        stored = load_file(path)["pos_embed"]
        parameter.data = authors_positions(stored, backbone.info.grid).to(parameter.dtype)
    return backbone


def _save(path: Path, values: npt.NDArray[np.generic]) -> None:
    """Write a file that is complete or missing: the study may be stopped at any time."""
    part = path.with_suffix(".part")
    with part.open("wb") as file:
        np.save(file, values)
    part.rename(path)
