"""The three products of a sparse layer with one tile of a batch, compiled for the CPU.

Activations are *feature-major tiles*: ``[features, TILE]`` floats, a feature's TILE samples side by side. Connections
come row by row (CSR): row ``o`` has those with numbers ``rows[o] .. rows[o + 1]``, and ``columns`` holds for each the
place of its input *in bytes* from the beginning of the tile. All arrays are passed as addresses: ``rows`` int64,
``columns`` int32, everything else float32. ``columns`` must be readable up to ``PADDING`` numbers past
its end, and gradients writable.

A row's accumulators stay in registers while its connections are walked, so that one connection costs TILE / LANES
multiply-adds and as many loads.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils

from sb3_rlx2.kernels.compiled import compiled
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
    load,
    load_float,
    load_int32,
    load_int64,
    load_vector,
    multiply_add,
    pointer,
    shuffle,
    splat,
    store_float,
    store_vector,
    sum_lanes,
)

TILE = 64
"""Samples in a tile. With 64, a tile of 256 features is 64 KiB; 32 and 128 were slower (benchmarks/speed.py)."""
ROW_BYTES = TILE * FLOAT_BYTES
PADDING = 8
PARTS = TILE // LANES
_WIDE, _NARROW = 8, 4


def _add_row(
    b: Builder, start: Sequence[Value], span: tuple[Value, Value], values: Value, columns: Value, x: Value
) -> list[Value]:
    """Start + sum of values[j] * x[columns[j]] over the span."""
    accumulators = [cgutils.alloca_once_value(b, part) for part in start]
    for accumulator, part in zip(accumulators, start, strict=True):
        b.store(part, accumulator)

    def add(j: Value) -> None:
        weight = splat(b, load(b, values, FLOAT, j))
        row = b.add(x, b.zext(load(b, columns, INT32, j), INT64))
        for i, accumulator in enumerate(accumulators):
            part = load_vector(b, row, i * VECTOR_BYTES)
            b.store(multiply_add(b, weight, part, b.load(accumulator)), accumulator)

    first, last = span
    middle = b.add(first, b.and_(b.sub(last, first), int64(-4)))
    with cgutils.for_range_slice(b, first, middle, int64(4)) as (j, _):
        for i in range(4):
            add(b.add(j, int64(i)))
    with cgutils.for_range_slice(b, middle, last, int64(1)) as (j, _):
        add(j)
    return [b.load(accumulator) for accumulator in accumulators]


def _product_row(relu: bool) -> Any:
    def product_row(
        b: Builder, first: Value, last: Value, values: Value, columns: Value, bias: Value, x: Value, y: Value
    ) -> None:
        zero = constant(0.0)
        parts = _add_row(b, [splat(b, bias)] * PARTS, (first, last), values, columns, x)
        for i, part in enumerate(parts):
            if relu:  # NaN stays NaN
                part = b.select(b.fcmp_ordered("<", part, zero), zero, part)
            store_vector(b, part, y, i * VECTOR_BYTES)

    return intrinsic(None, INT64, INT64, INT64, INT64, FLOAT, INT64, INT64)(product_row)


@intrinsic(None, INT64, INT64, INT64, INT64, FLOAT, INT64, INT64, INT64)
def _residual_row(
    b: Builder, first: Value, last: Value, values: Value, columns: Value, bias: Value, x: Value, residual: Value,
    y: Value,
) -> None:  # fmt: skip
    start = [b.fadd(splat(b, bias), load_vector(b, residual, i * VECTOR_BYTES)) for i in range(PARTS)]
    for i, part in enumerate(_add_row(b, start, (first, last), values, columns, x)):
        store_vector(b, part, y, i * VECTOR_BYTES)


def _any_bit(b: Builder, vectors: Sequence[Value]) -> Value:
    """Whether any bit of some vectors of integers is set."""
    together = vectors[0]
    for vector in vectors[1:]:
        together = b.or_(together, vector)
    whole = ir.IntType(together.type.count * together.type.element.width)
    return b.icmp_unsigned("!=", b.bitcast(together, whole), ir.Constant(whole, 0))


def _transposed_row(add: bool, relu: bool) -> Any:
    def transposed_row(
        b: Builder, first: Value, last: Value, values: Value, columns: Value, g: Value, h: Value, dx: Value
    ) -> None:
        zero = constant(0.0)

        def compute(is_on: Sequence[Value] | None) -> None:
            start = [load_vector(b, dx, i * VECTOR_BYTES) if add else zero for i in range(PARTS)]
            for i, part in enumerate(_add_row(b, start, (first, last), values, columns, g)):
                store_vector(b, part if is_on is None else b.select(is_on[i], part, zero), dx, i * VECTOR_BYTES)

        if not relu:
            compute(None)
            return
        is_on = [b.fcmp_ordered(">", load_vector(b, h, i * VECTOR_BYTES), zero) for i in range(PARTS)]
        # A unit that is off for the whole tile, as many of a trained network are, costs no product
        with b.if_else(_any_bit(b, is_on)) as (on, off):
            with on:
                compute(is_on)
            with off:
                for i in range(PARTS):
                    store_vector(b, zero, dx, i * VECTOR_BYTES)

    return intrinsic(None, *[INT64] * 7)(transposed_row)


@intrinsic(None, *[INT64] * 7)
def _gradient_row(
    b: Builder, first: Value, last: Value, columns: Value, g: Value, x: Value, values_out: Value, bias_out: Value
) -> None:
    """values_out[j] += <g, x[columns[j]]> for the span, and bias_out[0] += sum of g."""
    parts = [load_vector(b, g, i * VECTOR_BYTES) for i in range(PARTS)]
    bits = ir.VectorType(INT32, LANES)
    # Where the unit was off for the whole tile there is nothing to add
    with b.if_then(_any_bit(b, [b.bitcast(part, bits) for part in parts])):
        _add_gradient_row(b, (first, last), columns, parts, x, values_out, bias_out)


def _add_gradient_row(
    b: Builder,
    span: tuple[Value, Value],
    columns: Value,
    parts: Sequence[Value],
    x: Value,
    values_out: Value,
    bias_out: Value,
) -> None:
    first, last = span
    total = parts[0]
    for part in parts[1:]:
        total = b.fadd(total, part)
    slot = pointer(b, bias_out, FLOAT)
    total = b.extract_element(sum_lanes(b, [total]), ir.Constant(INT32, 0))
    b.store(b.fadd(b.load(slot), total), slot)

    def dot_products(j: Value, width: int) -> Value:
        products = []
        for u in range(width):
            row = b.add(x, b.zext(load(b, columns, INT32, b.add(j, int64(u))), INT64))
            product = b.fmul(parts[0], load_vector(b, row))
            for i in range(1, PARTS):
                product = multiply_add(b, parts[i], load_vector(b, row, i * VECTOR_BYTES), product)
            products.append(product)
        return sum_lanes(b, products)

    def add_to_gradient(j: Value, values: Value) -> None:
        place = b.bitcast(b.gep(pointer(b, values_out, FLOAT), [j]), values.type.as_pointer())
        b.store(b.fadd(b.load(place, align=FLOAT_BYTES), values), place, align=FLOAT_BYTES)

    middle = b.add(first, b.and_(b.sub(last, first), int64(-_WIDE)))
    with cgutils.for_range_slice(b, first, middle, int64(_WIDE)) as (j, _):
        add_to_gradient(j, dot_products(j, _WIDE))
    rest = b.sub(last, middle)

    def add_rest(width: int) -> None:
        values = dot_products(middle, width)
        numbers = ir.Constant(ir.VectorType(INT64, width), list(range(width)))
        is_ours = b.icmp_signed("<", numbers, splat(b, rest, width))
        add_to_gradient(middle, b.select(is_ours, values, ir.Constant(values.type, [0.0] * width)))

    is_many = b.icmp_signed(">", rest, int64(_NARROW))
    with b.if_then(b.icmp_signed(">", rest, int64(0))), b.if_else(is_many) as (many, few):
        with many:
            add_rest(_WIDE)
        with few:
            add_rest(_NARROW)


_plain_row, _relu_row = _product_row(relu=False), _product_row(relu=True)
_transposed, _transposed_relu = _transposed_row(add=False, relu=False), _transposed_row(add=False, relu=True)
_transposed_add, _transposed_add_relu = _transposed_row(add=True, relu=False), _transposed_row(add=True, relu=True)


@compiled
def product(n_out: int, rows: int, columns: int, values: int, bias: int, x: int, y: int, relu: bool) -> None:
    """Forward: ``y[o] = bias[o] + Σ values[j] x[columns[j]]``, then ReLU if asked for.

    :param n_out: number of rows
    :param rows: connections of each row, [n_out + 1]
    :param columns: inputs in bytes, [nnz]
    :param values: weights, [nnz]
    :param bias: [n_out]
    :param x: input tile
    :param y: output tile, [n_out, TILE]
    :param relu: whether to set negative outputs to zero
    """
    if relu:
        for o in range(n_out):
            first, last = load_int64(rows, o), load_int64(rows, o + 1)
            _relu_row(first, last, values, columns, load_float(bias, o), x, y + o * ROW_BYTES)
    else:
        for o in range(n_out):
            first, last = load_int64(rows, o), load_int64(rows, o + 1)
            _plain_row(first, last, values, columns, load_float(bias, o), x, y + o * ROW_BYTES)


@compiled
def residual_product(
    n_out: int, rows: int, columns: int, values: int, bias: int, x: int, residual: int, y: int
) -> None:
    """Forward with a residual connection: ``y[o] = residual[o] + bias[o] + Σ values[j] x[columns[j]]``.

    :param n_out: number of rows
    :param rows: connections of each row, [n_out + 1]
    :param columns: inputs in bytes, [nnz]
    :param values: weights, [nnz]
    :param bias: [n_out]
    :param x: input tile
    :param residual: what is added, [n_out, TILE]
    :param y: output tile, [n_out, TILE]
    """
    for o in range(n_out):
        first, last, at = load_int64(rows, o), load_int64(rows, o + 1), o * ROW_BYTES
        _residual_row(first, last, values, columns, load_float(bias, o), x, residual + at, y + at)


@compiled
def input_gradient(
    start: int, stop: int, rows: int, columns: int, values: int, g: int, h: int, dx: int, add: bool
) -> None:
    """Gradient with respect to the input: ``dx[i] = Σ values[j] g[columns[j]]``, for some inputs.

    :param start: first input
    :param stop: end of inputs
    :param rows: connections of each *input*, [n_in + 1]
    :param columns: outputs in bytes, [nnz], input by input
    :param values: weights, [nnz], input by input: reading them out of order would cost a quarter of the speed
    :param g: gradient with respect to the output, a tile
    :param h: the input tile, where the input came out of a ReLU: its gradient is zero where h is; 0: it did not
    :param dx: gradient of the inputs ``start .. stop``, [stop - start, TILE]
    :param add: whether to add to what stands in ``dx`` (before the ReLU's mask)
    """
    for i in range(start, stop):
        first, last = load_int64(rows, i), load_int64(rows, i + 1)
        to = dx + (i - start) * ROW_BYTES
        if h == 0:
            if add:
                _transposed_add(first, last, values, columns, g, h, to)
            else:
                _transposed(first, last, values, columns, g, h, to)
        elif add:
            _transposed_add_relu(first, last, values, columns, g, h + i * ROW_BYTES, to)
        else:
            _transposed_relu(first, last, values, columns, g, h + i * ROW_BYTES, to)


@compiled
def weight_gradient(n_out: int, rows: int, columns: int, g: int, x: int, values_out: int, bias_out: int) -> None:
    """Gradient at the present connections: ``values_out[j] += <g[o], x[columns[j]]>``, ``bias_out[o] += Σ g[o]``.

    :param n_out: number of rows
    :param rows: connections of each row, [n_out + 1]
    :param columns: inputs in bytes, [nnz]
    :param g: gradient with respect to the output, a tile
    :param x: input tile
    :param values_out: gradient of the weights, [nnz], added to
    :param bias_out: gradient of the bias, [n_out], added to
    """
    for o in range(n_out):
        first, last = load_int64(rows, o), load_int64(rows, o + 1)
        _gradient_row(first, last, columns, g + o * ROW_BYTES, x, values_out, bias_out + o * FLOAT_BYTES)


@intrinsic(None, *[INT64] * 4)
def transpose_block(b: Builder, source: Value, source_bytes: Value, target: Value, target_bytes: Value) -> None:
    """target[j][i] = source[i][j] for LANES rows of LANES floats; rows are so many bytes apart."""
    rows = [load_vector(b, b.add(source, b.mul(source_bytes, int64(i)))) for i in range(LANES)]
    step = LANES // 2
    while step:
        low = [LANES + j - step if j & step else j for j in range(LANES)]
        high = [LANES + j if j & step else j + step for j in range(LANES)]
        for i in range(LANES):
            if not i & step:
                pair = (rows[i], rows[i + step])
                rows[i], rows[i + step] = shuffle(b, *pair, low), shuffle(b, *pair, high)
        step //= 2
    for j, row in enumerate(rows):
        store_vector(b, row, b.add(target, b.mul(target_bytes, int64(j))))


@compiled
def to_tiles(batch: int, features: int, x: int, tiles: int) -> None:
    """Bring samples into tiles; lanes past the last sample are zero.

    :param batch: number of samples
    :param features: number of features
    :param x: [batch, features]
    :param tiles: [ceil(batch / TILE), features, TILE]
    """
    row = features * FLOAT_BYTES
    for first in range(0, batch, LANES):
        to = tiles + first // TILE * features * ROW_BYTES + first % TILE * FLOAT_BYTES
        full = features // LANES * LANES if first + LANES <= batch else 0
        for j in range(0, full, LANES):
            transpose_block(x + first * row + j * FLOAT_BYTES, row, to + j * ROW_BYTES, ROW_BYTES)
        for j in range(full, features):
            for i in range(LANES):
                value = load_float(x + (first + i) * row, j) if first + i < batch else 0.0
                store_float(to + j * ROW_BYTES, i, value)
    for first in range((batch + LANES - 1) // LANES * LANES, (batch + TILE - 1) // TILE * TILE, LANES):
        to = tiles + first // TILE * features * ROW_BYTES + first % TILE * FLOAT_BYTES
        for j in range(features):
            for i in range(LANES):
                store_float(to + j * ROW_BYTES, i, 0.0)


@compiled
def from_tiles(batch: int, features: int, tiles: int, y: int) -> None:
    """Bring tiles into samples.

    :param batch: number of samples
    :param features: number of features
    :param tiles: [ceil(batch / TILE), features, TILE]
    :param y: [batch, features]
    """
    row = features * FLOAT_BYTES
    for first in range(0, batch, LANES):
        at = tiles + first // TILE * features * ROW_BYTES + first % TILE * FLOAT_BYTES
        full = features // LANES * LANES if first + LANES <= batch else 0
        for j in range(0, full, LANES):
            transpose_block(at + j * ROW_BYTES, ROW_BYTES, y + first * row + j * FLOAT_BYTES, row)
        for j in range(full, features):
            for i in range(min(LANES, batch - first)):
                store_float(y + (first + i) * row, j, load_float(at + j * ROW_BYTES, i))


_ZERO = np.float32(0.0)
_COLUMN_SHIFT = ROW_BYTES.bit_length() - 1


@compiled
def product_of_one(n_out: int, rows: int, columns: int, values: int, bias: int, x: int, y: int) -> None:
    """Forward for one sample: like ``product``, with ``x`` [n_in] and ``y`` [n_out] as plain vectors."""
    for o in range(n_out):
        first, last = load_int64(rows, o), load_int64(rows, o + 1)
        middle = first + (last - first) // 4 * 4
        # Four sums at a time hide the latency of additions
        s0 = s1 = s2 = s3 = _ZERO
        for j in range(first, middle, 4):
            s0 += load_float(values, j) * load_float(x, load_int32(columns, j) >> _COLUMN_SHIFT)
            s1 += load_float(values, j + 1) * load_float(x, load_int32(columns, j + 1) >> _COLUMN_SHIFT)
            s2 += load_float(values, j + 2) * load_float(x, load_int32(columns, j + 2) >> _COLUMN_SHIFT)
            s3 += load_float(values, j + 3) * load_float(x, load_int32(columns, j + 3) >> _COLUMN_SHIFT)
        for j in range(middle, last):
            s0 += load_float(values, j) * load_float(x, load_int32(columns, j) >> _COLUMN_SHIFT)
        store_float(y, o, load_float(bias, o) + ((s0 + s1) + (s2 + s3)))


@compiled
def reorder(start: int, stop: int, sources: int, values: int, ordered: int) -> None:
    """``ordered[j] = values[sources[j]]`` for j in start .. stop: weights input by input.

    :param start: first connection
    :param stop: end of connections
    :param sources: places, [nnz]
    :param values: [nnz]
    :param ordered: [nnz]
    """
    for j in range(start, stop):
        store_float(ordered, j, load_float(values, load_int32(sources, j)))
