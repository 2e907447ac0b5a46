"""Adam, AdamW and Polyak averaging on the memory of PyTorch's own tensors, compiled.

A block of each parameter says where it, its moments, its gradient and its target are. Each thread does its share of
every parameter. A step of Adam keeps what it overwrites, so that an update that diverges after it can be taken back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

from sb3_rlx2.engine.records import PARAMETER
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.vectors import (
    FLOAT,
    FLOAT_BYTES,
    INT32,
    INT64,
    LANES,
    Builder,
    Value,
    call,
    copy_floats,
    int64,
    intrinsic,
    load,
    load_float,
    pointer,
    splat,
    store_float,
    sum_lanes,
)

Block = Any

parameter_at = PARAMETER.at
_BYTES = PARAMETER.size


def _for_each(b: Builder, start: Value, stop: Value, body: Callable[[Value, int], None]) -> None:
    """Emit ``body(index, lanes)`` for vectors and then, one by one, for what is left of start .. stop."""
    middle = b.add(start, b.and_(b.sub(stop, start), int64(-LANES)))
    with cgutils.for_range_slice(b, start, middle, int64(LANES)) as (j, _):
        body(j, LANES)
    with cgutils.for_range_slice(b, middle, stop, int64(1)) as (j, _):
        body(j, 1)


def _address(b: Builder, address: Value, j: Value, lanes: int) -> Value:
    return b.bitcast(b.gep(pointer(b, address, FLOAT), [j]), ir.VectorType(FLOAT, lanes).as_pointer())


def _read(b: Builder, address: Value, j: Value, lanes: int) -> Value:
    return b.load(_address(b, address, j, lanes), align=FLOAT_BYTES)


def _write(b: Builder, value: Value, address: Value, j: Value, lanes: int) -> None:
    b.store(value, _address(b, address, j, lanes), align=FLOAT_BYTES)


def _sum_of_shards(b: Builder, gradient: Value, shards: Value, shard_bytes: Value, j: Value, lanes: int) -> Value:
    """Entries of a gradient, summed over shards."""
    vector = ir.VectorType(FLOAT, lanes)
    total = cgutils.alloca_once(b, vector)
    b.store(ir.Constant(vector, [0.0] * lanes), total)
    with cgutils.for_range_slice(b, int64(0), shards, int64(1)) as (shard, _):
        of_shard = b.add(gradient, b.mul(shard, shard_bytes))
        b.store(b.fadd(b.load(total), _read(b, of_shard, j, lanes)), total)
    return b.load(total)


@intrinsic(FLOAT, INT64, INT64, INT64, INT64)
def _sum_of_squares(b: Builder, gradient: Value, size: Value, shards: Value, shard_bytes: Value) -> Value:
    """Sum of the squares of a gradient's entries, each summed over shards."""
    sums = {lanes: cgutils.alloca_once(b, ir.VectorType(FLOAT, lanes)) for lanes in (LANES, 1)}
    for lanes, total in sums.items():
        b.store(ir.Constant(ir.VectorType(FLOAT, lanes), [0.0] * lanes), total)

    def add(j: Value, lanes: int) -> None:
        g = _sum_of_shards(b, gradient, shards, shard_bytes, j, lanes)
        b.store(b.fadd(b.load(sums[lanes]), b.fmul(g, g)), sums[lanes])

    _for_each(b, int64(0), size, add)
    result = b.fadd(sum_lanes(b, [b.load(sums[LANES])]), b.load(sums[1]))
    return b.extract_element(result, ir.Constant(INT32, 0))


