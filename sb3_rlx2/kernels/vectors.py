"""Vector instructions for compiled functions: what Numba's own loops do not reach.

Everything works on plain addresses (int64), so that all callers share one compiled version. ``LANES`` floats make one
vector; LLVM splits it where the CPU's registers are shorter.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, cast

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as numba_intrinsic

LANES = 16
FLOAT_BYTES = 4
VECTOR_BYTES = LANES * FLOAT_BYTES

BYTE, INT32, INT64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
FLOAT, DOUBLE = ir.FloatType(), ir.DoubleType()
VECTOR, INT_VECTOR = ir.VectorType(FLOAT, LANES), ir.VectorType(INT32, LANES)

NUMBA_TYPES: dict[Any, Any] = {INT32: types.int32, INT64: types.int64, FLOAT: types.float32, DOUBLE: types.float64}

Builder = Any
Value = Any
Emitter = Callable[..., Value]


def intrinsic(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a function that emits LLVM code callable from compiled functions.

    :param result: LLVM type of the result; None: nothing
    :param arguments: LLVM types of the arguments
    :return: a decorator for ``emit(builder, *values)``
    """

    def decorate(emit: Emitter) -> Callable[..., Any]:
        numba_types = [NUMBA_TYPES[argument] for argument in arguments]
        signature = (types.void if result is None else NUMBA_TYPES[result])(*numba_types)

        def typing(context: Any, *_: Any) -> Any:
            def codegen(context: Any, builder: Builder, signature: Any, values: Sequence[Value]) -> Value:
                value = emit(builder, *values)
                return context.get_dummy_value() if result is None else value

            return signature, codegen

        typing.__name__, typing.__doc__ = emit.__name__, emit.__doc__
        # Numba asks for the names of the arguments; the first of both functions is no argument
        parameters = [parameter.replace(annotation=Any) for parameter in inspect.signature(emit).parameters.values()]
        cast(Any, typing).__signature__ = inspect.Signature(parameters)
        return cast(Callable[..., Any], numba_intrinsic(typing))

    return decorate


# --- emitters: parts of intrinsics ---


def int64(value: int) -> Value:
    """A constant."""
    return ir.Constant(INT64, value)


def constant(value: float) -> Value:
    """A vector that holds one number everywhere."""
    return ir.Constant(VECTOR, [value] * LANES)


def pointer(b: Builder, address: Value, kind: Any, offset: int = 0) -> Value:
    """Pointer to ``kind`` at ``address`` plus a constant number of bytes."""
    return b.inttoptr(b.add(address, int64(offset)) if offset else address, kind.as_pointer())


def load(b: Builder, address: Value, kind: Any, index: Value) -> Value:
    """The ``index``-th number of an array."""
    return b.load(b.gep(pointer(b, address, kind), [index]))


def load_vector(b: Builder, address: Value, offset: int = 0) -> Value:
    """LANES floats."""
    return b.load(pointer(b, address, VECTOR, offset), align=FLOAT_BYTES)


def store_vector(b: Builder, value: Value, address: Value, offset: int = 0) -> None:
    """Store LANES floats."""
    b.store(value, pointer(b, address, VECTOR, offset), align=FLOAT_BYTES)


def splat(b: Builder, scalar: Value, lanes: int = LANES) -> Value:
    """A vector of ``lanes`` copies of a number."""
    undefined = ir.Constant(ir.VectorType(scalar.type, lanes), ir.Undefined)
    one = b.insert_element(undefined, scalar, ir.Constant(INT32, 0))
    return b.shuffle_vector(one, undefined, ir.Constant(ir.VectorType(INT32, lanes), [0] * lanes))


def shuffle(b: Builder, x: Value, y: Value, lanes: Sequence[int]) -> Value:
    """Pick lanes out of two vectors."""
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(INT32, len(lanes)), list(lanes)))


def call(b: Builder, name: str, result: Any, *values: Value) -> Value:
    """Call an LLVM intrinsic."""
    kind = ir.FunctionType(result, [value.type for value in values])
    return b.call(cgutils.get_or_insert_function(b.module, kind, name), values)


def multiply_add(b: Builder, x: Value, y: Value, z: Value) -> Value:
    """X * y + z, rounded once."""
    return call(b, f"llvm.fma.v{LANES}f32", VECTOR, x, y, z)


def sum_lanes(b: Builder, vectors: Sequence[Value]) -> Value:
    """The sum of each of some vectors (a power of 2 of them, at most LANES), as one shorter vector.

    Halves are added while two vectors are merged into one, so that no lane is idle.
    """
    count, parts, width = len(vectors), list(vectors), LANES
    while width > 1:
        half, is_last = width // 2, len(parts) == 1
        low = [start + i for start in range(0, count * width if is_last else 2 * LANES, width) for i in range(half)]
        pairs = [(parts[0], parts[0])] if is_last else [(parts[i], parts[i + 1]) for i in range(0, len(parts), 2)]
        parts = [b.fadd(shuffle(b, x, y, low), shuffle(b, x, y, [i + half for i in low])) for x, y in pairs]
        width = half
    return parts[0]


