"""The GPU kernel of nearest patches: in Triton's interpreter against exact products, and compiled for two GPUs."""

import pytest
import torch

from tests.helpers.triton_kernels import MAX_SHARED, compile_kernel, interpret, run_compiling

pytest.importorskip("triton")

VARIANTS = {
    torch.int8: (32, 96, 256, 384, 512, 1024),
    torch.float16: (64, 96, 128, 256, 1024),
    torch.bfloat16: (96, 1024),
    torch.float32: (1024,),
}
"""Channels for which the block sizes of a dtype differ."""

TYPES = {torch.int8: "i8", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float32: "fp32"}


def check_integers() -> None:
    """Maxima of int8 are exact: odd numbers of patches, of channels, one image, equal patches, an excluded one.

    Images of one side may have other numbers of patches than those of the other.
    """
    from musc_ray.core.kernels.fused import far, nearest

    generator = torch.Generator().manual_seed(0)
    for images_a, images_b, patches_a, patches_b in ((1, 2, 35, 35), (2, 1, 137, 90), (2, 1, 20, 137), (1, 1, 1, 1)):
        for channels in (20, 64, 96, 150, 600):
            shapes = (images_a * patches_a, channels), (images_b * patches_b, channels)
            a, b = (torch.randint(-127, 128, shape, generator=generator, dtype=torch.int8) for shape in shapes)
            a[0], b[0] = 127, -127  # the largest sums
            b[-1] = a[-1]
            half_a, half_b = (x.int().square().sum(dim=1, dtype=torch.int32) // 2 for x in (a, b))
            if patches_b > 1:
                half_b[1] = far(torch.int8)
            product = a.long() @ b.long().T - half_a.long()[:, None] - half_b.long()[None, :]
            product = product.view(images_a, patches_a, images_b, patches_b)
            in_b, in_a = nearest((a, half_a), (b, half_b), (patches_a, patches_b), channels)
            assert in_b.dtype == in_a.dtype == torch.int32
            assert torch.equal(in_b.long(), product.amax(dim=3))
            assert torch.equal(in_a.long(), product.amax(dim=1).permute(1, 2, 0))
    print("exact")


def check_floats() -> None:
    """Maxima of float16 with all channels on the chip and in steps, and of float32.

    Not of bfloat16: the interpreter multiplies its bits as if they were integers.
    """
    from musc_ray.core.kernels.fused import nearest

    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.float32):
        for channels in (20, 96, 300):
            sides = []
            for images in (2, 1):
                vectors = torch.randn(images * 135, channels, generator=generator)
                sides.append(torch.nn.functional.normalize(vectors, dim=1).to(dtype))
            half_a, half_b = (x.double().square().sum(dim=1) / 2 for x in sides)
            product = sides[0].double() @ sides[1].double().T - half_a[:, None] - half_b[None, :]
            product = product.view(2, 135, 1, 135)
            wide = [torch.cat([side, torch.full((len(side), 5), 3.0, dtype=dtype)], dim=1) for side in sides]
            in_b, in_a = nearest((wide[0], half_a.float()), (wide[1], half_b.float()), (135, 135), channels)
            torch.testing.assert_close(in_b.double(), product.amax(dim=3), atol=1e-6, rtol=0)
            torch.testing.assert_close(in_a.double(), product.amax(dim=1).permute(1, 2, 0), atol=1e-6, rtol=0)
    print("close")


def check_machine_code() -> None:
    """All variants fit both GPUs without spilled registers; short patches leave room for a second program."""
    from musc_ray.core.kernels import fused

    for dtype, kind in TYPES.items():
        for channels in VARIANTS[dtype]:
            total = "i32" if dtype == torch.int8 else "fp32"
            blocks = fused.blocks_for(dtype, channels)
            types = {"a": kind, "half_a": total, "b": kind, "half_b": total, "in_b": total, "in_a": total}
            types = {name: "*" + of for name, of in types.items()}
            types |= dict.fromkeys(["images_b", "patches_a", "patches_b", "channels", "stride_a", "stride_b"], "i32")
            for capability, limit in MAX_SHARED.items():
                constants = fused.constants(dtype, blocks)
                used = compile_kernel(fused._nearest, types, constants, capability, fused.options(blocks))
                print(kind, channels, capability, used)
                assert used.shared <= limit
                assert used.stack == 0
                assert used.on_tensor_cores == (dtype != torch.float32)
                if blocks.resident and (blocks.depth + blocks.rest) * dtype.itemsize <= 256:
                    assert used.programs >= 2


@pytest.mark.slow
def test_maxima_of_integers_are_exact():
    assert interpret(__name__, "check_integers") == "exact\n"


@pytest.mark.slow
def test_maxima_of_floats_are_those_of_the_product():
    assert interpret(__name__, "check_floats") == "close\n"


@pytest.mark.slow
def test_the_kernel_fits_both_gpus(tmp_path):
    assert len(run_compiling(__name__, "check_machine_code", tmp_path).splitlines()) == 2 * sum(
        map(len, VARIANTS.values())
    )


@pytest.mark.parametrize(
    ("channels", "parts"),
    [
        (20, (32, 0)),
        (64, (64, 0)),
        (96, (64, 32)),
        (97, (128, 0)),
        (170, (128, 64)),
        (200, (256, 0)),
        (384, (256, 128)),
    ],
)
def test_channels_are_covered_by_one_or_two_powers_of_two(channels, parts):
    from musc_ray.core.kernels.fused import split_depth

    assert split_depth(channels) == parts
