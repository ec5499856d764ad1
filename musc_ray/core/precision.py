"""Which arithmetic the tile product uses."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


FEW_IMAGES = 64
"""Below, `auto` is exact: there is little to gain, and a score averages too few distances to even out rounding."""


def resolve_precision(precision: str, device: torch.device, images: int) -> torch.dtype:
    """The dtype that `precision` means on a device for a group of so many images.

    `auto` is float32 for few images; else float16 on a GPU (same tensor-core rate as bfloat16, 3 more bits; unit
    vectors never overflow), bfloat16 on a CPU with bfloat16 instructions, and float32 on others.

    Raises:
        ValueError: an unknown name.
    """
    if precision == "auto":
        if images < FEW_IMAGES:
            return torch.float32
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32
    if precision not in DTYPES:
        raise ValueError(f"precision must be one of auto, {', '.join(DTYPES)}, not {precision!r}.")
    return DTYPES[precision]


def distance_dtype(products: torch.dtype) -> torch.dtype:
    """What distances are kept in: float16, 11 bits, where products are no more exact; else float32."""
    return torch.float32 if products == torch.float32 else torch.float16


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
