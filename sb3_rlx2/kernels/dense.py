"""The three products of a dense layer with one tile of a batch, compiled: register-blocked matrix products.

A block of rows of the result stays in registers while the inner dimension is walked, so that each vector that is loaded
serves as many multiply-adds as the block has rows. Sums are taken in one order, however rows are divided into blocks.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils
from numba.core.registry import cpu_target

from sb3_rlx2.kernels.compiled import compiled_once
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


def _has_32_registers() -> bool:
    """Whether the processor that code is compiled for has AVX-512's vector registers."""
    return "+avx512f" in cpu_target.target_context.codegen().magic_tuple()[-1]


ROWS, VECTORS = 6, 4 if _has_32_registers() else 1
"""A block: its sums, with what is read at each step, fill AVX-512's 32 registers, or AVX2's 16 of half the size."""
NARROW_ROWS = 12 if VECTORS > 1 else ROWS
"""Rows of a block of single vectors; fewer would not hide the latency of a multiply-add."""
CHUNK = 128
"""Steps of the inner dimension that all rows take before the next ones: their part of a tile stays in the cache."""
UNROLLED = 2
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

        def add(k: Value) -> None:
            inner, source = b.add(x, b.mul(x_step, k)), b.add(a, b.mul(a_step, k))
            parts = [load_vector(b, inner, v * VECTOR_BYTES) for v in range(vectors)]
            for r, row in enumerate(sums):
                weight = splat(b, b.load(pointer(b, b.add(source, b.mul(a_row, int64(r))), FLOAT)))
                for part, slot in zip(parts, row, strict=True):
                    b.store(multiply_add(b, weight, part, b.load(slot)), slot)

        middle = b.and_(count, int64(-UNROLLED))
        with cgutils.for_range_slice(b, int64(0), middle, int64(UNROLLED)) as (k, _):
            for i in range(UNROLLED):
                add(b.add(k, int64(i)))
        with cgutils.for_range_slice(b, middle, count, int64(1)) as (k, _):
            add(k)
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


_wide_block, _wide_row = _product(ROWS, VECTORS), _product(1, VECTORS)
_narrow_block, _narrow_row = _product(NARROW_ROWS, 1), _product(1, 1)


@compiled_once
def _wide_rows(
    n_rows: int, a: int, a_row: int, a_step: int, x: int, x_step: int, count: int, c: int, c_row: int, start: int,
    bias: int,
) -> None:  # fmt: skip
    """``c[r] = start[r] + Σ_k a[r, k] x[k]`` for rows of ``VECTORS`` vectors."""
    blocks = n_rows // ROWS * ROWS
    for r in range(0, blocks, ROWS):
        _wide_block(a + r * a_row, a_row, a_step, x, x_step, count, c + r * c_row, c_row, start, bias + r * FLOAT_BYTES)
    for r in range(blocks, n_rows):
        _wide_row(a + r * a_row, a_row, a_step, x, x_step, count, c + r * c_row, c_row, start, bias + r * FLOAT_BYTES)


@compiled_once
def _narrow_rows(
    n_rows: int, a: int, a_row: int, a_step: int, x: int, x_step: int, count: int, c: int, c_row: int, start: int,
    bias: int,
) -> None:  # fmt: skip
    """The same for rows of a single vector."""
    blocks = n_rows // NARROW_ROWS * NARROW_ROWS
    for r in range(0, blocks, NARROW_ROWS):
        at, to, offset = a + r * a_row, c + r * c_row, bias + r * FLOAT_BYTES
        _narrow_block(at, a_row, a_step, x, x_step, count, to, c_row, start, offset)
    for r in range(blocks, n_rows):
        at, to, offset = a + r * a_row, c + r * c_row, bias + r * FLOAT_BYTES
        _narrow_row(at, a_row, a_step, x, x_step, count, to, c_row, start, offset)


