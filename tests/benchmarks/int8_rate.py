"""The limit of int8 products on this CPU: instructions on registers alone, or products of oneDNN where it is used."""

import time

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from musc_ray.core.kernels.simd import LANES
from musc_ray.core.operands.int8_cpu import PackedInt8Shard
from musc_ray.core.operands.prepare import int8_form

ACCUMULATORS, PRODUCTS = 24, 64
"""Registers that are added to in turn, as in the kernel; products of an instruction."""


@intrinsic
def _dot_registers(_context, count):
    """Run `count` times an instruction for each accumulator; return a sum, so that none is dropped."""
    ints = ir.VectorType(ir.IntType(32), LANES)

    def generate(_context, builder, _signature, arguments):
        size = arguments[0].type
        dot_type = ir.FunctionType(ints, [ints] * 3)
        dot = cgutils.get_or_insert_function(builder.module, dot_type, "llvm.x86.avx512.vpdpbusd.512")
        one = builder.insert_element(
            ir.Constant(ints, [1] * LANES), builder.trunc(arguments[0], ir.IntType(32)), size(0)
        )
        before, loop, behind = builder.block, builder.append_basic_block("loop"), builder.append_basic_block("behind")
        builder.branch(loop)
        builder.position_at_end(loop)
        step = builder.phi(size)
        step.add_incoming(size(0), before)
        sums = [builder.phi(ints) for _ in range(ACCUMULATORS)]
        added = [builder.call(dot, [value, one, one]) for value in sums]
        for value, last in zip(sums, added, strict=True):
            value.add_incoming(ir.Constant(ints, [0] * LANES), before)
            value.add_incoming(last, loop)
        following = builder.add(step, size(1))
        step.add_incoming(following, loop)
        builder.cbranch(builder.icmp_unsigned("<", following, arguments[0]), loop, behind)
        builder.position_at_end(behind)
        total = added[0]
        for value in added[1:]:
            total = builder.add(total, value)
        return builder.extract_element(total, size(0))

    return types.int32(count), generate


@numba.njit(nogil=True)
def _run(count):
    return _dot_registers(count)


def int8_rate(side: int, channels: int) -> tuple[float, str]:
    """Measure the products of int8 a second of one core, and say of what: what bounds the form that is used here."""
    if int8_form(torch.device("cpu"), channels) is PackedInt8Shard:
        _run(np.uintp(10))
        count = 200_000
        return count * ACCUMULATORS * PRODUCTS / _fastest(lambda: _run(np.uintp(count))), "VNNI on registers alone"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    a, b = (torch.randint(-127, 127, (max(1024, side * side), channels), dtype=torch.int8) for _ in range(2))
    seconds = _fastest(lambda: torch._int_mm(a, b.T))
    torch.set_num_threads(threads)
    return len(a) * len(b) * channels / seconds, "oneDNN's products"


def _fastest(work) -> float:
    times = []
    for _ in range(7):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)
