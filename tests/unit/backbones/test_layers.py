"""The arithmetic of layers: which are computed in the dtype, and which stay in float32."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from musc_ray.backbones.layers import CpuLayers, SelfAttention, cast_weights


def relative_error(result, exact):
    return float((result - exact).norm() / exact.norm())


def test_linear_layers_and_attention_are_multiplied_in_the_dtype():
    torch.manual_seed(0)
    x, layer, parts = torch.randn(2, 5, 16), nn.Linear(16, 8), [torch.randn(1, 2, 7, 8) for _ in range(3)]
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        with torch.inference_mode(), CpuLayers(dtype):
            product, attended = layer(x), F.scaled_dot_product_attention(*parts)
        assert product.dtype == attended.dtype == dtype
        torch.testing.assert_close(product.float(), x @ layer.weight.T + layer.bias, rtol=0.02, atol=0.02)
        torch.testing.assert_close(attended.float(), F.scaled_dot_product_attention(*parts), rtol=0.02, atol=0.02)


def test_everything_else_stays_in_float32():
    with torch.inference_mode(), CpuLayers(torch.bfloat16):
        image = nn.Conv2d(3, 4, 2, 2)(torch.randn(1, 3, 8, 8))
        normalised = nn.LayerNorm(16)(nn.Linear(16, 16)(torch.randn(2, 16)).float())
    assert image.dtype == normalised.dtype == torch.float32


@pytest.mark.parametrize("options", [{"attn_mask": torch.eye(7)}, {"is_causal": True, "scale": 0.2}, {"scale": 0.2}])
def test_attention_has_all_options(options):
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 2, 7, 8, generator=generator) for _ in range(3)]
    with torch.inference_mode(), CpuLayers(torch.bfloat16):
        attended = F.scaled_dot_product_attention(*parts, **options)
    expected = F.scaled_dot_product_attention(*parts, **options)
    assert attended.dtype == torch.bfloat16
    assert relative_error(attended.float(), expected) < 0.01
    assert relative_error(F.scaled_dot_product_attention(*parts), expected) > 0.05


def test_self_attention_is_that_of_pytorch():
    torch.manual_seed(0)
    original, tokens = nn.MultiheadAttention(24, 3, batch_first=True).eval(), torch.randn(2, 7, 24)
    own = SelfAttention(original)
    assert own.state_dict().keys() == original.state_dict().keys()
    with torch.inference_mode():
        expected, _ = original(tokens, tokens, tokens, need_weights=False)
        torch.testing.assert_close(own(tokens)[0], expected)
        cast_weights(own, torch.bfloat16)
        with CpuLayers(torch.bfloat16):
            low = own(tokens, tokens, tokens, need_weights=False, attn_mask=None)[0]
    assert low.dtype == torch.bfloat16
    assert relative_error(low.float(), expected) < 0.02


def test_weights_of_linear_layers_alone_are_cast():
    model = nn.ModuleDict(
        {
            "linear": nn.Linear(4, 4),
            "norm": nn.LayerNorm(4),
            "patches": nn.Conv2d(3, 4, 2),
            "pooling": nn.MultiheadAttention(4, 1),
            "own": SelfAttention(nn.MultiheadAttention(4, 1)),
        }
    )
    cast_weights(model, torch.bfloat16)
    cast = {name.partition(".")[0] for name, value in model.named_parameters() if value.dtype == torch.bfloat16}
    kept = {name.partition(".")[0] for name, value in model.named_parameters() if value.dtype == torch.float32}
    assert (cast, kept) == ({"linear", "own"}, {"norm", "patches", "pooling"})


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pytorchs_own_attention_still_runs_under_it(dtype):
    """Pooling by attention in some CLIP towers: its query is not the tokens."""
    torch.manual_seed(0)
    pooling, query, tokens = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(1, 1, 8), torch.randn(1, 5, 8)
    cast_weights(pooling, dtype)
    with torch.inference_mode():
        expected = pooling(query, tokens, tokens, need_weights=False)[0]
        with CpuLayers(dtype):
            torch.testing.assert_close(pooling(query, tokens, tokens, need_weights=False)[0], expected)
