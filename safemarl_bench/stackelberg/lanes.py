"""Vector registers for functions that numba compiles: of loops over short rows, LLVM by itself makes scalar code.

A value of type `Lanes` is 32 bytes of one float type (8 float32 or 4 float64), a register of AVX2; elsewhere LLVM
splits it or leaves room. Wide ones are two of the largest registers of the processor: more per instruction for long
rows, slower for rows of a few numbers. Comparisons give masks. Operators are ``+ - *``, ``<= < == >`` (false where an
operand is NaN) and, on masks, ``& |``; they and the functions below exist in compiled code only. What reads a table, a
contiguous array, takes a flat index and checks no bounds.

numba's cache on disk does not notice edits of this file: touch the file of the functions that use it, too.
"""

# mypy: disable-error-code="no-untyped-call,untyped-decorator"
from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numba.extending
from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.np import arrayobj

WIDTH = 32
"""Bytes of a vector."""
WIDE = 128 if binding.get_host_cpu_features().get("avx512f") else 64
"""Bytes of a wide one."""

_INDEX = ir.IntType(32)
_FLOATS = {32: ir.FloatType(), 64: ir.DoubleType()}


class Lanes(types.Type):
    """numba's type of a vector of floats, or of the mask over one, whose lanes are all ones or all zeros.

    Attributes:
        element: numba's type of a lane of the vector, or of what the mask is over.
        mask: whether it is a mask.
        size: bytes.
        count: how many lanes there are.
        vector: LLVM's type.
    """

    def __init__(self, element: Any, *, mask: bool = False, size: int = WIDTH) -> None:
        """See the class."""
        bits = element.bitwidth
        self.element, self.mask, self.size, self.count = element, mask, size, size * 8 // bits
        self.vector = ir.VectorType(ir.IntType(bits) if mask else _FLOATS[bits], self.count)
        super().__init__(name=f"{'Mask' if mask else 'Lanes'}({element}, {size})")


@numba.extending.register_model(Lanes)
class _Model(numba.extending.models.PrimitiveModel):
    def __init__(self, manager: Any, lanes: Lanes) -> None:
        super().__init__(manager, lanes, lanes.vector)


def _intrinsic(function: Callable[..., Any]) -> Any:
    """Make a compiled function of one that gives, for numba's types of its arguments, signature and code generator."""
    return numba.extending.intrinsic(function)


def _operator(function: Any, build: Callable[..., Any], *, arity: int = 2, compares: bool = False) -> None:
    """Let compiled code apply an operator to vectors, or to masks, by the instruction that `build` appends."""

    @infer_global(function)
    class _Template(AbstractTemplate):
        def generic(self, args: Any, keywords: Any) -> Any:
            if len(args) != arity or not isinstance(args[0], Lanes) or args[0] != args[-1]:
                return None
            return signature(Lanes(args[0].element, mask=True, size=args[0].size) if compares else args[0], *args)

    @numba.extending.lower_builtin(function, *[Lanes] * arity)
    def _lower(context: Any, builder: Any, form: Any, args: Any) -> Any:
        found = build(builder, *args)
        return builder.sext(found, form.return_type.vector) if compares else found


_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_operator(operator.neg, lambda builder, a: builder.fneg(a), arity=1)
_operator(operator.and_, lambda builder, a, b: builder.and_(a, b))
_operator(operator.or_, lambda builder, a, b: builder.or_(a, b))
_operator(operator.le, lambda builder, a, b: builder.fcmp_ordered("<=", a, b), compares=True)
_operator(operator.lt, lambda builder, a, b: builder.fcmp_ordered("<", a, b), compares=True)
_operator(operator.eq, lambda builder, a, b: builder.fcmp_ordered("==", a, b), compares=True)
_operator(operator.gt, lambda builder, a, b: builder.fcmp_ordered(">", a, b), compares=True)


def _spread(builder: Any, value: Any, count: int) -> Any:
    """Append a vector whose lanes all are `value`."""
    undefined = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    zeros = ir.Constant(ir.VectorType(_INDEX, count), [0] * count)
    return builder.shuffle_vector(builder.insert_element(undefined, value, _INDEX(0)), undefined, zeros)


