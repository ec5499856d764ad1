"""The GPU kernel of patches near their own place: against loops in Triton's interpreter, and compiled for two GPUs."""

import pytest
import torch

from tests.helpers.triton_kernels import MAX_SHARED, compile_kernel, interpret, run_compiling

pytest.importorskip("triton")

VARIANTS = {
    torch.int8: (96, 256, 384, 1024),
    torch.float16: (64, 256, 1024),
    torch.bfloat16: (96,),
    torch.float32: (1024,),
}
"""Channels for which the block sizes of a dtype differ."""

MAX_STACK = 32
"""Bytes of a thread outside its registers: 8 of the 128 that it has where two programs share a multiprocessor."""

TYPES = {torch.int8: "i8", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


def loops(a: torch.Tensor, b: torch.Tensor, grid: tuple[int, int], radius: int) -> torch.Tensor:
    """Squared distances (A, L, B) of patches (L, A, C) and (L, B, C) in float64."""
    result = torch.full((a.shape[1], len(a), b.shape[1]), torch.inf, dtype=torch.float64)
    for p in range(len(a)):
        for q in range(len(b)):
            if max(abs(p // grid[1] - q // grid[1]), abs(p % grid[1] - q % grid[1])) <= radius:
                squares = (a[p].double()[:, None] - b[q].double()[None]).square().sum(dim=2)
                result[:, p] = torch.minimum(result[:, p], squares)
    return result


def check_integers() -> None:
    """Distances of int8 patches are exact: odd grids, radii beyond the grid, strided operands, one and many images."""
    from musc_ray.core.kernels.fused_near import nearest

    generator = torch.Generator().manual_seed(0)
    cases = (
        ((3, 5), 1, 2, 3, 40),
        ((1, 1), 2, 1, 1, 5),
        ((2, 3), 2, 1, 70, 96),
        ((1, 3), 9, 131, 2, 600),
        ((5, 1), 0, 3, 3, 64),
    )
    for grid, radius, images_a, images_b, channels in cases:
        shape = grid[0] * grid[1], images_a + images_b + 1, channels
        whole = torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8)
        whole[:, images_a] = whole[:, 0]
        whole[..., 0] += whole.sum(dim=2, dtype=torch.int32).remainder(2).to(torch.int8) * torch.where(
            whole[..., 0] > 0, -1, 1
        ).to(torch.int8)  # even lengths
        a, b = whole[:, :images_a], whole[:, images_a : images_a + images_b]
        halves = [side.int().square().sum(dim=2, dtype=torch.int32) // 2 for side in (a, b)]
        out = torch.full((images_a, shape[0], images_b), torch.nan)
        nearest((a, halves[0]), (b, halves[1]), grid, radius, 3.0, (0.0, torch.inf), out)
        assert (out[0, :, 0] == 0).all()
        torch.testing.assert_close(out.double() ** 2, loops(a, b, grid, radius) / 9.0, atol=0, rtol=1e-6)
    print("exact")


def check_floats() -> None:
    """Distances of float16 and float32 patches; below and above the limits they are those of equal and far patches."""
    from musc_ray.core.kernels.fused_near import nearest

    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.float32):
        for channels in (20, 300):
            vectors = torch.nn.functional.normalize(torch.randn(12, 5, channels, generator=generator), dim=2).to(dtype)
            vectors[:, 3] = vectors[:, 0]
            a, b = vectors[:, :3], vectors[:, 3:]
            halves = [0.5 * side.float().square().sum(dim=2) for side in (a, b)]
            out = torch.full((3, 12, 2), torch.nan)
            nearest((a, halves[0]), (b, halves[1]), (3, 4), 1, 1.0, (4e-3, 1.2), out)
            expected = loops(a, b, (3, 4), 1).sqrt().clamp(max=1.2)
            assert (out[0, :, 0] == 0).all()
            torch.testing.assert_close(out.double(), expected, atol=2e-6, rtol=0)
    print("close")


def check_machine_code() -> None:
    """All variants fit both GPUs, a few registers of a thread at most are kept in memory."""
    from musc_ray.core.kernels import fused_near

    numbers = ["images_a", "images_b", "channels", "height", "width", "radius", "factor", "equal", "farthest"]
    numbers += ["stride_a", "stride_b", "place_a", "place_b", "place_half_a", "place_half_b"]
    for dtype, kind in TYPES.items():
        total = "*i32" if dtype == torch.int8 else "*fp32"
        types = {"a": "*" + kind, "half_a": total, "b": "*" + kind, "half_b": total, "out": "*fp32"}
        types |= dict.fromkeys(numbers, "i32") | dict.fromkeys(["factor", "equal", "farthest"], "fp32")
        for channels in VARIANTS[dtype]:
            blocks = fused_near.blocks_for(dtype, channels)
            for capability, limit in MAX_SHARED.items():
                constants = fused_near.constants(blocks)
                options = fused_near.options(dtype, blocks)
                used = compile_kernel(fused_near._nearest, types, constants, capability, options)
                print(kind, channels, capability, used)
                assert used.shared <= limit
                assert used.stack <= MAX_STACK
                assert used.on_tensor_cores == (dtype != torch.float32)
                if "maxnreg" in options:
                    assert used.programs >= 2


@pytest.mark.slow
def test_distances_of_integers_are_exact():
    assert interpret(__name__, "check_integers") == "exact\n"


@pytest.mark.slow
def test_distances_of_floats_are_those_of_loops():
    assert interpret(__name__, "check_floats") == "close\n"


@pytest.mark.slow
def test_the_kernel_fits_both_gpus(tmp_path):
    assert len(run_compiling(__name__, "check_machine_code", tmp_path).splitlines()) == 2 * sum(
        map(len, VARIANTS.values())
    )
