"""Explicit vectors of 16 int32 for numba, and products of int8 with them (AVX-512 VNNI).

An instruction multiplies 64 unsigned by 64 signed bytes and adds each four neighbouring products to one of 16 int32.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from musc_ray.core.kernels.simd import LANES, _address, _lanes

_INT = ir.IntType(32)
_INTS = ir.VectorType(_INT, LANES)


def _splat(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_INTS, ir.Undefined), value, ir.Constant(_INT, 0))
    return builder.shuffle_vector(one, one, _lanes([0] * LANES))


def _larger(builder: Any, a: Any, b: Any) -> Any:
    return builder.select(builder.icmp_signed(">", a, b), a, b)


def _load(builder: Any, source: Any, index: Any, align: int = 4) -> Any:
    return builder.load(_address(builder, source, index, _INTS), align=align)


def _fold(builder: Any, target: Any, index: Any, values: list[Any]) -> None:
    """Replace 16 int32 at a pointer and index by their maxima with those of some vectors."""
    best = _load(builder, target, index)
    for value in values:
        best = _larger(builder, best, value)
    builder.store(best, _address(builder, target, index, _INTS), align=4)


def _multiply(builder: Any, left: Any, right: Any, groups: Any, start: list[list[Any]]) -> list[list[Any]]:
    """Add products of some rows with some vectors of columns to accumulators [row][vector], which stay in registers.

    Args:
        left: pointer to the rows, 4 * groups unsigned bytes each.
        right: pointer to the vectors of columns, 64 * groups signed bytes each.
        groups: of four channels; at least one.
        start: the accumulators' first values.
    """
    size = groups.type
    dot_type = ir.FunctionType(_INTS, [_INTS] * 3)
    dot = cgutils.get_or_insert_function(builder.module, dot_type, "llvm.x86.avx512.vpdpbusd.512")
    row_step = builder.mul(groups, ir.Constant(size, 4))
    vector_step = builder.mul(groups, ir.Constant(size, 4 * LANES))
    before, loop, behind = builder.block, builder.append_basic_block("groups"), builder.append_basic_block("behind")
    builder.branch(loop)
    builder.position_at_end(loop)
    group = builder.phi(size)
    group.add_incoming(ir.Constant(size, 0), before)
    sums = [[builder.phi(_INTS) for _ in row] for row in start]
    here = builder.mul(group, ir.Constant(size, 4 * LANES))
    columns = [
        _load(builder, right, builder.add(here, builder.mul(vector_step, ir.Constant(size, n))))
        for n in range(len(start[0]))
    ]
    here, added = builder.mul(group, ir.Constant(size, 4)), []
    for m, row in enumerate(sums):
        at = builder.add(here, builder.mul(row_step, ir.Constant(size, m)))
        four = _splat(builder, builder.load(_address(builder, left, at, _INT), align=4))
        added.append([builder.call(dot, [sums_of, four, column]) for sums_of, column in zip(row, columns, strict=True)])
    following = builder.add(group, ir.Constant(size, 1))
    group.add_incoming(following, loop)
    for row, first, last in zip(sums, start, added, strict=True):
        for value, entering, looping in zip(row, first, last, strict=True):
            value.add_incoming(entering, before)
            value.add_incoming(looping, loop)
    builder.cbranch(builder.icmp_unsigned("<", following, groups), loop, behind)
    builder.position_at_end(behind)
    return added


def _half_squares(builder: Any, operands: list[Any], groups: Any, shape: tuple[int, int]) -> list[list[Any]]:
    """Compute a micro tile [row][vector] of products plus the constants of rows and of columns.

    Args:
        operands: pointers to rows and vectors, see `_multiply`, and to their constants.
        groups: of four channels.
        shape: rows and vectors of the micro tile.
    """
    a, b, of_a, of_b = operands
    own = [builder.load(builder.gep(of_a, [ir.Constant(groups.type, m)])) for m in range(shape[0])]
    others = [_load(builder, of_b, ir.Constant(groups.type, LANES * n)) for n in range(shape[1])]
    start = [[builder.add(constant, other) for other in others] for constant in (_splat(builder, one) for one in own)]
    return _multiply(builder, a, b, groups, start)


@intrinsic
def fold_products(
    _context: Any,
    left: Any,
    right: Any,
    of_left: Any,
    of_right: Any,
    best_left: Any,
    best_right: Any,
    groups: Any,
    rows: Any,
    vectors: Any,
) -> Any:
    """Multiply a micro tile, as many rows and vectors of columns as the tuples are long, and fold it into maxima.

    Args:
        left, right: pointers to the operands, see `_multiply`.
        of_left, of_right: pointers to the constants of rows and of columns, which are added to products.
        best_left: pointer to 16 maxima a row: lane by lane over vectors of columns.
        best_right: pointer to the maxima of columns, over rows.
        groups: of four channels.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        *operands, best_a, best_b, count = arguments[:7]
        products = _half_squares(builder, operands, count, (len(rows), len(vectors)))
        for m, row in enumerate(products):
            _fold(builder, best_a, ir.Constant(count.type, LANES * m), row)
        for n, column in enumerate(zip(*products, strict=True)):
            _fold(builder, best_b, ir.Constant(count.type, LANES * n), list(column))
        return context.get_dummy_value()

    return types.void(left, right, of_left, of_right, best_left, best_right, groups, rows, vectors), generate


