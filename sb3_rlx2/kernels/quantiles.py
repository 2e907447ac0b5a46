"""Quantiles of one tile of a batch: sorting them, and the Huber quantile regression loss, compiled."""

from __future__ import annotations

from numba.core import cgutils

from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import PARTS, ROW_BYTES
from sb3_rlx2.kernels.vectors import (
    FLOAT,
    INT64,
    VECTOR_BYTES,
    Builder,
    Value,
    constant,
    int64,
    intrinsic,
    load_vector,
    multiply_add,
    splat,
    store_vector,
)


@intrinsic(None, INT64, INT64)
def _order_rows(b: Builder, low: Value, high: Value) -> None:
    """Exchange two rows in the samples in which the first is not the lower one. NaN stays in one of them."""
    for i in range(PARTS):
        x, y = load_vector(b, low, i * VECTOR_BYTES), load_vector(b, high, i * VECTOR_BYTES)
        is_lower = b.fcmp_ordered("<", x, y)
        store_vector(b, b.select(is_lower, x, y), low, i * VECTOR_BYTES)
        store_vector(b, b.select(is_lower, y, x), high, i * VECTOR_BYTES)


@compiled
def sort_rows(rows: int, count: int) -> None:
    """Sort the numbers of each sample, lowest first: a network of comparisons (Batcher's merge exchange).

    Knuth, The Art of Computer Programming, volume 3, 5.2.2, algorithm M.

    :param rows: [count, TILE]
    :param count: number of rows
    """
    top = 1
    while 2 * top < count:
        top *= 2
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            for i in range(count - d):
                if i & p == r:
                    _order_rows(rows + i * ROW_BYTES, rows + (i + d) * ROW_BYTES)
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2


@intrinsic(None, INT64, INT64, INT64, FLOAT, INT64, INT64)
def _quantile_row(
    b: Builder, q: Value, targets: Value, n_targets: Value, probability: Value, gradient: Value, loss: Value
) -> None:
    """Loss and negative gradient of one quantile, summed over the targets; the loss is added to what stands there."""
    one, half, zero = constant(1.0), constant(0.5), constant(0.0)
    above = splat(b, probability)
    below = b.fsub(one, above)
    values = [load_vector(b, q, i * VECTOR_BYTES) for i in range(PARTS)]
    gradients = [cgutils.alloca_once_value(b, zero) for _ in range(PARTS)]
    losses = [cgutils.alloca_once_value(b, zero) for _ in range(PARTS)]
    for i in range(PARTS):
        b.store(zero, gradients[i])
        b.store(load_vector(b, loss, i * VECTOR_BYTES), losses[i])
    with cgutils.for_range_slice(b, int64(0), n_targets, int64(1)) as (j, _):
        row = b.add(targets, b.mul(j, int64(ROW_BYTES)))
        for i in range(PARTS):
            delta = b.fsub(load_vector(b, row, i * VECTOR_BYTES), values[i])
            limited = b.select(b.fcmp_ordered(">", delta, one), one, delta)
            limited = b.select(b.fcmp_ordered("<", limited, b.fneg(one)), b.fneg(one), limited)
            slope = b.fmul(b.select(b.fcmp_ordered("<", delta, zero), below, above), limited)
            b.store(b.fadd(b.load(gradients[i]), slope), gradients[i])
            # Huber's loss: limited * (delta - limited / 2)
            rest = multiply_add(b, b.fneg(half), limited, delta)
            b.store(multiply_add(b, slope, rest, b.load(losses[i])), losses[i])
    for i in range(PARTS):
        store_vector(b, b.load(gradients[i]), gradient, i * VECTOR_BYTES)
        store_vector(b, b.load(losses[i]), loss, i * VECTOR_BYTES)


@compiled
def quantile_errors(n_quantiles: int, q: int, targets: int, n_targets: int, gradients: int, loss: int) -> None:
    """Huber quantile regression of a network's quantiles on targets (TQC, Kuznetsov et al., 2020, eq. 7).

    ``Σ |τ - 1(δ < 0)| Huber(δ)`` over quantiles and targets, ``δ = target - quantile``, with the threshold 1.

    :param n_quantiles: number of quantiles
    :param q: quantiles, [n_quantiles, TILE]
    :param targets: [n_targets, TILE]
    :param n_targets: number of targets
    :param gradients: where the *negative* gradients of the sums go, as ``q``
    :param loss: where the sums of each sample are added, [TILE]
    """
    for i in range(n_quantiles):
        at = i * ROW_BYTES
        _quantile_row(q + at, targets, n_targets, (i + 0.5) / n_quantiles, gradients + at, loss)
