"""The three products of a dense layer with one tile of a batch, compiled: register-blocked matrix products.

A block of rows of the result stays in registers while the inner dimension is walked, so that each vector that is loaded
serves as many multiply-adds as the block has rows.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils

from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import PARTS, ROW_BYTES, TILE, transpose_block
from sb3_rlx2.kernels.vectors import (
    FLOAT,
    FLOAT_BYTES,
    INT32,
    INT64,
    LANES,
    VECTOR_BYTES,
    Builder,
    Value,
    constant,
    int64,
    intrinsic,
    load_float,
    load_vector,
    multiply_add,
    pointer,
    splat,
    store_float,
    store_vector,
    sum_lanes,
)

BLOCK = 4
"""Rows of a block: with 4 vectors a row, 16 sums hide the latency of a multiply-add and fit into the registers."""
NOTHING, BIAS, ADD = range(3)


def _product(rows: int, vectors: int) -> Any:
    """A block ``c[r] = start[r] + Σ_k a[r, k] b[k]`` of rows of ``vectors * LANES`` floats; distances are in bytes."""

    def block(
        b: Builder, a: Value, a_row: Value, a_step: Value, x: Value, x_step: Value, count: Value, c: Value,
        c_row: Value, start: Value, bias: Value,
    ) -> None:  # fmt: skip
        targets = [b.add(c, b.mul(c_row, int64(r))) for r in range(rows)]
        zero = constant(0.0)
        sums = [[cgutils.alloca_once_value(b, zero) for _ in range(vectors)] for _ in range(rows)]
        for row in sums:
            for slot in row:
                b.store(zero, slot)
        with b.if_then(b.icmp_signed("==", start, int64(BIAS))):
            for r, row in enumerate(sums):
                value = splat(b, b.load(pointer(b, bias, FLOAT, r * FLOAT_BYTES)))
                for slot in row:
                    b.store(value, slot)
        with b.if_then(b.icmp_signed("==", start, int64(ADD))):
            for target, row in zip(targets, sums, strict=True):
                for v, slot in enumerate(row):
                    b.store(load_vector(b, target, v * VECTOR_BYTES), slot)
        with cgutils.for_range_slice(b, int64(0), count, int64(1)) as (k, _):
            inner, source = b.add(x, b.mul(x_step, k)), b.add(a, b.mul(a_step, k))
            parts = [load_vector(b, inner, v * VECTOR_BYTES) for v in range(vectors)]
            for r, row in enumerate(sums):
                weight = splat(b, b.load(pointer(b, b.add(source, b.mul(a_row, int64(r))), FLOAT)))
                for part, slot in zip(parts, row, strict=True):
                    b.store(multiply_add(b, weight, part, b.load(slot)), slot)
        for target, row in zip(targets, sums, strict=True):
            for v, slot in enumerate(row):
                store_vector(b, b.load(slot), target, v * VECTOR_BYTES)

    return intrinsic(None, *[INT64] * 10)(block)


@intrinsic(FLOAT, INT64, INT64, INT64)
def _dot(b: Builder, x: Value, y: Value, count: Value) -> Value:
    """The scalar product of two vectors of a multiple of LANES floats."""
    slot = cgutils.alloca_once_value(b, constant(0.0))
    b.store(constant(0.0), slot)
    with cgutils.for_range_slice(b, int64(0), b.mul(count, int64(FLOAT_BYTES)), int64(VECTOR_BYTES)) as (at, _):
        b.store(multiply_add(b, load_vector(b, b.add(x, at)), load_vector(b, b.add(y, at)), b.load(slot)), slot)
    return b.extract_element(sum_lanes(b, [b.load(slot)]), ir.Constant(INT32, 0))


@intrinsic(FLOAT, INT64)
def _sum_of_row(b: Builder, x: Value) -> Value:
    """The sum of a row of a tile."""
    total = load_vector(b, x)
    for part in range(1, PARTS):
        total = b.fadd(total, load_vector(b, x, part * VECTOR_BYTES))
    return b.extract_element(sum_lanes(b, [total]), ir.Constant(INT32, 0))


_wide_block, _wide_row = _product(BLOCK, PARTS), _product(1, PARTS)
_narrow_block, _narrow_row = _product(BLOCK, 1), _product(1, 1)


@compiled
def _rows_of_tile(
    n_rows: int, a: int, a_row: int, a_step: int, x: int, count: int, y: int, start: int, bias: int
) -> None:
    """``y[r] = start[r] + Σ_k a[r, k] x[k]`` for rows of a tile."""
    blocks = n_rows // BLOCK * BLOCK
    for r in range(0, blocks, BLOCK):
        at, to, offset = a + r * a_row, y + r * ROW_BYTES, bias + r * FLOAT_BYTES
        _wide_block(at, a_row, a_step, x, ROW_BYTES, count, to, ROW_BYTES, start, offset)
    for r in range(blocks, n_rows):
        at, to, offset = a + r * a_row, y + r * ROW_BYTES, bias + r * FLOAT_BYTES
        _wide_row(at, a_row, a_step, x, ROW_BYTES, count, to, ROW_BYTES, start, offset)


@compiled
def dense_product(n_in: int, n_out: int, weights: int, bias: int, x: int, y: int) -> None:
    """Forward: ``y = W x + bias``.

    :param n_in: number of inputs
    :param n_out: number of outputs
    :param weights: [n_out, n_in]
    :param bias: [n_out]
    :param x: input tile
    :param y: output tile
    """
    _rows_of_tile(n_out, weights, n_in * FLOAT_BYTES, FLOAT_BYTES, x, n_in, y, BIAS, bias)


@compiled
def dense_input_gradient(
    start: int, stop: int, n_in: int, n_out: int, weights: int, g: int, dx: int, adds: bool
) -> None:
    """Gradient with respect to the inputs start .. stop: ``dx = Wᵀ g``.

    :param start: first input
    :param stop: end of inputs
    :param n_in: number of inputs
    :param n_out: number of outputs
    :param weights: [n_out, n_in]
    :param g: gradient with respect to the outputs, a tile
    :param dx: [stop - start, TILE]
    :param adds: whether to add to what stands in ``dx``
    """
    first, mode = weights + start * FLOAT_BYTES, ADD if adds else NOTHING
    _rows_of_tile(stop - start, first, FLOAT_BYTES, n_in * FLOAT_BYTES, g, n_out, dx, mode, 0)


@compiled
def _transpose(features: int, x: int, transposed: int, row_bytes: int) -> None:
    """A tile [features, TILE] as [TILE, features], features past the last zero up to a multiple of LANES."""
    whole = features // LANES * LANES
    for j in range(0, whole, LANES):
        for lane in range(0, TILE, LANES):
            at = x + j * ROW_BYTES + lane * FLOAT_BYTES
            transpose_block(at, ROW_BYTES, transposed + lane * row_bytes + j * FLOAT_BYTES, row_bytes)
    for lane in range(TILE):
        for j in range(whole, row_bytes // FLOAT_BYTES):
            value = load_float(x + j * ROW_BYTES, lane) if j < features else 0.0
            store_float(transposed + lane * row_bytes, j, value)


@compiled
def dense_weight_gradient(
    n_in: int, n_out: int, g: int, x: int, transposed: int, weights_out: int, bias_out: int
) -> None:
    """Add the gradients of weights and bias: ``W += g xᵀ``, ``bias += Σ g``.

    :param n_in: number of inputs
    :param n_out: number of outputs
    :param g: gradient with respect to the outputs, a tile
    :param x: input tile
    :param transposed: room for [TILE, n_in rounded up to LANES] floats
    :param weights_out: [n_out, n_in]; zeros are added to LANES - 1 floats behind it
    :param bias_out: [n_out]
    """
    row_bytes, c_row = (n_in + LANES - 1) // LANES * LANES * FLOAT_BYTES, n_in * FLOAT_BYTES
    _transpose(n_in, x, transposed, row_bytes)
    blocks, wide = n_out // BLOCK * BLOCK, n_in // TILE * TILE
    for column in range(0, wide, TILE):
        part, out = transposed + column * FLOAT_BYTES, weights_out + column * FLOAT_BYTES
        for o in range(0, blocks, BLOCK):
            at, to = g + o * ROW_BYTES, out + o * c_row
            _wide_block(at, ROW_BYTES, FLOAT_BYTES, part, row_bytes, TILE, to, c_row, ADD, 0)
        for o in range(blocks, n_out):
            at, to = g + o * ROW_BYTES, out + o * c_row
            _wide_row(at, ROW_BYTES, FLOAT_BYTES, part, row_bytes, TILE, to, c_row, ADD, 0)
    # A vector that reaches past its row adds zeros to the next one, whose own sums are stored after it
    for column in range(wide, n_in, LANES):
        part, out = transposed + column * FLOAT_BYTES, weights_out + column * FLOAT_BYTES
        for o in range(0, blocks, BLOCK):
            at, to = g + o * ROW_BYTES, out + o * c_row
            _narrow_block(at, ROW_BYTES, FLOAT_BYTES, part, row_bytes, TILE, to, c_row, ADD, 0)
        for o in range(blocks, n_out):
            at, to = g + o * ROW_BYTES, out + o * c_row
            _narrow_row(at, ROW_BYTES, FLOAT_BYTES, part, row_bytes, TILE, to, c_row, ADD, 0)
    for o in range(n_out):
        store_float(bias_out, o, load_float(bias_out, o) + _sum_of_row(g + o * ROW_BYTES))


@compiled
def dense_product_of_one(n_in: int, n_out: int, weights: int, bias: int, x: int, y: int) -> None:
    """Forward for one sample: like ``dense_product``, with ``x`` [n_in] and ``y`` [n_out] as plain vectors."""
    whole = n_in // LANES * LANES
    for o in range(n_out):
        row = weights + o * n_in * FLOAT_BYTES
        total = load_float(bias, o) + _dot(row, x, whole)
        for i in range(whole, n_in):
            total += load_float(row, i) * load_float(x, i)
        store_float(y, o, total)
