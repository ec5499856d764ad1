"""Choose where and in which arithmetic tiles are multiplied."""

import torch

from musc_ray.core import MIN_IMAGES_LOW_PRECISION, auto_precision

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}


def default_device() -> torch.device:
    """Choose the GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def resolve_precision(precision: str, device: torch.device, images: int) -> torch.dtype:
    """Resolve the setting `precision` to a dtype, for a device and a group's number of images.

    `auto` is float32 for few images, else `auto_precision` of features that are not compressed.

    Raises:
        ValueError: an unknown name.
    """
    if precision == "auto":
        if images < MIN_IMAGES_LOW_PRECISION:
            return torch.float32
        return DTYPES[auto_precision(device.type, _cpu_has_bfloat16())]
    if precision not in DTYPES:
        raise ValueError(f"precision must be one of auto, {', '.join(DTYPES)}, not {precision!r}.")
    return DTYPES[precision]


def distance_dtype(product_dtype: torch.dtype) -> torch.dtype:
    """Choose the dtype that distances are kept in: float16 (11 bits) if products are no more exact, else float32."""
    return torch.float32 if product_dtype == torch.float32 else torch.float16


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("bf16"))
