"""Shards in int8 on a GPU: in Triton's interpreter, the numbers of the form that multiplies with PyTorch."""

import pytest
import torch

from musc_ray.core.operands import prepare as choice
from musc_ray.core.operands.int8 import Int8Shard
from musc_ray.core.operands.int8_gpu import FusedInt8Shard
from musc_ray.core.tile_product import multiply_tile
from tests.helpers.triton_kernels import interpret


def check_numbers() -> None:
    """Tiles of copies, zero vectors and excluded patches; a diagonal tile with unwanted pairs."""
    generator = torch.Generator().manual_seed(0)
    for grid, channels in (((1, 1), 5), ((3, 5), 24), ((9, 16), 66), ((12, 12), 96)):
        patches = grid[0] * grid[1]
        tokens = torch.randn(1, patches, channels, generator=generator)
        tokens = tokens + 0.5 * torch.randn(5, patches, channels, generator=generator)
        tokens[4] = tokens[0]
        tokens[3] = 2.0  # zero vectors
        excluded = torch.rand(3, patches, generator=generator) < 0.4
        excluded[:, 0] = False
        pairs = torch.ones(2, 2, dtype=torch.bool)
        pairs[0, 1] = pairs[1, 0] = False
        found = []
        for form in (FusedInt8Shard, Int8Shard):
            a, b = (form(part, grid, (1, 3)) for part in tokens.split([2, 3]))
            rows, columns = multiply_tile(a, b)
            assert (rows[:, 0, :, 2] == 0).all()
            assert (columns[:, 2, :, 0] == 0).all()
            diagonal, _ = multiply_tile(a, a, pairs=pairs)
            b.exclude(excluded)
            without, _ = multiply_tile(a, b)
            found.append((rows, columns, diagonal, without))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, atol=0, rtol=0)
    print("same")


@pytest.mark.slow
def test_the_kernel_gives_the_numbers_of_the_product():
    pytest.importorskip("triton")
    assert interpret(__name__, "check_numbers") == "same\n"


@pytest.mark.parametrize(("has_triton", "form"), [(True, FusedInt8Shard), (False, Int8Shard)])
def test_a_gpu_takes_the_kernel_where_triton_is(monkeypatch, has_triton, form):
    monkeypatch.setattr(choice, "HAS_TRITON", has_triton)
    assert choice.int8_form(torch.device("cuda"), 96) is form