def _truth(builder: Any, mask: Any) -> Any:
    """Append the mask as bits, which is what LLVM selects by."""
    return builder.icmp_signed("<", mask, ir.Constant(mask.type, [0] * mask.type.count))


def _address(context: Any, builder: Any, table: Any, args: Any, lanes: Lanes) -> Any:
    """Append the address of the entry ``args[1]`` of the table ``args[0]`` of type `table`, as that of a vector."""
    data = arrayobj.make_array(table)(context, builder, args[0]).data
    return builder.bitcast(builder.gep(data, [args[1]]), lanes.vector.as_pointer())


@_intrinsic
def width(typing: Any, table: Any) -> Any:
    """``width(table)``: how many entries of a table are a vector, a constant."""
    count = Lanes(table.dtype).count
    return types.intp(table), lambda context, builder, form, args: context.get_constant(types.intp, count)


def _makers(size: int) -> tuple[Any, Any, Any]:
    """Return `splat`, `load` and `spread`, which make vectors of `size` bytes."""

    @_intrinsic
    def splat(typing: Any, table: Any, value: Any) -> Any:
        """``splat(table, value)``: a vector of `table`'s float type, all lanes `value` rounded to it."""
        lanes = Lanes(table.dtype, size=size)

        def generate(context: Any, builder: Any, form: Any, args: Any) -> Any:
            return _spread(builder, context.cast(builder, args[1], value, lanes.element), lanes.count)

        return lanes(table, value), generate

    @_intrinsic
    def load(typing: Any, table: Any, at: Any) -> Any:
        """``load(table, at)``: the entries from the flat index `at` on."""
        lanes = Lanes(table.dtype, size=size)

        def generate(context: Any, builder: Any, form: Any, args: Any) -> Any:
            address = _address(context, builder, table, args, lanes)
            return builder.load(address, align=lanes.element.bitwidth // 8)

        return lanes(table, types.intp), generate

    @_intrinsic
    def spread(typing: Any, table: Any, at: Any) -> Any:
        """``spread(table, at)``: a vector, all lanes the entry at the flat index `at`."""
        lanes = Lanes(table.dtype, size=size)

        def generate(context: Any, builder: Any, form: Any, args: Any) -> Any:
            data = arrayobj.make_array(table)(context, builder, args[0]).data
            return _spread(builder, builder.load(builder.gep(data, [args[1]])), lanes.count)

        return lanes(table, types.intp), generate

    return splat, load, spread


splat, load, _ = _makers(WIDTH)
splat_wide, load_wide, spread_wide = _makers(WIDE)


@_intrinsic
def below(typing: Any, table: Any, n: Any) -> Any:
    """``below(table, n)``: the mask of the first n lanes."""
    lanes = Lanes(table.dtype, mask=True)

    def generate(context: Any, builder: Any, form: Any, args: Any) -> Any:
        numbers = ir.Constant(lanes.vector, list(range(lanes.count)))
        limit = context.cast(builder, args[1], n, types.int32 if lanes.element.bitwidth == 32 else types.int64)
        return builder.sext(builder.icmp_signed("<", numbers, _spread(builder, limit, lanes.count)), lanes.vector)

    return lanes(table, n), generate


@_intrinsic
def store(typing: Any, table: Any, at: Any, vector: Any) -> Any:
    """``store(table, at, vector)``: write a vector over the entries from the flat index `at` on."""

    def generate(context: Any, builder: Any, form: Any, args: Any) -> Any:
        builder.store(args[2], _address(context, builder, table, args, vector), align=vector.element.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(table, types.intp, vector), generate


@_intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """``fma(a, b, c)``: a * b + c of float32 numbers or vectors, rounded once."""
    vectors = isinstance(a, Lanes)
    kind: Any = a if vectors else types.float32
    suffix = f"v{kind.count}f{kind.element.bitwidth}" if vectors else "f32"

    def generate(context: Any, builder: Any, form: Any, args: Any) -> Any:
        form = ir.FunctionType(args[0].type, [args[0].type] * 3)
        return builder.call(cgutils.get_or_insert_function(builder.module, form, f"llvm.fma.{suffix}"), args)

    return kind(kind, kind, kind), generate


@_intrinsic
def load_some(typing: Any, table: Any, at: Any, mask: Any) -> Any:
    """``load_some(table, at, mask)``: the entries from `at` on where the mask holds, 0 elsewhere, unread."""
    lanes = Lanes(table.dtype)

    def generate(context: Any, builder: Any, form: Any, args: Any) -> Any:
        bits, vector = lanes.element.bitwidth, lanes.vector
        arguments = [
            _address(context, builder, table, args, lanes),
            _INDEX(bits // 8),
            _truth(builder, args[2]),
            ir.Constant(vector, [0.0] * lanes.count),
        ]
        function = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(vector, [argument.type for argument in arguments]),
            f"llvm.masked.load.v{lanes.count}f{bits}.p0",
        )
        return builder.call(function, arguments)

    return lanes(table, types.intp, mask), generate


@_intrinsic
def select(typing: Any, mask: Any, a: Any, b: Any) -> Any:
    """``select(mask, a, b)``: a where the mask holds, b elsewhere."""
    return a(mask, a, b), lambda context, builder, form, args: builder.select(_truth(builder, args[0]), *args[1:])


@_intrinsic
def larger(typing: Any, a: Any, b: Any) -> Any:
    """``larger(a, b)``: a where it is larger, b elsewhere."""
    return a(a, b), lambda context, builder, form, args: builder.select(builder.fcmp_ordered(">", *args), *args)


@_intrinsic
def unordered(typing: Any, a: Any, b: Any) -> Any:
    """``unordered(a, b)``: the mask of lanes in which one is NaN."""
    mask = Lanes(a.element, mask=True, size=a.size)
    return mask(a, b), lambda context, builder, form, args: builder.sext(
        builder.fcmp_unordered("uno", *args), mask.vector
    )


@_intrinsic
def spoil(typing: Any, total: Any, a: Any) -> Any:
    """``spoil(total, a)``: ``total + 0 * a``, which is NaN where it was or a is not finite."""

    def generate(context: Any, builder: Any, form: Any, args: Any) -> Any:
        nothing = builder.fmul(args[1], ir.Constant(a.vector, [0.0] * a.count), flags=["contract"])
        return builder.fadd(args[0], nothing, flags=["contract"])

    return total(total, a), generate


@_intrinsic
def least(typing: Any, a: Any) -> Any:
    """``least(a)``: a vector whose lanes all are the smallest of a."""
    return a(a), lambda context, builder, form, args: _reduce(builder, args[0], "<")


@_intrinsic
def largest(typing: Any, a: Any) -> Any:
    """``largest(a)``: a vector whose lanes all are the largest of a."""
    return a(a), lambda context, builder, form, args: _reduce(builder, args[0], ">")


def _reduce(builder: Any, vector: Any, better: str) -> Any:
    """Append comparisons of each lane with the one half the vector away, then a quarter, and so on."""
    undefined, distance = ir.Constant(vector.type, ir.Undefined), vector.type.count // 2
    while distance:
        lanes = [lane ^ distance for lane in range(vector.type.count)]
        other = builder.shuffle_vector(vector, undefined, ir.Constant(ir.VectorType(_INDEX, len(lanes)), lanes))
        vector = builder.select(builder.fcmp_ordered(better, vector, other), vector, other)
        distance //= 2
    return vector


@_intrinsic
def lane(typing: Any, a: Any) -> Any:
    """``lane(a)``: the first lane, a number."""
    return a.element(a), lambda context, builder, form, args: builder.extract_element(args[0], _INDEX(0))


@_intrinsic
def bits(typing: Any, mask: Any) -> Any:
    """``bits(mask)``: an int64 whose bit k says whether lane k holds."""

    def generate(context: Any, builder: Any, form: Any, args: Any) -> Any:
        return builder.zext(builder.bitcast(_truth(builder, args[0]), ir.IntType(mask.count)), ir.IntType(64))

    return types.int64(mask), generate


@_intrinsic
def count(typing: Any, word: Any) -> Any:
    """``count(word)``: how many bits of an int64 are set."""
    return types.int64(types.int64), lambda context, builder, form, args: builder.ctpop(args[0])


@_intrinsic
def first(typing: Any, word: Any) -> Any:
    """``first(word)``: the lowest set bit of an int64; 64 where none is."""
    return types.int64(types.int64), lambda context, builder, form, args: builder.cttz(args[0], ir.IntType(1)(0))
