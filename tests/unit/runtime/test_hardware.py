"""What is found of a machine without importing PyTorch."""

import os

import pytest
import torch

from musc_ray.runtime import hardware
from musc_ray.runtime.hardware import LocalHardware, count_gpus, has_bfloat16, has_int8, usable_cpus


def test_the_cpu_has_what_pytorch_says():
    capabilities = torch.cpu.get_capabilities()
    assert has_bfloat16() == any(capabilities.get(flag) for flag in ("avx512_bf16", "amx_bf16", "bf16"))
    assert LocalHardware().bfloat16() == has_bfloat16()
    assert has_int8() == any(capabilities.get(flag) for flag in ("avx512_vnni", "amx_int8"))
    assert LocalHardware().int8() == has_int8()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx512f avx512_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx512f\n", False),
        ("Features\t: fp asimd bf16\n", True),
        ("vmx flags\t: avx512_bf16\nflags\t: fpu\n", False),
        ("", False),
    ],
)
def test_instructions_are_read_from_the_flags(text, expected, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    assert has_bfloat16() == expected


@pytest.mark.parametrize(
    ("flags", "expected"), [("fpu avx_vnni avx512_bf16", False), ("fpu avx512_vnni", True), ("fpu amx_int8", True)]
)
def test_int8_needs_wide_vectors_or_tiles(flags, expected, tmp_path, monkeypatch):
    (tmp_path / "cpuinfo").write_text(f"flags\t\t: {flags}\n")
    monkeypatch.setattr(hardware, "CPU_INFO", tmp_path / "cpuinfo")
    assert has_int8() == expected


def test_gpus_are_those_that_pytorch_sees():
    assert count_gpus() == torch.cuda.device_count()


@pytest.mark.parametrize(
    ("visible", "expected"), [(None, 4), ("", 0), ("0,1", 2), ("-1", 0), ("0,-1,1", 1), ("GPU-ab12", 1)]
)
def test_gpus_that_are_hidden_do_not_count(visible, expected, monkeypatch):
    monkeypatch.setattr(hardware, "_present_gpus", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == expected


@pytest.mark.parametrize(
    ("quota", "expected"),
    [(None, 8), ("max 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("1600000 100000", 8)],
)
def test_cpus_are_limited_by_affinity_and_quota(quota, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    monkeypatch.setattr(hardware, "CPU_QUOTA", tmp_path / "cpu.max")
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert usable_cpus() == expected
