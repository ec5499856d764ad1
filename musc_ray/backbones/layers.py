"""The arithmetic of a model's layers: which are multiplied in a lower precision, and how on a CPU."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from musc_ray.core.kernels.attention import attention
from musc_ray.core.kernels.onednn import linear


class CpuLayers(TorchFunctionMode):
    """Context in which a model's linear layers and attention are multiplied in one dtype, and all else is as it is.

    In bfloat16 the tokens between blocks stay in float32. PyTorch's autocast rounds them too where a model adds its
    position embedding in the dtype of its patches, as CLIP does.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self._replaced: dict[Any, Callable[..., Tensor]] = {
            F.linear: self._linear,
            F.scaled_dot_product_attention: self._attention,
        }

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self._replaced.get(func, func)(*args, **(kwargs or {}))

    def _linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Compute `F.linear` in the dtype."""
        return linear(x.to(self.dtype), weight.to(self.dtype), None if bias is None else bias.to(self.dtype))

    def _attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        """Compute `F.scaled_dot_product_attention`: plain one in bfloat16 by our kernel, others in float32."""
        query, key, value = query.to(self.dtype), key.to(self.dtype), value.to(self.dtype)
        scale = options.pop("scale", None)
        if self.dtype == torch.bfloat16 and attn_mask is None and not any(options.values()):
            return attention(query, key, value, scale)
        parts = (query.float(), key.float(), value.float())
        return F.scaled_dot_product_attention(*parts, attn_mask=attn_mask, scale=scale, **options).to(self.dtype)


class SelfAttention(nn.Module):
    """`nn.MultiheadAttention` of an image on itself, as layers whose arithmetic can be chosen.

    PyTorch's computes its linear layers out of reach of `CpuLayers`. The parameters have the same names.
    """

    def __init__(self, original: nn.MultiheadAttention) -> None:
        super().__init__()
        self.in_proj_weight, self.in_proj_bias = original.in_proj_weight, original.in_proj_bias
        self.out_proj, self.heads = original.out_proj, original.num_heads

    def forward(self, tokens: Tensor, *_: Tensor, **__: Any) -> tuple[Tensor, None]:
        """Attend to all tokens (B, L, C) of an image, which are the query, the key and the value; returns (B, L, C)."""
        joint = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        query, key, value = joint.view(*joint.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind()
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None


def cast_weights(model: nn.Module, dtype: torch.dtype) -> None:
    """Store the weights of linear layers in the dtype they are multiplied in, instead of casting them for every batch.

    Layers of other classes, whose weights may be used in other ways, keep theirs.
    """
    for layer in model.modules():
        if type(layer) is nn.Linear or isinstance(layer, SelfAttention):
            layer.to(dtype)
