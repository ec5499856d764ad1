"""Products by oneDNN against PyTorch's."""

import pytest
import torch
import torch.nn.functional as F

from musc_ray.core.kernels.onednn import linear


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("shape", [(5, 8), (1, 3), (2, 7, 16)])
def test_products_are_those_of_pytorch(shape, with_bias):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(*shape, generator=generator), torch.randn(6, shape[-1], generator=generator)
    bias = torch.randn(6, generator=generator) if with_bias else None
    expected = F.linear(x, weight, bias)
    torch.testing.assert_close(linear(x, weight, bias), expected)
    low = linear(x.bfloat16(), weight.bfloat16(), None if bias is None else bias.bfloat16())
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), expected, rtol=0.02, atol=0.05)
    torch.testing.assert_close(linear(x.double(), weight.double()), x.double() @ weight.double().T)
