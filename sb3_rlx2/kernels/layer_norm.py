"""Layer normalization of one tile of a batch (Ba, Kiros, Hinton, 2016), compiled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from llvmlite import ir
from numba.core import cgutils

from sb3_rlx2.kernels.products import PARTS, ROW_BYTES
from sb3_rlx2.kernels.vectors import (
    FLOAT,
    INT32,
    INT64,
    LANES,
    VECTOR,
    VECTOR_BYTES,
    Builder,
    Value,
    call,
    constant,
    int64,
    intrinsic,
    load,
    load_vector,
    multiply_add,
    pointer,
    splat,
    store_vector,
    sum_lanes,
)


def _for_each_feature(b: Builder, start: Value, stop: Value, body: Callable[[Value, Value], None]) -> None:
    """Emit ``body(feature, offset of its row)``."""
    with cgutils.for_range_slice(b, start, stop, int64(1)) as (feature, _):
        body(feature, b.mul(feature, int64(ROW_BYTES)))


def _sums(b: Builder, count: Value, terms: Callable[[Value, Value, int], Sequence[Value]], n: int) -> list[list[Value]]:
    """Sums over features of ``n`` terms, [n][PARTS] vectors; ``terms(feature, row offset, part)``."""
    slots = [[cgutils.alloca_once_value(b, constant(0.0)) for _ in range(PARTS)] for _ in range(n)]
    for row in slots:
        for slot in row:
            b.store(constant(0.0), slot)

    def add(feature: Value, row: Value) -> None:
        for part in range(PARTS):
            for slot, term in zip(slots, terms(feature, row, part), strict=True):
                b.store(b.fadd(b.load(slot[part]), term), slot[part])

    _for_each_feature(b, int64(0), count, add)
    return [[b.load(slot) for slot in row] for row in slots]


@intrinsic(None, INT64, INT64, INT64, INT64, INT64, FLOAT, INT64)
def layer_norm(
    b: Builder, x: Value, y: Value, count: Value, weights: Value, bias: Value, epsilon: Value, statistics: Value
) -> None:
    """``y = (x - mean) / sqrt(variance + epsilon) * weights + bias`` over the features of each sample.

    Leaves mean and reciprocal standard deviation, [2, TILE], in ``statistics``.
    """
    number = splat(b, b.uitofp(count, FLOAT))
    (totals,) = _sums(b, count, lambda _, row, i: [load_vector(b, b.add(x, row), i * VECTOR_BYTES)], 1)
    means = [b.fdiv(total, number) for total in totals]

    def squared(_: Value, row: Value, part: int) -> list[Value]:
        error = b.fsub(load_vector(b, b.add(x, row), part * VECTOR_BYTES), means[part])
        return [b.fmul(error, error)]

    (squares,) = _sums(b, count, squared, 1)
    eps, one = splat(b, epsilon), constant(1.0)
    rates = []
    for part, square in enumerate(squares):
        root = call(b, f"llvm.sqrt.v{LANES}f32", VECTOR, b.fadd(b.fdiv(square, number), eps))
        rates.append(b.fdiv(one, root))
        store_vector(b, means[part], statistics, part * VECTOR_BYTES)
        store_vector(b, rates[part], statistics, ROW_BYTES + part * VECTOR_BYTES)

    def write(feature: Value, row: Value) -> None:
        scale, offset = splat(b, load(b, weights, FLOAT, feature)), splat(b, load(b, bias, FLOAT, feature))
        for part in range(PARTS):
            normal = b.fmul(b.fsub(load_vector(b, b.add(x, row), part * VECTOR_BYTES), means[part]), rates[part])
            store_vector(b, multiply_add(b, normal, scale, offset), b.add(y, row), part * VECTOR_BYTES)

    _for_each_feature(b, int64(0), count, write)


@intrinsic(None, *[INT64] * 9)
def layer_norm_input_gradient(
    b: Builder, x: Value, g: Value, count: Value, weights: Value, statistics: Value, dx: Value, start: Value,
    stop: Value, adds: Value,
) -> None:  # fmt: skip
    """Gradient of the inputs start .. stop of ``layer_norm``; added to ``dx`` where ``adds`` is not 0."""
    means = [load_vector(b, statistics, part * VECTOR_BYTES) for part in range(PARTS)]
    rates = [load_vector(b, statistics, ROW_BYTES + part * VECTOR_BYTES) for part in range(PARTS)]
    number = splat(b, b.uitofp(count, FLOAT))

    def scaled(feature: Value, row: Value, part: int) -> tuple[Value, Value]:
        weight = splat(b, load(b, weights, FLOAT, feature))
        normal = b.fmul(b.fsub(load_vector(b, b.add(x, row), part * VECTOR_BYTES), means[part]), rates[part])
        return b.fmul(weight, load_vector(b, b.add(g, row), part * VECTOR_BYTES)), normal

    def terms(feature: Value, row: Value, part: int) -> list[Value]:
        slope, normal = scaled(feature, row, part)
        return [slope, b.fmul(slope, normal)]

    plain, projected = _sums(b, count, terms, 2)
    plain = [b.fdiv(total, number) for total in plain]
    projected = [b.fdiv(total, number) for total in projected]
    is_adding, first = splat(b, b.icmp_signed("!=", adds, int64(0))), b.mul(start, int64(ROW_BYTES))

    def write(feature: Value, row: Value) -> None:
        for part in range(PARTS):
            slope, normal = scaled(feature, row, part)
            value = b.fsub(b.fsub(slope, plain[part]), b.fmul(normal, projected[part]))
            to = b.add(dx, b.sub(row, first))
            before = b.select(is_adding, load_vector(b, to, part * VECTOR_BYTES), constant(0.0))
            store_vector(b, multiply_add(b, value, rates[part], before), to, part * VECTOR_BYTES)

    _for_each_feature(b, start, stop, write)


@intrinsic(None, *[INT64] * 6)
def layer_norm_weight_gradient(
    b: Builder, x: Value, g: Value, count: Value, statistics: Value, weights_out: Value, bias_out: Value
) -> None:
    """Add the gradients of weights and bias of ``layer_norm``."""
    means = [load_vector(b, statistics, part * VECTOR_BYTES) for part in range(PARTS)]
    rates = [load_vector(b, statistics, ROW_BYTES + part * VECTOR_BYTES) for part in range(PARTS)]

    def add(feature: Value, row: Value) -> None:
        total, projected = constant(0.0), constant(0.0)
        for part in range(PARTS):
            slope = load_vector(b, b.add(g, row), part * VECTOR_BYTES)
            normal = b.fmul(b.fsub(load_vector(b, b.add(x, row), part * VECTOR_BYTES), means[part]), rates[part])
            total, projected = b.fadd(total, slope), multiply_add(b, slope, normal, projected)
        for address, value in ((weights_out, projected), (bias_out, total)):
            slot = b.gep(pointer(b, address, FLOAT), [feature])
            lane = b.extract_element(sum_lanes(b, [value]), ir.Constant(INT32, 0))
            b.store(b.fadd(b.load(slot), lane), slot)

    _for_each_feature(b, int64(0), count, add)
