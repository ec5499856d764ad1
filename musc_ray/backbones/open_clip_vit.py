"""open_clip image towers: CLIP ViTs, native or built on timm. Layers are the raw outputs of blocks, without norm."""

from collections.abc import Sequence
from typing import Any

import open_clip
import torch
from torch import Tensor, nn

from musc_ray.backbones.base import Tokens
from musc_ray.backbones.layers import SelfAttention
from musc_ray.backbones.names import BackboneName, check_tag, unknown_model
from musc_ray.backbones.timm_vit import TrainedSize, is_vit
from musc_ray.errors import SettingsError


class OpenClipVit:
    """The image tower of a CLIP model, at the image size its weights were trained for until `resize`.

    The class token is the image embedding (`encode_image`): what RsCIN compares (MuSc, section 3.4).
    """

    def __init__(self, name: BackboneName, meta: bool = False) -> None:
        if name.model not in open_clip.list_models():
            raise unknown_model(name, open_clip.list_models())
        tags = open_clip.list_pretrained_tags_by_model(name.model)
        if tags or name.tag is not None:  # the tag decides activation and normalisation, for weights in a file too
            check_tag(name, tags)
        pretrained = open_clip.get_pretrained_cfg(name.model, name.tag) if name.tag else {}
        self.module = _image_tower(name.model, bool(pretrained.get("quick_gelu")), meta)
        self.mean: tuple[float, ...] = tuple(pretrained.get("mean") or open_clip.OPENAI_DATASET_MEAN)
        self.std: tuple[float, ...] = tuple(pretrained.get("std") or open_clip.OPENAI_DATASET_STD)
        self._trunk: Any = getattr(self.module, "trunk", None)
        if not (is_vit(self._trunk) if self._trunk is not None else hasattr(self.module, "class_embedding")):
            raise SettingsError(
                f"'{name.canonical}' has no vision transformer for images: choose a ViT such as "
                f"open_clip:ViT-L-14-336/openai."
            )
        embed = self._trunk.patch_embed.patch_size if self._trunk is not None else self.module.patch_size
        self.patch_size = int(embed[0])
        blocks = self._trunk.blocks if self._trunk is not None else self.module.transformer.resblocks
        for block in blocks:
            if isinstance(getattr(block, "attn", None), nn.MultiheadAttention):
                block.attn = SelfAttention(block.attn)
        self.depth = len(blocks)
        self.channels = int(self._trunk.embed_dim if self._trunk is not None else self.module.conv1.out_channels)
        self.class_channels = int(open_clip.get_model_config(name.model)["embed_dim"])
        self._trained = None if self._trunk is None else TrainedSize(self._trunk)
        self._position: tuple[Tensor, tuple[int, int]] | None = None

    def adapt(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the image tower's tensors of a CLIP checkpoint, as float32."""
        tower = {key.removeprefix("visual."): value for key, value in state.items() if key.startswith("visual.")}
        return {key: value.float() for key, value in (tower or state).items()}

    def resize(self, image_size: tuple[int, int]) -> None:
        """Resample the position embedding of the weights to another image size."""
        if self._trained is not None:
            self._trained.resize(image_size)
            return
        grid = (image_size[0] // self.patch_size, image_size[1] // self.patch_size)
        now = self.module.positional_embedding
        if self._position is None:
            self._position = now.detach().clone(), self.module.grid_size
        position = resample_position(*self._position, grid).to(now.device)
        self.module.positional_embedding = nn.Parameter(position, requires_grad=False)
        self.module.grid_size, self.module.image_size = grid, image_size

    def tokens(self, images: Tensor, layers: Sequence[int]) -> Tokens:
        """Return raw block outputs of the layers without class token, and the image embedding."""
        if self._trunk is None:
            out = self.module.forward_intermediates(images, indices=list(layers), output_fmt="NLC")
            return Tokens(list(out["image_intermediates"]), out["image_features"])
        final, intermediates = self._trunk.forward_intermediates(images, indices=list(layers), output_fmt="NLC")
        return Tokens(list(intermediates), self.module.head(self._trunk.forward_head(final)))


def resample_position(position: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resample a position embedding (1 + h*w, C), class token first, to another grid.

    Bicubic with antialiasing, as open_clip's `resize_pos_embed`, which wrongly treats another grid with the same number
    of patches (14 x 14 and 7 x 28) as equal.
    """
    if old == new:
        return position
    image = position[1:].reshape(1, *old, -1).permute(0, 3, 1, 2)
    image = nn.functional.interpolate(image, size=new, mode="bicubic", antialias=True, align_corners=False)
    return torch.cat([position[:1], image.flatten(2)[0].T])


def _image_tower(model: str, quick_gelu: bool, meta: bool) -> Any:
    """Build the image tower alone, without the text tower."""
    config = open_clip.get_model_config(model)
    with torch.device("meta" if meta else "cpu"):
        return open_clip.model._build_vision_tower(
            config["embed_dim"], config["vision_cfg"], quick_gelu=quick_gelu or config.get("quick_gelu", False)
        )
