"""Weights of a small ViT, random but the same ones each time."""

from pathlib import Path

import timm
import torch
from safetensors.torch import save_file


def write_tiny_weights(folder: Path) -> Path:
    """Weights of `timm:vit_tiny_patch16_224` in a file of the folder."""
    torch.manual_seed(0)
    path = folder / "vit_tiny.safetensors"
    save_file(timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict(), path)
    return path
