"""Attention by plain products against PyTorch's, in double precision."""

import pytest
import torch
import torch.nn.functional as F

from musc_ray.core.kernels import attention as module
from musc_ray.core.kernels.attention import attention


def inputs(*shape, keys=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    others = shape if keys is None else (*shape[:2], keys, shape[3])
    return [torch.randn(size, generator=generator, dtype=torch.float64) for size in (shape, others, others)]


@pytest.mark.parametrize("chunk", [1, 200, 2**20])
@pytest.mark.parametrize(("shape", "keys"), [((2, 3, 10, 8), None), ((1, 4, 1, 16), 9), ((3, 2, 7, 5), 1)])
@pytest.mark.parametrize("scale", [None, 0.5])
def test_it_equals_pytorchs(monkeypatch, chunk, shape, keys, scale):
    """One head at a time, some, all; one query as in attention pooling; one key."""
    monkeypatch.setattr(module, "SCORES_CHUNK", chunk)
    parts = inputs(*shape, keys=keys)
    expected = F.scaled_dot_product_attention(*parts, scale=scale)
    torch.testing.assert_close(attention(*parts, scale), expected)


def test_inputs_stay_as_they_are():
    parts = inputs(1, 2, 5, 8)
    copies = [part.clone() for part in parts]
    attention(*parts)
    assert all(torch.equal(part, copy) for part, copy in zip(parts, copies, strict=True))


def test_what_all_keys_share_costs_no_precision():
    """Scores of 100 and more, as DINOv2 has them, would be rounded to halves in bfloat16."""
    query, key, value = inputs(1, 2, 64, 64)
    query, key = query + 3, key + 5
    expected = F.scaled_dot_product_attention(query, key, value)
    rounded = [part.bfloat16() for part in (query, key, value)]
    plain = (rounded[0] / 8 @ rounded[1].transpose(-2, -1)).softmax(dim=-1) @ rounded[2]
    own = attention(*rounded)
    assert own.dtype == torch.bfloat16
    errors = [float((result.double() - expected).norm() / expected.norm()) for result in (own, plain)]
    assert errors[0] < 0.02 < errors[1]
