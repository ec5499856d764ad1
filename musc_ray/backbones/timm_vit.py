"""timm vision transformers: DINO, DINOv2, DINOv3 and plain ViTs. Intermediate layers go through the final norm."""

import sys
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.layers.patch_embed import PatchEmbed
from torch import Tensor, nn

from musc_ray.backbones.base import Tokens
from musc_ray.backbones.names import BackboneName, check_tag, unknown_model
from musc_ray.errors import SettingsError

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TimmVit:
    """A timm ViT without its classifier, at the image size its weights were trained for until `resize`."""

    def __init__(self, name: BackboneName, meta: bool = False) -> None:
        if not timm.is_model(name.model):
            raise unknown_model(name, timm.list_models("*vit*"))
        if name.tag is not None:
            check_tag(name, [full.partition(".")[2] for full in timm.list_pretrained(f"{name.model}.*")])
        with torch.device("meta" if meta else "cpu"):
            model: Any = timm.create_model(name.model, pretrained=False, num_classes=0)
        if not is_vit(model):
            raise SettingsError(
                f"'{name.canonical}' is not a plain vision transformer ({type(model).__name__}): choose a ViT such as "
                f"timm:vit_small_patch14_dinov2.lvd142m."
            )
        self.module = model
        config = timm.models.get_pretrained_cfg(name.canonical.removeprefix("timm:"))
        self.mean: tuple[float, ...] = tuple(config.mean) if config else IMAGENET_MEAN
        self.std: tuple[float, ...] = tuple(config.std) if config else IMAGENET_STD
        self.patch_size = int(model.patch_embed.patch_size[0])
        self.depth = len(model.blocks)
        self.channels = self.class_channels = int(model.embed_dim)
        self._trained = TrainedSize(model)

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return a checkpoint's tensors under this model's names, without the classifier.

        timm would resample patches of another size, which gives another model: they stay as they are and do not fit.
        """
        patches = state.get("patch_embed.proj.weight")
        checkpoint_filter = getattr(sys.modules[type(self.module).__module__], "checkpoint_filter_fn", None)
        if checkpoint_filter is not None:
            state = checkpoint_filter(state, self.module)
        if patches is not None and patches.ndim == 4:
            state = state | {"patch_embed.proj.weight": patches}
        own = self.module.state_dict()
        return {key: value for key, value in state.items() if key in own or not key.startswith(("head", "fc_norm"))}

    def resize(self, image_size: tuple[int, int]) -> None:
        """Resample the position embedding of the weights to another image size."""
        self._trained.resize(image_size)

    def tokens(self, images: Tensor, layers: Sequence[int]) -> Tokens:
        """Return patch tokens of the layers after the final norm, and the class token (or the mean patch token)."""
        final, intermediates = self.module.forward_intermediates(
            images, indices=list(layers), norm=True, output_fmt="NLC"
        )
        prefix = self.module.num_prefix_tokens
        has_class_token = getattr(self.module, "cls_token", None) is not None
        return Tokens(list(intermediates), final[:, 0] if has_class_token else final[:, prefix:].mean(dim=1))


class TrainedSize:
    """Resizes a timm ViT from what its weights say, whatever its size is now: timm resamples what it resampled before.

    Attributes:
        model: the ViT, with its weights when `resize` is called first.
        image_size: (H, W) that the weights were trained for.
        parameters: that depend on the image size, as in the weights; empty before the first change.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.image_size: tuple[int, int] = tuple(model.patch_embed.img_size)
        self.parameters: dict[str, nn.Parameter] = {}

    def resize(self, image_size: tuple[int, int]) -> None:
        """Resample position embeddings, and whatever else depends on the size, from those of the weights."""
        model = self.model
        if image_size == tuple(model.patch_embed.img_size):
            return
        device = next(model.parameters()).device
        if self.parameters:
            model.set_input_size(img_size=self.image_size)
            for name, weights in self.parameters.items():
                owner, _, own = name.rpartition(".")
                setattr(model.get_submodule(owner), own, nn.Parameter(weights.clone(), requires_grad=False))
        before = dict(model.named_parameters())
        model.set_input_size(img_size=image_size)
        if not self.parameters:
            after = dict(model.named_parameters())
            self.parameters = {name: weights for name, weights in before.items() if after[name] is not weights}
        model.to(device)


def is_vit(model: nn.Module) -> bool:
    """Return whether a timm model is a sequence of equal blocks over one grid of square patches of the image.

    Hybrids (a convolutional stem before the blocks) are not: their grid does not follow from the patch size.
    """
    blocks, embed = getattr(model, "blocks", None), getattr(model, "patch_embed", None)
    return (
        isinstance(blocks, (nn.Sequential, nn.ModuleList))
        and isinstance(embed, PatchEmbed)
        and embed.patch_size[0] == embed.patch_size[1]
        and all(hasattr(model, name) for name in ("forward_intermediates", "set_input_size", "num_prefix_tokens"))
    )