@compiled_once
def _rows_of_tile(
    n_rows: int, a: int, a_row: int, a_step: int, x: int, count: int, y: int, start: int, bias: int
) -> None:
    """``y[r] = start[r] + Σ_k a[r, k] x[k]`` for rows of a tile."""
    for first in range(0, count, CHUNK):
        steps, mode = min(count - first, CHUNK), start if first == 0 else ADD
        at, inner = a + first * a_step, x + first * ROW_BYTES
        for part in range(0, ROW_BYTES, VECTORS * VECTOR_BYTES):
            _wide_rows(n_rows, at, a_row, a_step, inner + part, ROW_BYTES, steps, y + part, ROW_BYTES, mode, bias)


@compiled_once
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


@compiled_once
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


@compiled_once
def _transpose(features: int, x: int, panels: int) -> None:
    """A tile [features, TILE] as panels [TILE, up to TILE features], the last one filled up to LANES with zeros."""
    for first in range(0, features, TILE):
        count = min(features - first, TILE)
        row_bytes, whole = (count + LANES - 1) // LANES * VECTOR_BYTES, count // LANES * LANES
        source, panel = x + first * ROW_BYTES, panels + first * ROW_BYTES
        for j in range(0, whole, LANES):
            for lane in range(0, TILE, LANES):
                at = source + j * ROW_BYTES + lane * FLOAT_BYTES
                transpose_block(at, ROW_BYTES, panel + lane * row_bytes + j * FLOAT_BYTES, row_bytes)
        for lane in range(TILE):
            for j in range(whole, row_bytes // FLOAT_BYTES):
                value = load_float(source + j * ROW_BYTES, lane) if j < count else 0.0
                store_float(panel + lane * row_bytes, j, value)


@compiled_once
def dense_weight_gradient(
    n_in: int, n_out: int, g: int, x: int, transposed: int, weights_out: int, bias_out: int
) -> None:
    """Add the gradients of weights and bias: ``W += g xᵀ``, ``bias += Σ g``.

    :param n_in: number of inputs
    :param n_out: number of outputs
    :param g: gradient with respect to the outputs, a tile
    :param x: input tile
    :param transposed: room for [n_in rounded up to LANES, TILE] floats
    :param weights_out: [n_out, n_in]; zeros are added to LANES - 1 floats behind it
    :param bias_out: [n_out]
    """
    c_row = n_in * FLOAT_BYTES
    _transpose(n_in, x, transposed)
    for first in range(0, n_in, TILE):
        count = min(n_in - first, TILE)
        row_bytes = (count + LANES - 1) // LANES * VECTOR_BYTES
        panel, out, offset = transposed + first * ROW_BYTES, weights_out + first * FLOAT_BYTES, 0
        while offset + VECTORS * VECTOR_BYTES <= row_bytes:
            _wide_rows(n_out, g, ROW_BYTES, FLOAT_BYTES, panel + offset, row_bytes, TILE, out + offset, c_row, ADD, 0)
            offset += VECTORS * VECTOR_BYTES
        # A vector that reaches past its row adds zeros to the next one, whose own sums are stored after it
        while offset < row_bytes:
            _narrow_rows(n_out, g, ROW_BYTES, FLOAT_BYTES, panel + offset, row_bytes, TILE, out + offset, c_row, ADD, 0)
            offset += VECTOR_BYTES
    for o in range(n_out):
        store_float(bias_out, o, load_float(bias_out, o) + _sum_of_row(g + o * ROW_BYTES))


@compiled_once
def dense_product_of_one(n_in: int, n_out: int, weights: int, bias: int, x: int, y: int) -> None:
    """Forward for one sample: like ``dense_product``, with ``x`` [n_in] and ``y`` [n_out] as plain vectors."""
    whole = n_in // LANES * LANES
    for o in range(n_out):
        row = weights + o * n_in * FLOAT_BYTES
        total = load_float(bias, o) + _dot(row, x, whole)
        for i in range(whole, n_in):
            total += load_float(row, i) * load_float(x, i)
        store_float(y, o, total)
