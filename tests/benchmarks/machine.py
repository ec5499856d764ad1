"""Which machine a benchmark's figures are of."""

import os
import platform
from pathlib import Path

import torch


def describe_machine() -> str:
    """One line: processor, cores, instructions that matter, memory, GPU, torch."""
    capabilities = torch.cpu.get_capabilities()
    cpu = capabilities.get("cpu_name", platform.processor())
    extras = [
        name for name in ("avx512_f", "avx512_bf16", "amx_bf16", "avx512_fp16", "amx_fp16") if capabilities.get(name)
    ]
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    system = Path("/proc/version").read_text().split()[2] if Path("/proc/version").exists() else platform.release()
    return (
        f"{cpu}, {len(os.sched_getaffinity(0))} cores ({', '.join(extras) or 'no AVX-512'}), {pages / 1e9:.0f} GB, "
        f"{gpu}, torch {torch.__version__}, Linux {system}"
    )