@intrinsic(INT64, *[INT64] * 10, *[FLOAT] * 9)
def _adam_span(
    b: Builder, start: Value, stop: Value, parameter: Value, mean: Value, square: Value, size: Value, before: Value,
    gradient: Value, shards: Value, shard_bytes: Value, rate: Value, root: Value, weight1: Value,
    beta2: Value, weight2: Value, epsilon: Value, decay: Value, kept: Value, scale: Value,
) -> Value:  # fmt: skip
    """One Adam step for the entries start .. stop.

    The gradient is the sum over shards times ``scale``, plus ``decay`` times the entry.

    The entry is multiplied by ``kept`` first, which is AdamW's weight decay. What is overwritten goes to ``before``.
    Returns 1 if all that is written is finite, else 0.
    """
    row = b.mul(size, int64(FLOAT_BYTES))
    copies = (before, b.add(before, row), b.add(before, b.mul(row, int64(2))))
    # Sums of x - x, which is 0 for finite numbers and NaN for all others
    checks = {lanes: cgutils.alloca_once(b, ir.VectorType(FLOAT, lanes)) for lanes in (LANES, 1)}
    for lanes, check in checks.items():
        b.store(ir.Constant(ir.VectorType(FLOAT, lanes), [0.0] * lanes), check)

    def step(j: Value, lanes: int) -> None:
        vector = ir.VectorType(FLOAT, lanes)
        scalars = (rate, root, weight1, beta2, weight2, epsilon, decay, kept, scale)
        rate_, root_, weight1_, beta2_, weight2_, epsilon_, decay_, kept_, scale_ = (
            splat(b, s, lanes) for s in scalars
        )
        total = _sum_of_shards(b, gradient, shards, shard_bytes, j, lanes)
        old = _read(b, parameter, j, lanes)
        g = b.fadd(b.fmul(scale_, total), b.fmul(decay_, old))
        m, v = _read(b, mean, j, lanes), _read(b, square, j, lanes)
        for value, address in zip((old, m, v), copies, strict=True):
            _write(b, value, address, j, lanes)
        m = b.fadd(m, b.fmul(b.fsub(g, m), weight1_))
        v = b.fadd(b.fmul(v, beta2_), b.fmul(b.fmul(weight2_, g), g))
        root_of_square = b.fadd(b.fdiv(call(b, f"llvm.sqrt.v{lanes}f32", vector, v), root_), epsilon_)
        p = b.fsub(b.fmul(kept_, old), b.fdiv(b.fmul(rate_, m), root_of_square))
        for value, address in ((m, mean), (v, square), (p, parameter)):
            _write(b, value, address, j, lanes)
            b.store(b.fadd(b.load(checks[lanes]), b.fsub(value, value)), checks[lanes])

    _for_each(b, start, stop, step)
    check = b.fadd(sum_lanes(b, [b.load(checks[LANES])]), b.load(checks[1]))
    check = b.extract_element(check, ir.Constant(INT32, 0))
    return b.zext(b.fcmp_ordered("ord", check, check), INT64)


@intrinsic(None, INT64, INT64, INT64, INT64, FLOAT, FLOAT)
def _polyak_span(
    b: Builder, start: Value, stop: Value, parameter: Value, target: Value, tau: Value, kept: Value
) -> None:
    """Target = kept * target + tau * parameter for the entries start .. stop."""

    def average(j: Value, lanes: int) -> None:
        old = b.fmul(splat(b, kept, lanes), _read(b, target, j, lanes))
        new = b.fmul(splat(b, tau, lanes), _read(b, parameter, j, lanes))
        _write(b, b.fadd(old, new), target, j, lanes)

    _for_each(b, start, stop, average)


@intrinsic(None, INT64, INT64, INT64, INT64)
def _normalize_units(b: Builder, first: Value, end: Value, units: Value, parameter: Value) -> None:
    """Divide the weights of the units first .. end by their norm, if it is above 0 and finite."""
    sums = {lanes: cgutils.alloca_once(b, ir.VectorType(FLOAT, lanes)) for lanes in (LANES, 1)}
    with cgutils.for_range_slice(b, first, end, int64(1)) as (unit, _):
        span = load(b, units, INT64, unit), load(b, units, INT64, b.add(unit, int64(1)))
        for lanes, total in sums.items():
            b.store(ir.Constant(ir.VectorType(FLOAT, lanes), [0.0] * lanes), total)

        def add(j: Value, lanes: int) -> None:
            value = _read(b, parameter, j, lanes)
            b.store(b.fadd(b.load(sums[lanes]), b.fmul(value, value)), sums[lanes])

        _for_each(b, *span, add)
        vector = b.fadd(sum_lanes(b, [b.load(sums[LANES])]), b.load(sums[1]))
        square = b.extract_element(vector, ir.Constant(INT32, 0))
        one, infinity = ir.Constant(FLOAT, 1.0), ir.Constant(FLOAT, math.inf)
        has_norm = b.and_(b.fcmp_ordered(">", square, ir.Constant(FLOAT, 0.0)), b.fcmp_ordered("<", square, infinity))
        factor = b.select(has_norm, b.fdiv(one, call(b, "llvm.sqrt.f32", FLOAT, square)), one)

        def multiply(j: Value, lanes: int) -> None:
            _write(b, b.fmul(_read(b, parameter, j, lanes), splat(b, factor, lanes)), parameter, j, lanes)

        _for_each(b, *span, multiply)


@compiled
def _gradient_scale(
    parameters: int, first: int, end: int, limit: float, gradients: int, shards: int, shard_bytes: int
) -> float:
    """What gradients are multiplied with, so that their norm is at most ``limit``, as ``clip_grad_norm_`` does it.

    Every thread computes it from all gradients, in the same order. Other parameters: as for ``adam``.
    """
    squares = 0.0
    for i in range(first, end):
        p = parameter_at(parameters + i * _BYTES)
        squares += _sum_of_squares(gradients + p.gradient * FLOAT_BYTES, p.size, shards, shard_bytes)
    scale = limit / (math.sqrt(squares) + 1e-6)
    return 1.0 if scale > 1.0 else scale  # NaN stays NaN