def polynomial(b: Builder, x: Value, coefficients: Sequence[float]) -> Value:
    """A polynomial, highest power first."""
    value = constant(coefficients[0])
    for coefficient in coefficients[1:]:
        value = multiply_add(b, value, x, constant(coefficient))
    return value


# Polynomials: Cephes Mathematical Library (Moshier), single precision; errors stay below 2 units in the last place.


def exponential(b: Builder, x: Value) -> Value:
    """exp(x), clamped to what a float holds; NaN stays NaN."""
    low, high = constant(-87.3), constant(88.7)
    x = b.select(b.fcmp_ordered("<", x, low), low, x)
    x = b.select(b.fcmp_ordered(">", x, high), high, x)
    n = call(b, f"llvm.rint.v{LANES}f32", VECTOR, b.fmul(x, constant(1.4426950408889634)))
    rest = multiply_add(b, n, constant(-0.693359375), x)
    rest = multiply_add(b, n, constant(2.12194440e-4), rest)
    tail = polynomial(
        b, rest, [1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1]
    )
    value = b.fadd(multiply_add(b, tail, b.fmul(rest, rest), rest), constant(1.0))
    # 2^n in two factors: n may be 128, which is no exponent of a float
    bits = call(b, f"llvm.fptosi.sat.v{LANES}i32.v{LANES}f32", INT_VECTOR, n)
    half = b.ashr(bits, ir.Constant(INT_VECTOR, [1] * LANES))
    for power in (half, b.sub(bits, half)):
        exponent = b.shl(b.add(power, ir.Constant(INT_VECTOR, [127] * LANES)), ir.Constant(INT_VECTOR, [23] * LANES))
        value = b.fmul(value, b.bitcast(exponent, VECTOR))
    return value


def hyperbolic_tangent(b: Builder, x: Value) -> Value:
    """tanh(x)."""
    size = call(b, f"llvm.fabs.v{LANES}f32", VECTOR, x)
    square = b.fmul(x, x)
    series = polynomial(
        b,
        square,
        [-5.70498872745e-3, 2.06390887954e-2, -5.37397155531e-2, 1.33314422036e-1, -3.33332819422e-1],
    )
    small = multiply_add(b, b.fmul(series, square), x, x)
    power = exponential(b, b.fadd(size, size))
    large = b.fsub(constant(1.0), b.fdiv(constant(2.0), b.fadd(power, constant(1.0))))
    large = call(b, f"llvm.copysign.v{LANES}f32", VECTOR, large, x)
    return b.select(b.fcmp_ordered("<", size, constant(0.625)), small, large)


def error_function(b: Builder, x: Value) -> Value:
    """erf(x), by 7.1.26 of Abramowitz & Stegun; its error stays below 2e-7."""
    size = call(b, f"llvm.fabs.v{LANES}f32", VECTOR, x)
    t = b.fdiv(constant(1.0), multiply_add(b, constant(0.3275911), size, constant(1.0)))
    series = polynomial(b, t, [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592])
    tail = b.fmul(b.fmul(series, t), exponential(b, b.fsub(constant(0.0), b.fmul(x, x))))
    return call(b, f"llvm.copysign.v{LANES}f32", VECTOR, b.fsub(constant(1.0), tail), x)


def natural_logarithm(b: Builder, x: Value) -> Value:
    """log(x) for positive normal numbers; NaN stays NaN."""
    bits = b.bitcast(x, INT_VECTOR)
    exponent = b.sub(b.lshr(bits, ir.Constant(INT_VECTOR, [23] * LANES)), ir.Constant(INT_VECTOR, [126] * LANES))
    fraction = b.or_(
        b.and_(bits, ir.Constant(INT_VECTOR, [0x007FFFFF] * LANES)), ir.Constant(INT_VECTOR, [0x3F000000] * LANES)
    )
    m = b.bitcast(fraction, VECTOR)
    is_low = b.fcmp_ordered("<", m, constant(0.707106781186547524))
    n = b.fsub(b.sitofp(exponent, VECTOR), b.select(is_low, constant(1.0), constant(0.0)))
    m = b.fsub(b.fadd(m, b.select(is_low, m, constant(0.0))), constant(1.0))
    square = b.fmul(m, m)
    series = polynomial(
        b,
        m,
        [
            7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
            -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
        ],
    )  # fmt: skip
    value = b.fmul(b.fmul(m, square), series)
    value = multiply_add(b, n, constant(-2.12194440e-4), value)
    value = multiply_add(b, square, constant(-0.5), value)
    value = multiply_add(b, n, constant(0.693359375), b.fadd(m, value))
    return b.select(b.fcmp_unordered("uno", x, x), x, value)


# --- intrinsics of general use ---


@intrinsic(INT64, INT64, INT64)
def load_int64(b: Builder, address: Value, index: Value) -> Value:
    """The index-th int64 of an array."""
    return load(b, address, INT64, index)


