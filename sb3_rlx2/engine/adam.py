"""Adam and Polyak averaging on the memory of PyTorch's own tensors, compiled.

A table (int64, one row a parameter, columns named below) says where a parameter, its moments, its gradient and its
target are. Each thread does its share of every parameter. A step of Adam keeps what it overwrites, so that an update
that diverges after it can be taken back.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils

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
    load_float,
    pointer,
    splat,
    store_float,
    sum_lanes,
)

Table = Any

PARAMETER, MEAN, SQUARE, STEP = 0, 1, 2, 3
GRADIENT = 4  # offset in a shard's gradients
SIZE = 5
TARGET = 6  # address of the target network's copy; 0: there is none
BEFORE = 7  # parameter, mean, square (SIZE each) and step, as they were before the last step
PARAMETER_FIELDS = 8


def _for_each(b: Builder, start: Value, stop: Value, body: Callable[[Value, int], None]) -> None:
    """Emit ``body(place, lanes)`` for vectors and then, one by one, for what is left of start .. stop."""
    middle = b.add(start, b.and_(b.sub(stop, start), int64(-LANES)))
    with cgutils.for_range_slice(b, start, middle, int64(LANES)) as (j, _):
        body(j, LANES)
    with cgutils.for_range_slice(b, middle, stop, int64(1)) as (j, _):
        body(j, 1)


def _place(b: Builder, address: Value, j: Value, lanes: int) -> Value:
    return b.bitcast(b.gep(pointer(b, address, FLOAT), [j]), ir.VectorType(FLOAT, lanes).as_pointer())


def _read(b: Builder, address: Value, j: Value, lanes: int) -> Value:
    return b.load(_place(b, address, j, lanes), align=FLOAT_BYTES)


def _write(b: Builder, value: Value, address: Value, j: Value, lanes: int) -> None:
    b.store(value, _place(b, address, j, lanes), align=FLOAT_BYTES)


@intrinsic(INT64, *[INT64] * 10, *[FLOAT] * 6)
def _adam_span(
    b: Builder, start: Value, stop: Value, parameter: Value, mean: Value, square: Value, size: Value, before: Value,
    gradient: Value, shards: Value, shard_bytes: Value, rate: Value, root: Value, weight1: Value,
    beta2: Value, weight2: Value, epsilon: Value,
) -> Value:  # fmt: skip
    """One Adam step for the entries start .. stop; the gradient is the sum over shards.

    What it overwrites goes to ``before``. Returns 1 if all that it writes is finite, else 0.
    """
    row = b.mul(size, int64(FLOAT_BYTES))
    kept = (before, b.add(before, row), b.add(before, b.mul(row, int64(2))))
    # Sums of x - x, which is 0 for finite numbers and NaN for all others
    checks = {lanes: cgutils.alloca_once(b, ir.VectorType(FLOAT, lanes)) for lanes in (LANES, 1)}
    for lanes, check in checks.items():
        b.store(ir.Constant(ir.VectorType(FLOAT, lanes), [0.0] * lanes), check)

    def step(j: Value, lanes: int) -> None:
        vector = ir.VectorType(FLOAT, lanes)
        scalars = (rate, root, weight1, beta2, weight2, epsilon)
        rate_, root_, weight1_, beta2_, weight2_, epsilon_ = (splat(b, scalar, lanes) for scalar in scalars)
        total = cgutils.alloca_once(b, vector)
        b.store(ir.Constant(vector, [0.0] * lanes), total)
        with cgutils.for_range_slice(b, int64(0), shards, int64(1)) as (shard, _):
            place = b.add(gradient, b.mul(shard, shard_bytes))
            b.store(b.fadd(b.load(total), _read(b, place, j, lanes)), total)
        g, p = b.load(total), _read(b, parameter, j, lanes)
        m, v = _read(b, mean, j, lanes), _read(b, square, j, lanes)
        for value, address in zip((p, m, v), kept, strict=True):
            _write(b, value, address, j, lanes)
        m = b.fadd(m, b.fmul(b.fsub(g, m), weight1_))
        v = b.fadd(b.fmul(v, beta2_), b.fmul(b.fmul(weight2_, g), g))
        scale = b.fadd(b.fdiv(call(b, f"llvm.sqrt.v{lanes}f32", vector, v), root_), epsilon_)
        p = b.fsub(p, b.fdiv(b.fmul(rate_, m), scale))
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


@compiled
def adam(
    parameters: Table, first: int, last: int, gradients: int, shards: int, shard_bytes: int,
    rate: float, beta1: float, beta2: float, epsilon: float, thread: int, threads: int,
) -> bool:  # fmt: skip
    """One step of Adam (Kingma & Ba, 2015; as in ``torch.optim.Adam``) for some parameters.

    The step counters are read but not written: see ``count_steps``.

    :param parameters: table of parameters
    :param first: first parameter
    :param last: end of parameters
    :param gradients: address of the first shard's gradients
    :param shards: number of shards
    :param shard_bytes: distance between two shards' gradients
    :param rate: learning rate
    :param beta1: decay of the mean
    :param beta2: decay of the square
    :param epsilon: added to the root of the square
    :param thread: number of this thread
    :param threads: number of threads
    :return: whether all parameters and moments that this thread has written are finite
    """
    is_finite: Any = 1
    for p in range(first, last):
        size = parameters[p, SIZE]
        step = load_float(parameters[p, STEP], 0) + 1.0
        is_finite &= _adam_span(
            size * thread // threads,
            size * (thread + 1) // threads,
            parameters[p, PARAMETER],
            parameters[p, MEAN],
            parameters[p, SQUARE],
            size,
            parameters[p, BEFORE],
            gradients + parameters[p, GRADIENT] * FLOAT_BYTES,
            shards,
            shard_bytes,
            rate / (1.0 - beta1**step),
            math.sqrt(1.0 - beta2**step),
            1.0 - beta1,
            beta2,
            1.0 - beta2,
            epsilon,
        )
    return bool(is_finite == 1)


@compiled
def count_steps(parameters: Table, first: int, last: int) -> None:
    """Add one to the step counters; to be done by one thread, after all have done their share of ``adam``."""
    for p in range(first, last):
        step = load_float(parameters[p, STEP], 0)
        store_float(parameters[p, BEFORE], 3 * parameters[p, SIZE], step)
        store_float(parameters[p, STEP], 0, step + 1.0)


@compiled
def take_back(parameters: Table, first: int, last: int) -> None:
    """Put back what the last step of Adam overwrote; to be done by one thread.

    :param parameters: table of parameters
    :param first: first parameter
    :param last: end of parameters; each must have had a step since the table was made
    """
    for p in range(first, last):
        size, before = parameters[p, SIZE], parameters[p, BEFORE]
        for i, column in enumerate((PARAMETER, MEAN, SQUARE)):
            copy_floats(before + i * size * FLOAT_BYTES, parameters[p, column], size)
        store_float(parameters[p, STEP], 0, load_float(before, 3 * size))


@compiled
def polyak(parameters: Table, first: int, last: int, tau: float, thread: int, threads: int) -> None:
    """Move the targets of some parameters towards them, by tau.

    :param parameters: table of parameters
    :param first: first parameter
    :param last: end of parameters
    :param tau: weight of the parameters
    :param thread: number of this thread
    :param threads: number of threads
    """
    for p in range(first, last):
        if parameters[p, TARGET] != 0:
            size = parameters[p, SIZE]
            start, stop = size * thread // threads, size * (thread + 1) // threads
            _polyak_span(start, stop, parameters[p, PARAMETER], parameters[p, TARGET], tau, 1.0 - tau)