@intrinsic
def fold_pairs(
    _context: Any,
    left: Any,
    right: Any,
    of_left: Any,
    of_right: Any,
    best_left: Any,
    best_right: Any,
    pitch: Any,
    groups: Any,
    rows: Any,
    vectors: Any,
) -> Any:
    """Multiply a micro tile and fold each of its entries into two arrays of maxima of the same shape.

    Args:
        left, right, of_left, of_right, groups: as in `fold_products`.
        best_left, best_right: pointers to maxima (rows, pitch).
        pitch: of their rows.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        *operands, best_a, best_b, step, count = arguments[:8]
        products = _half_squares(builder, operands, count, (len(rows), len(vectors)))
        for m, row in enumerate(products):
            for n, value in enumerate(row):
                at = builder.mul(step, ir.Constant(step.type, m))
                at = builder.add(at, ir.Constant(step.type, LANES * n))
                _fold(builder, best_a, at, [value])
                _fold(builder, best_b, at, [value])
        return context.get_dummy_value()

    arguments = left, right, of_left, of_right, best_left, best_right, pitch, groups, rows, vectors
    return types.void(*arguments), generate


@intrinsic
def fold_values(_context: Any, values: Any, constant: Any, constants: Any, best: Any, best_of_each: Any) -> Any:
    """Add a constant and 16 others to 16 int32 and fold the sums into two vectors of maxima; all are pointers but one.

    On any CPU: numba's own int32 sums are int64, which LLVM does not vectorise.
    """

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        zero = ir.Constant(ir.IntType(64), 0)
        value = builder.add(_load(builder, arguments[0], zero), _load(builder, arguments[2], zero))
        value = builder.add(value, _splat(builder, arguments[1]))
        for target in arguments[3:]:
            _fold(builder, target, zero, [value])
        return context.get_dummy_value()

    return types.void(values, types.int32, constants, best, best_of_each), generate


@intrinsic
def largest_of_each(_context: Any, source: Any, target: Any) -> Any:
    """Store the largest lane of each of 16 vectors at a pointer as 16 int32 at another."""

    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        values = [_load(builder, arguments[0], ir.Constant(ir.IntType(64), LANES * m)) for m in range(LANES)]
        width = LANES // 2
        while width:  # a vector then holds the maxima of two before it, each of half as many lanes
            low = [t + lane for t in range(0, 2 * LANES, 2 * width) for lane in range(width)]
            high = [lane + width for lane in low]
            values = [
                _larger(
                    builder,
                    builder.shuffle_vector(first, second, _lanes(low)),
                    builder.shuffle_vector(first, second, _lanes(high)),
                )
                for first, second in zip(values[::2], values[1::2], strict=True)
            ]
            width //= 2
        builder.store(values[0], builder.bitcast(arguments[1], _INTS.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(source, target), generate


@intrinsic
def ahead(_context: Any, source: Any, count: Any) -> Any:
    """Return a pointer some values after another."""

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return source(source, count), generate
