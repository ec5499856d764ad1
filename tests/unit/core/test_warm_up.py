"""Kernels are loaded before the first tile, whatever the settings, and noise is not drawn from anybody's generator."""

import pytest
import torch

from musc_ray.core.warm_up import load_kernels

CPU = torch.device("cpu")


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (5, 4), (16, 16)])
@pytest.mark.parametrize("aggregation", ["lnamd", "snamd"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
def test_kernels_are_loaded_for_every_grid_and_arithmetic(grid, aggregation, dtype):
    load_kernels(grid, (1, 3, 5), dtype, aggregation, CPU)


def test_a_tile_of_the_same_types_compiles_nothing_more():
    from musc_ray.core.kernels import box_filter
    from musc_ray.core.kernels.smallest import means_of_smallest
    from musc_ray.core.operands.prepare import prepare
    from musc_ray.core.patch_scores import patch_scores
    from musc_ray.core.precision import distance_dtype
    from musc_ray.core.tile_product import multiply_tile

    load_kernels((6, 5), (1, 3, 5), torch.bfloat16, "lnamd", CPU)
    kernels = (box_filter.nearest, box_filter.box_lengths, means_of_smallest)
    before = [len(kernel.signatures) for kernel in kernels]
    a, b = (prepare(torch.randn(3, 30, 24), (6, 5), (1, 3, 5), torch.bfloat16) for _ in range(2))
    rows, _ = multiply_tile(a, b, distance_dtype(torch.bfloat16))
    patch_scores([rows], 3, (0.0, 0.3), CPU)
    assert [len(kernel.signatures) for kernel in kernels] == before


def test_the_generator_of_the_process_is_left_alone():
    torch.manual_seed(7)
    load_kernels((2, 2), (1,), torch.float32, "lnamd", CPU)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))
