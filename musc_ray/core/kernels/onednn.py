"""Products on a CPU by oneDNN, which comes with PyTorch: in float32 on AMD twice as fast as MKL, PyTorch's default."""

import torch
import torch.nn.functional as F
from torch import Tensor

AVAILABLE = bool(torch.cpu.get_capabilities().get("avx512_f")) and hasattr(torch.ops.mkldnn, "_linear_pointwise")
"""Without AVX-512 there is nothing to gain."""

DTYPES = (torch.float32, torch.bfloat16)
"""In bfloat16 PyTorch's default is oneDNN, too, but adds the bias in a pass of its own."""


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Compute x (..., C) times weight (D, C) transposed, plus bias (D,): by oneDNN where it is faster than PyTorch.

    CPUs have no fast float16 products: there they are computed in float32 and rounded.
    """
    if x.device.type == "cpu" and x.dtype == torch.float16:
        return linear(x.float(), weight.float(), None if bias is None else bias.float()).half()
    if AVAILABLE and x.device.type == "cpu" and x.dtype == weight.dtype and x.dtype in DTYPES:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
        return product
    return F.linear(x, weight, bias)