@compiled
def adam(
    parameters: int, first: int, end: int, optimizer: Block, gradients: int, shards: int, shard_bytes: int,
    thread: int, threads: int,
) -> bool:  # fmt: skip
    """One step of Adam (Kingma & Ba, 2015; as in ``torch.optim.Adam``) or AdamW for some parameters.

    The step counters are read but not written: see ``count_steps``.

    :param parameters: address of the blocks of parameters
    :param first: first parameter
    :param end: end of parameters
    :param optimizer: block of the optimizer's settings
    :param gradients: address of the first shard's gradients
    :param shards: number of shards
    :param shard_bytes: distance between two shards' gradients
    :param thread: number of this thread
    :param threads: number of threads
    :return: whether all parameters and moments that this thread has written are finite
    """
    is_finite: Any = 1
    scale = 1.0
    if optimizer.max_gradient_norm < math.inf:
        scale = _gradient_scale(parameters, first, end, optimizer.max_gradient_norm, gradients, shards, shard_bytes)
    rate, beta1, beta2 = optimizer.learning_rate, optimizer.beta1, optimizer.beta2
    is_decoupled = optimizer.is_decoupled != 0
    decay = 0.0 if is_decoupled else optimizer.weight_decay
    kept = 1.0 - rate * optimizer.weight_decay if is_decoupled else 1.0
    for i in range(first, end):
        p = parameter_at(parameters + i * _BYTES)
        step = load_float(p.step, 0) + 1.0
        is_finite &= _adam_span(
            p.size * thread // threads,
            p.size * (thread + 1) // threads,
            p.value,
            p.mean,
            p.square,
            p.size,
            p.before,
            gradients + p.gradient * FLOAT_BYTES,
            shards,
            shard_bytes,
            rate / (1.0 - beta1**step),
            math.sqrt(1.0 - beta2**step),
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            optimizer.epsilon,
            decay,
            kept,
            scale,
        )
    return bool(is_finite == 1)


@compiled
def normalize_units(parameters: int, first: int, end: int, thread: int, threads: int) -> bool:
    """Bring units to norm 1 after a step of Adam (``sparse.unit_norm``); all threads must have done their share of it.

    :param parameters: address of the blocks of parameters
    :param first: first parameter
    :param end: end of parameters
    :param thread: number of this thread
    :param threads: number of threads
    :return: whether there are such units, so that threads must wait for one another
    """
    found = False
    for i in range(first, end):
        p = parameter_at(parameters + i * _BYTES)
        if p.units != 0:
            found = True
            _normalize_units(p.n_units * thread // threads, p.n_units * (thread + 1) // threads, p.units, p.value)
    return found


@compiled
def count_steps(parameters: int, first: int, end: int) -> None:
    """Add one to the step counters; to be done by one thread, after all have done their share of ``adam``."""
    for i in range(first, end):
        p = parameter_at(parameters + i * _BYTES)
        step = load_float(p.step, 0)
        store_float(p.before, 3 * p.size, step)
        store_float(p.step, 0, step + 1.0)


@compiled
def keep(parameters: int, first: int, end: int) -> None:
    """Make ``take_back`` change nothing about some parameters, which have no step; to be done by one thread.

    :param parameters: address of the blocks of parameters
    :param first: first parameter
    :param end: end of parameters
    """
    for i in range(first, end):
        p = parameter_at(parameters + i * _BYTES)
        copy_floats(p.value, p.before, p.size)
        copy_floats(p.mean, p.before + p.size * FLOAT_BYTES, p.size)
        copy_floats(p.square, p.before + 2 * p.size * FLOAT_BYTES, p.size)
        store_float(p.before, 3 * p.size, load_float(p.step, 0))


@compiled
def take_back(parameters: int, first: int, end: int) -> None:
    """Put back what the last step of Adam overwrote; to be done by one thread.

    :param parameters: address of the blocks of parameters
    :param first: first parameter
    :param end: end of parameters; each must have had a step since its block was made
    """
    for i in range(first, end):
        p = parameter_at(parameters + i * _BYTES)
        copy_floats(p.before, p.value, p.size)
        copy_floats(p.before + p.size * FLOAT_BYTES, p.mean, p.size)
        copy_floats(p.before + 2 * p.size * FLOAT_BYTES, p.square, p.size)
        store_float(p.step, 0, load_float(p.before, 3 * p.size))


@compiled
def polyak(parameters: int, first: int, end: int, tau: float, thread: int, threads: int) -> None:
    """Move the targets of some parameters towards them, by tau.

    :param parameters: address of the blocks of parameters
    :param first: first parameter
    :param end: end of parameters
    :param tau: weight of the parameters
    :param thread: number of this thread
    :param threads: number of threads
    """
    for i in range(first, end):
        p = parameter_at(parameters + i * _BYTES)
        if p.target != 0:
            start, stop = p.size * thread // threads, p.size * (thread + 1) // threads
            _polyak_span(start, stop, p.value, p.target, tau, 1.0 - tau)