@intrinsic(INT64, INT64, INT64)
def load_int32(b: Builder, address: Value, index: Value) -> Value:
    """The index-th int32 of an array, as int64."""
    return b.sext(load(b, address, INT32, index), INT64)


@intrinsic(FLOAT, INT64, INT64)
def load_float(b: Builder, address: Value, index: Value) -> Value:
    """The index-th float of an array."""
    return load(b, address, FLOAT, index)


@intrinsic(DOUBLE, INT64, INT64)
def load_double(b: Builder, address: Value, index: Value) -> Value:
    """The index-th double of an array."""
    return load(b, address, DOUBLE, index)


@intrinsic(None, INT64, INT64, INT64)
def store_int64(b: Builder, address: Value, index: Value, value: Value) -> None:
    """Set the index-th int64 of an array."""
    b.store(value, b.gep(pointer(b, address, INT64), [index]))


@intrinsic(None, INT64, INT64, FLOAT)
def store_float(b: Builder, address: Value, index: Value, value: Value) -> None:
    """Set the index-th float of an array."""
    b.store(value, b.gep(pointer(b, address, FLOAT), [index]))


@intrinsic(None, INT64, INT64, DOUBLE)
def store_double(b: Builder, address: Value, index: Value, value: Value) -> None:
    """Set the index-th double of an array."""
    b.store(value, b.gep(pointer(b, address, DOUBLE), [index]))


@intrinsic(None, INT64, INT64, INT64)
def copy_floats(b: Builder, source: Value, target: Value, count: Value) -> None:
    """Copy floats to memory that does not overlap theirs."""
    at = BYTE.as_pointer()
    kind = ir.FunctionType(ir.VoidType(), [at, at, INT64, ir.IntType(1)])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.memcpy.p0.p0.i64")
    size = b.mul(count, int64(FLOAT_BYTES))
    b.call(function, [pointer(b, target, BYTE), pointer(b, source, BYTE), size, ir.Constant(ir.IntType(1), 0)])


@intrinsic(None, INT64)
def prefetch(b: Builder, address: Value) -> None:
    """Tell the CPU that the cache line at an address will be read soon."""
    kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), INT32, INT32, INT32])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.prefetch.p0")
    b.call(function, [pointer(b, address, BYTE), *(ir.Constant(INT32, i) for i in (0, 3, 1))])


@intrinsic(None, INT64, INT64)
def fill_zero(b: Builder, address: Value, count: Value) -> None:
    """Set floats to zero."""
    kind = ir.FunctionType(ir.VoidType(), [BYTE.as_pointer(), BYTE, INT64, ir.IntType(1)])
    function = cgutils.get_or_insert_function(b.module, kind, "llvm.memset.p0.i64")
    size = b.mul(count, int64(FLOAT_BYTES))
    b.call(function, [pointer(b, address, BYTE), ir.Constant(BYTE, 0), size, ir.Constant(ir.IntType(1), 0)])


def _map(function: Callable[[Builder, Value], Value]) -> Callable[..., Any]:
    """An intrinsic (source, target, count) that applies an emitter to a multiple of LANES floats."""

    def emit(b: Builder, source: Value, target: Value, count: Value) -> None:
        with cgutils.for_range_slice(b, int64(0), b.mul(count, int64(FLOAT_BYTES)), int64(VECTOR_BYTES)) as (at, _):
            store_vector(b, function(b, load_vector(b, b.add(source, at))), b.add(target, at))

    emit.__name__, emit.__doc__ = function.__name__, function.__doc__
    return intrinsic(None, INT64, INT64, INT64)(emit)


exp_floats = _map(exponential)
tanh_floats = _map(hyperbolic_tangent)
log_floats = _map(natural_logarithm)


@intrinsic(None, INT64, INT64, INT64, INT64)
def sum_floats(b: Builder, x: Value, y: Value, target: Value, count: Value) -> None:
    """``target = x + y`` for a multiple of LANES floats."""
    with cgutils.for_range_slice(b, int64(0), b.mul(count, int64(FLOAT_BYTES)), int64(VECTOR_BYTES)) as (at, _):
        total = b.fadd(load_vector(b, b.add(x, at)), load_vector(b, b.add(y, at)))
        store_vector(b, total, b.add(target, at))


@intrinsic(None, INT64, INT64, INT64, INT64)
def add_floats(b: Builder, x: Value, target: Value, count: Value, adds: Value) -> None:
    """``target += x``, or ``target = x`` where ``adds`` is 0, for a multiple of LANES floats."""
    is_adding = splat(b, b.icmp_signed("!=", adds, int64(0)))
    with cgutils.for_range_slice(b, int64(0), b.mul(count, int64(FLOAT_BYTES)), int64(VECTOR_BYTES)) as (at, _):
        before = b.select(is_adding, load_vector(b, b.add(target, at)), constant(0.0))
        store_vector(b, b.fadd(load_vector(b, b.add(x, at)), before), b.add(target, at))
