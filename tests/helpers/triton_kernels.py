"""Triton kernels without a GPU: run in Triton's interpreter, or compiled for a GPU that is not there."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

MAX_SHARED = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that a program may have on an A100, and on an H100 or H200."""

MULTIPROCESSOR_SHARED = {80: 164 * 1024, 90: 228 * 1024}
"""Bytes for all programs of a multiprocessor, 1 KB of each of them reserved."""

REGISTERS = 2**16
"""Of a multiprocessor, of 32 bits."""

ALIGNED = ("channels", "stride_a", "stride_b", "place_a", "place_b")
"""Numbers that Triton finds to be multiples of 16 where operands are padded."""

TENSOR_CORES = {80: "mma.sync", 90: "wgmma.mma_async"}


@dataclass(frozen=True)
class Compiled:
    """What a program needs of a multiprocessor.

    Attributes:
        registers: of a thread.
        stack: bytes of a thread that did not fit its registers.
        shared: bytes.
        programs: that fit a multiprocessor at a time.
        on_tensor_cores: whether it multiplies there.
    """

    registers: int
    stack: int
    shared: int
    programs: int
    on_tensor_cores: bool


def compile_kernel(
    kernel: Any, types: dict[str, str], constants: dict[str, object], capability: int, options: dict[str, int]
) -> Compiled:
    """Compile a kernel to machine code.

    Args:
        kernel: a function under `triton.jit`.
        types: of its arguments, in order; pointers and those in ALIGNED are taken as multiples of 16.
        constants: its constexpr arguments.
        capability: 80 or 90.
        options: as at the launch: `num_warps`, `num_stages` and others.
    """
    import triton
    import triton.backends.nvidia
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    aligned = [place for place, (name, kind) in enumerate(types.items()) if kind[0] == "*" or name in ALIGNED]
    attributes = {(place,): [["tt.divisibility", 16]] for place in aligned}
    source = ASTSource(kernel, types | dict.fromkeys(constants, "constexpr"), constants, attributes)
    compiled = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    cubin = Path(os.environ["TRITON_CACHE_DIR"]) / "kernel.cubin"
    cubin.write_bytes(compiled.asm["cubin"])
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    registers, shared = int(found[1]), int(compiled.metadata.shared)
    of_shared = MULTIPROCESSOR_SHARED[capability] // (shared + 1024)
    of_registers = REGISTERS // (-(-registers // 8) * 8 * options["num_warps"] * 32)
    return Compiled(
        registers, int(found[2]), shared, min(of_shared, of_registers), TENSOR_CORES[capability] in compiled.asm["ptx"]
    )


def interpret(module: str, function: str) -> str:
    """Run a function of a test module in a process whose Triton kernels are interpreted; returns what it printed."""
    return _run(module, function, TRITON_INTERPRET="1")


def run_compiling(module: str, function: str, folder: Path) -> str:
    """Run a function of a test module in a process that may call `compile_kernel`; returns what it printed."""
    return _run(module, function, TRITON_CACHE_DIR=str(folder))


def _run(module: str, function: str, **environment: str) -> str:
    result = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"from {module} import {function}; {function}()"],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        cwd=ROOT,
        timeout=480,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout
