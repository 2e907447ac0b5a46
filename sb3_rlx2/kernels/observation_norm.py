"""Running statistics of observations, and normalization of one tile of these, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from llvmlite import ir
from numba.core import cgutils

from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import ROW_BYTES
from sb3_rlx2.kernels.vectors import (
    DOUBLE,
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
    load_double,
    load_vector,
    multiply_add,
    splat,
    store_double,
    store_vector,
)


@compiled
def update_statistics(x: int, samples: int, size: int, mean: int, variance: int, count: int) -> None:
    """Count samples in, one after the other (Welford, 1962). All memory is float64.

    :param x: address of the samples, [samples, size]
    :param samples: how many
    :param size: number of features
    :param mean: address of the running mean, [size]
    :param variance: address of the running variance, [size]
    :param count: address of the number of samples so far
    """
    total = load_double(count, 0)
    for sample in range(samples):
        before, total = total, total + 1.0
        for i in range(size):
            old = load_double(mean, i)
            delta = load_double(x, sample * size + i) - old
            store_double(mean, i, old + delta / total)
            spread = load_double(variance, i) + delta * delta / total
            store_double(variance, i, spread * (before / total))
    store_double(count, 0, total)


_DOUBLES = ir.VectorType(DOUBLE, LANES)


def _row(b: Builder, feature: Value, start: Value | None = None) -> Value:
    return b.mul(feature if start is None else b.sub(feature, start), int64(ROW_BYTES))


class _Feature:
    """What normalizes one feature, in double precision: float32 could not tell apart numbers far from zero."""

    def __init__(self, b: Builder, mean: Value, variance: Value, epsilon: Value, clip: Value, feature: Value) -> None:
        root = call(b, "llvm.sqrt.f64", DOUBLE, b.fadd(load(b, variance, DOUBLE, feature), epsilon))
        self._b, self._mean = b, splat(b, load(b, mean, DOUBLE, feature))
        self.rate = splat(b, b.fdiv(ir.Constant(DOUBLE, 1.0), root))
        self._high, self._low = splat(b, clip), splat(b, b.fsub(ir.Constant(DOUBLE, 0.0), clip))

    def clipped(self, x: Value) -> tuple[Value, Value]:
        """Normalized numbers within the bounds, and whether they were outside; NaN stays NaN."""
        b = self._b
        value = b.fmul(b.fsub(b.fpext(x, _DOUBLES), self._mean), self.rate)
        is_low, is_high = b.fcmp_ordered("<", value, self._low), b.fcmp_ordered(">", value, self._high)
        clipped = b.select(is_low, self._low, b.select(is_high, self._high, value))
        return b.fptrunc(clipped, VECTOR), b.or_(is_low, is_high)


@intrinsic(None, *[INT64] * 6, DOUBLE, DOUBLE)
def observation_norm(
    b: Builder, x: Value, y: Value, normalized: Value, count: Value, mean: Value, variance: Value, epsilon: Value,
    clip: Value,
) -> None:  # fmt: skip
    """``y = (x - mean) / sqrt(variance + epsilon)`` within -clip .. clip for the first ``normalized`` features.

    The others, up to ``count``, are copied. Mean and variance are float64.
    """

    def vectors(feature: Value) -> Iterator[tuple[Value, Value, int]]:
        """Each vector of a row, and where its result goes."""
        row = _row(b, feature)
        for offset in range(0, ROW_BYTES, VECTOR_BYTES):
            yield load_vector(b, b.add(x, row), offset), b.add(y, row), offset

    with cgutils.for_range_slice(b, int64(0), normalized, int64(1)) as (feature, _):
        norm = _Feature(b, mean, variance, epsilon, clip, feature)
        for value, to, offset in vectors(feature):
            store_vector(b, norm.clipped(value)[0], to, offset)
    with cgutils.for_range_slice(b, normalized, count, int64(1)) as (feature, _):
        for value, to, offset in vectors(feature):
            store_vector(b, value, to, offset)


@intrinsic(None, *[INT64] * 8, DOUBLE, DOUBLE, INT64)
def observation_norm_input_gradient(
    b: Builder, x: Value, g: Value, dx: Value, start: Value, stop: Value, normalized: Value, mean: Value,
    variance: Value, epsilon: Value, clip: Value, adds: Value,
) -> None:  # fmt: skip
    """Gradient of the inputs start .. stop of ``observation_norm``; added to ``dx`` where ``adds`` is not 0."""
    is_adding = splat(b, b.icmp_signed("!=", adds, int64(0)))

    def write(feature: Value, slope: Callable[[int], Value]) -> None:
        """Write a row, given the slope of each of its vectors."""
        to, row = b.add(dx, _row(b, feature, start)), b.add(g, _row(b, feature))
        for offset in range(0, ROW_BYTES, VECTOR_BYTES):
            before = b.select(is_adding, load_vector(b, to, offset), constant(0.0))
            store_vector(b, multiply_add(b, load_vector(b, row, offset), slope(offset), before), to, offset)

    middle = b.select(b.icmp_signed("<", normalized, stop), normalized, stop)
    with cgutils.for_range_slice(b, start, middle, int64(1)) as (feature, _):
        norm, row = _Feature(b, mean, variance, epsilon, clip, feature), b.add(x, _row(b, feature))
        rate = b.fptrunc(norm.rate, VECTOR)
        write(feature, lambda offset: b.select(norm.clipped(load_vector(b, row, offset))[1], constant(0.0), rate))
    middle = b.select(b.icmp_signed(">", start, normalized), start, normalized)
    with cgutils.for_range_slice(b, middle, stop, int64(1)) as (feature, _):
        write(feature, lambda _: constant(1.0))
