"""What is known of the aliases' models without their library: shapes, and where the hub has their weights.

`tests/unit/backbones/test_known.py` compares each line with the libraries.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class HubFile:
    """A weights file on the Hugging Face hub.

    Attributes:
        repository: owner and name.
        files: names that the file may have there, in the order in which they are tried.
    """

    repository: str
    files: tuple[str, ...]


@dataclass(frozen=True)
class KnownModel:
    """The shape of a model (see `shape.Network`), and its weights on the hub."""

    patch_size: int
    depth: int
    channels: int
    class_channels: int
    hub_file: HubFile


TIMM_FILES = ("model.safetensors",)
OPEN_CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def _timm(repository: str, patch_size: int, depth: int, channels: int) -> KnownModel:
    return KnownModel(patch_size, depth, channels, channels, HubFile(repository, TIMM_FILES))


def _clip(repository: str, patch_size: int, depth: int, channels: int, class_channels: int) -> KnownModel:
    return KnownModel(patch_size, depth, channels, class_channels, HubFile(repository, OPEN_CLIP_FILES))


KNOWN: Mapping[str, KnownModel] = {
    "open_clip:ViT-B-16/openai": _clip("timm/vit_base_patch16_clip_224.openai", 16, 12, 768, 512),
    "open_clip:ViT-B-32/openai": _clip("timm/vit_base_patch32_clip_224.openai", 32, 12, 768, 512),
    "open_clip:ViT-L-14/openai": _clip("timm/vit_large_patch14_clip_224.openai", 14, 24, 1024, 768),
    "open_clip:ViT-L-14-336/openai": _clip("timm/vit_large_patch14_clip_336.openai", 14, 24, 1024, 768),
    "timm:vit_base_patch16_224.dino": _timm("timm/vit_base_patch16_224.dino", 16, 12, 768),
    "timm:vit_base_patch8_224.dino": _timm("timm/vit_base_patch8_224.dino", 8, 12, 768),
    "timm:vit_small_patch16_224.dino": _timm("timm/vit_small_patch16_224.dino", 16, 12, 384),
    "timm:vit_small_patch8_224.dino": _timm("timm/vit_small_patch8_224.dino", 8, 12, 384),
    "timm:vit_base_patch14_dinov2.lvd142m": _timm("timm/vit_base_patch14_dinov2.lvd142m", 14, 12, 768),
    "timm:vit_base_patch14_reg4_dinov2.lvd142m": _timm("timm/vit_base_patch14_reg4_dinov2.lvd142m", 14, 12, 768),
    "timm:vit_giant_patch14_dinov2.lvd142m": _timm("timm/vit_giant_patch14_dinov2.lvd142m", 14, 40, 1536),
    "timm:vit_large_patch14_dinov2.lvd142m": _timm("timm/vit_large_patch14_dinov2.lvd142m", 14, 24, 1024),
    "timm:vit_large_patch14_reg4_dinov2.lvd142m": _timm("timm/vit_large_patch14_reg4_dinov2.lvd142m", 14, 24, 1024),
    "timm:vit_small_patch14_dinov2.lvd142m": _timm("timm/vit_small_patch14_dinov2.lvd142m", 14, 12, 384),
    "timm:vit_small_patch14_reg4_dinov2.lvd142m": _timm("timm/vit_small_patch14_reg4_dinov2.lvd142m", 14, 12, 384),
    "timm:vit_base_patch16_dinov3.lvd1689m": _timm("timm/vit_base_patch16_dinov3.lvd1689m", 16, 12, 768),
    "timm:vit_large_patch16_dinov3.lvd1689m": _timm("timm/vit_large_patch16_dinov3.lvd1689m", 16, 24, 1024),
    "timm:vit_small_patch16_dinov3.lvd1689m": _timm("timm/vit_small_patch16_dinov3.lvd1689m", 16, 12, 384),
}
"""The model of each alias by its full name."""
