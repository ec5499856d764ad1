"""Which arithmetic the tile product uses."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

LENGTH_PIECES = {torch.float32: 1, torch.bfloat16: 3, torch.float16: 3}
"""How many numbers of a dtype add up to a float32 without loss (24 bits in pieces of 8 or 11, the last one partly)."""


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that `precision` means on a device.

    `auto` is float16 on a GPU (same tensor-core rate as bfloat16, 3 more bits; unit vectors never overflow),
    bfloat16 on a CPU with bfloat16 instructions, else float32.

    Raises:
        ValueError: an unknown name.
    """
    if precision == "auto":
        if device.type == "cuda":
            return torch.float16
        return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32
    if precision not in DTYPES:
        raise ValueError(f"precision must be one of auto, {', '.join(DTYPES)}, not {precision!r}.")
    return DTYPES[precision]


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
