"""Adam and Polyak averaging on the memory of PyTorch's own tensors, compiled.

A table (int64, one row a parameter, columns named below) says where a parameter, its moments, its gradient and its
target are. Each thread does its share of every parameter.
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
    INT64,
    LANES,
    Builder,
    Value,
    call,
    int64,
    intrinsic,
    load_float,
    pointer,
    splat,
    store_float,
)

Table = Any

PARAMETER, MEAN, SQUARE, STEP = 0, 1, 2, 3
GRADIENT = 4  # offset in a shard's gradients
SIZE = 5
TARGET = 6  # address of the target network's copy; 0: there is none
PARAMETER_FIELDS = 7


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


@intrinsic(None, *[INT64] * 8, *[FLOAT] * 6)
def _adam_span(
    b: Builder, start: Value, stop: Value, parameter: Value, mean: Value, square: Value, gradient: Value,
    shards: Value, shard_bytes: Value, rate: Value, root: Value, weight1: Value,
    beta2: Value, weight2: Value, epsilon: Value,
) -> None:  # fmt: skip
    """One Adam step for the entries start .. stop; the gradient is the sum over shards."""

    def step(j: Value, lanes: int) -> None:
        vector = ir.VectorType(FLOAT, lanes)
        scalars = (rate, root, weight1, beta2, weight2, epsilon)
        rate_, root_, weight1_, beta2_, weight2_, epsilon_ = (splat(b, scalar, lanes) for scalar in scalars)
        total = cgutils.alloca_once(b, vector)
        b.store(ir.Constant(vector, [0.0] * lanes), total)
        with cgutils.for_range_slice(b, int64(0), shards, int64(1)) as (shard, _):
            place = b.add(gradient, b.mul(shard, shard_bytes))
            b.store(b.fadd(b.load(total), _read(b, place, j, lanes)), total)
        g, m, v = b.load(total), _read(b, mean, j, lanes), _read(b, square, j, lanes)
        m = b.fadd(m, b.fmul(b.fsub(g, m), weight1_))
        v = b.fadd(b.fmul(v, beta2_), b.fmul(b.fmul(weight2_, g), g))
        scale = b.fadd(b.fdiv(call(b, f"llvm.sqrt.v{lanes}f32", vector, v), root_), epsilon_)
        p = b.fsub(_read(b, parameter, j, lanes), b.fdiv(b.fmul(rate_, m), scale))
        for value, address in ((m, mean), (v, square), (p, parameter)):
            _write(b, value, address, j, lanes)

    _for_each(b, start, stop, step)


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
) -> None:  # fmt: skip
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
    """
    for p in range(first, last):
        size = parameters[p, SIZE]
        step = load_float(parameters[p, STEP], 0) + 1.0
        _adam_span(
            size * thread // threads,
            size * (thread + 1) // threads,
            parameters[p, PARAMETER],
            parameters[p, MEAN],
            parameters[p, SQUARE],
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


@compiled
def count_steps(parameters: Table, first: int, last: int) -> None:
    """Add one to the step counters; to be done by one thread, after all have done their share of ``adam``."""
    for p in range(first, last):
        store_float(parameters[p, STEP], 0, load_float(parameters[p, STEP], 0) + 1.0)


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
