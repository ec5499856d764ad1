"""Explicit vectors of 16 float32 for numba, which LLVM compiles to AVX-512, AVX2 or NEON instructions.

Sums over a sliding window keep its values in registers, which LLVM's loop vectoriser does not find.
"""

from collections.abc import Iterable
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model


def _can_cache() -> bool:
    """Tell whether numba has a writable cache; without one every process compiles again, for seconds."""
    try:
        numba.njit(cache=True)(_can_cache)
    except RuntimeError:
        return False
    return True


OPTIONS: dict[str, Any] = {
    "fastmath": {"nnan", "ninf", "nsz", "reassoc", "contract", "arcp"},
    "nogil": True,
    "cache": _can_cache(),
    "error_model": "numpy",
}
LANES = 16
FLAGS = ("nnan", "ninf", "nsz", "reassoc", "contract")

_FLOATS = ir.VectorType(ir.FloatType(), LANES)


class VectorType(types.Type):
    """The type of 16 float32 in registers."""

    def __init__(self) -> None:
        super().__init__(name="Float32x16")


vector = VectorType()


@register_model(VectorType)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, _FLOATS)


def _lanes(indices: Iterable[int]) -> Any:
    return ir.Constant(ir.VectorType(ir.IntType(32), LANES), list(indices))


def _address(builder: Any, pointer: Any, index: Any, pointee: Any) -> Any:
    return builder.bitcast(builder.gep(pointer, [index]), pointee.as_pointer())


@intrinsic
def pointer(_context: Any, array: Any) -> Any:
    """Return a pointer to an array's data: numba counts references to arrays, even in inner loops, not to pointers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.make_array(signature.args[0])(context, builder, value=arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def load(_context: Any, source: Any, index: Any) -> Any:
    """Load 16 values from a pointer and index: float32, or bfloat16 given as uint16 bits."""
    bits = source.dtype == types.uint16

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        kind = ir.VectorType(ir.IntType(16), LANES) if bits else _FLOATS
        value = builder.load(_address(builder, *arguments, kind), align=2 if bits else 4)
        if not bits:
            return value
        wide = builder.zext(value, ir.VectorType(ir.IntType(32), LANES))
        return builder.bitcast(builder.shl(wide, ir.Constant(wide.type, [16] * LANES)), _FLOATS)

    return vector(source, types.uintp), generate


@intrinsic
def store(_context: Any, target: Any, index: Any, value: Any) -> Any:
    """Store 16 float32 at a pointer and index."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        builder.store(arguments[2], _address(builder, *arguments[:2], _FLOATS), align=4)
        return context.get_dummy_value()

    return types.void(target, types.uintp, vector), generate


@intrinsic
def splat(_context: Any, value: Any) -> Any:
    """Return a vector of 16 equal float32."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), arguments[0], ir.Constant(ir.IntType(32), 0))
        return builder.shuffle_vector(one, one, _lanes([0] * LANES))

    return vector(types.float32), generate


def _binary(instruction: str) -> Any:
    @intrinsic
    def operation(_context: Any, a: Any, b: Any) -> Any:
        def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
            return getattr(builder, instruction)(*arguments, flags=FLAGS)

        return vector(vector, vector), generate

    return operation


add, multiply = _binary("fadd"), _binary("fmul")


def _larger(builder: Any, a: Any, b: Any) -> Any:
    """Select the larger lanes: LLVM turns a comparison before a store into a masked store, which is slow."""
    return builder.select(builder.fcmp_ordered(">", a, b, flags=FLAGS), a, b)


@intrinsic
def larger(_context: Any, a: Any, b: Any) -> Any:
    """Return the larger of each two lanes; none is NaN."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return _larger(builder, *arguments)

    return vector(vector, vector), generate


@intrinsic
def largest(_context: Any, value: Any) -> Any:
    """Return the largest lane."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        (value,) = arguments
        width = LANES // 2
        while width:
            shuffled = builder.shuffle_vector(value, value, _lanes((lane + width) % LANES for lane in range(LANES)))
            value = _larger(builder, value, shuffled)
            width //= 2
        return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))

    return types.float32(vector), generate


@intrinsic
def window_of(_context: Any, taps: Any) -> Any:
    """Return a window of zero vectors, one per tap."""

    def generate(context: Any, builder: Any, signature: Any, _arguments: Any) -> Any:
        return context.make_tuple(builder, signature.return_type, [ir.Constant(_FLOATS, [0.0] * LANES)] * len(taps))

    return types.UniTuple(vector, len(taps))(taps), generate


@intrinsic
def sum_across(_context: Any, before: Any, here: Any, behind: Any, taps: Any) -> Any:
    """Sum each lane of `here` and its neighbours, as many as taps, up to 2 LANES + 1."""
    if len(taps) // 2 > LANES:
        return None

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        low, middle, high = arguments[:3]
        total = middle
        for by in range(1, len(taps) // 2 + 1):
            for pair, first in (((low, middle), LANES - by), ((middle, high), by)):
                neighbours = builder.shuffle_vector(*pair, _lanes(range(first, first + LANES)))
                total = builder.fadd(total, neighbours, flags=FLAGS)
        return total

    return vector(vector, vector, vector, taps), generate


@intrinsic
def sum_of(_context: Any, source: Any, index: Any, step: Any, taps: Any) -> Any:
    """Sum vectors of float32 at a pointer, as many as taps, one every `step` values."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        values, at, by = arguments[:3]
        total = None
        for _ in taps:
            value = builder.load(_address(builder, values, at, _FLOATS), align=4)
            total = value if total is None else builder.fadd(total, value, flags=FLAGS)
            at = builder.add(at, by)
        return total

    return vector(source, types.uintp, types.uintp, taps), generate


@intrinsic
def slide(_context: Any, window: Any, value: Any) -> Any:
    """Drop the window's first vector and append another."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kept = cgutils.unpack_tuple(builder, arguments[0], window.count)[1:]
        return context.make_tuple(builder, signature.return_type, [*kept, arguments[1]])

    return window(window, vector), generate


@intrinsic
def total(_context: Any, window: Any) -> Any:
    """Sum a window's vectors."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        first, *others = cgutils.unpack_tuple(builder, arguments[0], window.count)
        for other in others:
            first = builder.fadd(first, other, flags=FLAGS)
        return first

    return vector(window), generate
