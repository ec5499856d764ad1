"""What the machines of a run can compute with, found without importing PyTorch."""

import ctypes
import os
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

CPU_INFO = Path("/proc/cpuinfo")
CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")
BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
INT8_FLAGS = {"avx512_vnni", "amx_int8"}


class LocalHardware:
    """What this process can use of this machine."""

    def gpus(self) -> int:
        """Count the NVIDIA GPUs."""
        return count_gpus()

    def bfloat16(self) -> bool:
        """Tell whether the CPU has bfloat16 instructions."""
        return has_bfloat16()

    def int8(self) -> bool:
        """Tell whether the CPU has instructions that multiply int8 faster than bfloat16."""
        return has_int8()


class ClusterHardware:
    """What the nodes of the joined Ray cluster have at the moment.

    Nodes that an autoscaler adds later are assumed to be like these; name a precision where they are not.
    """

    def gpus(self) -> int:
        """Count the GPUs that Ray knows of."""
        import ray

        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        return int(resources.get("GPU", 0))

    def bfloat16(self) -> bool:
        """Tell whether the CPUs of all nodes have bfloat16 instructions; a small task on each finds out."""
        return self._on_all_nodes(has_bfloat16)

    def int8(self) -> bool:
        """Tell whether the CPUs of all nodes multiply int8 fast; a small task on each finds out."""
        return self._on_all_nodes(has_int8)

    def _on_all_nodes(self, question: Callable[[], bool]) -> bool:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        ask: Any = ray.remote(question)
        asked = [
            ask.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=True)).remote()
            for node in nodes
        ]
        return all(ray.get(asked))


Hardware = LocalHardware | ClusterHardware


def usable_cpus() -> int:
    """Count the CPUs that this process may use: its affinity and the quota of its container limit those of the host."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = CPU_QUOTA.read_text().split()
        return max(1, min(count, int(quota) // int(period)))
    except (OSError, ValueError):  # no control groups, or `max`
        return count


def count_gpus() -> int:
    """Count the NVIDIA GPUs that CUDA_VISIBLE_DEVICES leaves to this process."""
    present = _present_gpus()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    named = [name for name in visible.split(",") if name.strip()]
    return min(present, named.index("-1") if "-1" in named else len(named))


@cache
def _present_gpus() -> int:
    """Ask the driver of the GPUs (NVML); zero where there is no driver."""
    try:
        nvml = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return 0
    count = ctypes.c_uint(0)
    if nvml.nvmlInit_v2() != 0:
        return 0
    try:
        return count.value if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) == 0 else 0
    finally:
        nvml.nvmlShutdown()


def has_bfloat16() -> bool:
    """Tell whether the CPU has bfloat16 instructions: AVX-512 or AMX on x86, BF16 on Arm."""
    return _has_any(BFLOAT16_FLAGS)


def has_int8() -> bool:
    """Tell whether the CPU multiplies int8 faster than bfloat16: AVX-512 VNNI or AMX."""
    return _has_any(INT8_FLAGS)


def _has_any(flags: set[str]) -> bool:
    """Tell whether the CPU has any of some instruction sets."""
    try:
        listed = re.search(r"^(?:flags|Features)\s*:(.*)$", CPU_INFO.read_text(), re.MULTILINE)
    except OSError:  # not Linux
        import torch

        return any(torch.cpu.get_capabilities().get(flag) for flag in flags)
    return listed is not None and not flags.isdisjoint(listed[1].split())
