"""Attention in a low precision on a CPU: plain products, a few heads at a time.

PyTorch's own kernel multiplies small blocks, which takes a third of a model's time where linear layers are in bfloat16.
"""

import torch
from torch import Tensor

SCORES_CHUNK = 2**20
"""Scores held at a time: those of a chunk of heads stay in the cache between product, softmax and product."""


def attention(query: Tensor, key: Tensor, value: Tensor, scale: float | None = None) -> Tensor:
    """Compute softmax(query @ key^T * scale) @ value.

    The mean key is subtracted from the keys. It adds the same number to all scores of a query, which softmax ignores,
    and is most of them: in DINOv2 scores reach 300, and 30 without it. Rounding to 8 bits is relative.

    Args:
        query: (B, H, L, D), as the others of a low precision.
        key, value: (B, H, S, D).
        scale: of the products; 1 / sqrt(D) by default.

    Returns:
        (B, H, L, D) of the inputs' dtype.
    """
    shape = query.shape
    query = query * (shape[-1] ** -0.5 if scale is None else scale)
    key = (key - key.mean(dim=-2, keepdim=True)).transpose(-2, -1)
    chunk = max(1, SCORES_CHUNK // (query.shape[-2] * key.shape[-1]))
    chunks = zip(*(torch.split(part.flatten(0, 1), chunk) for part in (query, key, value)), strict=True)
    return torch.cat([(q @ k).softmax(dim=-1) @ v for q, k, v in chunks]).view(shape)
