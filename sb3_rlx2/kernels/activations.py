"""Activations and their derivatives on rows of floats, compiled; counts are multiples of LANES."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba.core import cgutils

from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.vectors import (
    FLOAT,
    FLOAT_BYTES,
    INT64,
    VECTOR_BYTES,
    Builder,
    Value,
    constant,
    error_function,
    exponential,
    hyperbolic_tangent,
    int64,
    intrinsic,
    load_vector,
    splat,
    store_vector,
)

NONE, RELU, TANH, ELU, LEAKY_RELU, SILU, GELU, GELU_TANH = range(8)
LAST_FROM_OUTPUT = LEAKY_RELU
"""Derivatives up to this one are functions of the output, those after it of the input."""

_ROOT_HALF, _ROOT_2_OVER_PI, _CUBIC, _DENSITY = 0.7071067811865476, 0.7978845608028654, 0.044715, 0.3989422804014327

Emitter = Callable[[Builder, Value, Value], Value]


def _is_positive(b: Builder, x: Value) -> Value:
    return b.fcmp_ordered(">", x, constant(0.0))


def _relu(b: Builder, x: Value, _: Value) -> Value:
    return b.select(b.fcmp_ordered("<", x, constant(0.0)), constant(0.0), x)  # NaN stays NaN


def _relu_slope(b: Builder, y: Value, _: Value) -> Value:
    return b.select(_is_positive(b, y), constant(1.0), constant(0.0))


def _tanh(b: Builder, x: Value, _: Value) -> Value:
    return hyperbolic_tangent(b, x)


def _tanh_slope(b: Builder, y: Value, _: Value) -> Value:
    return b.fsub(constant(1.0), b.fmul(y, y))


def _elu(b: Builder, x: Value, alpha: Value) -> Value:
    is_positive = _is_positive(b, x)
    negative = b.select(is_positive, constant(0.0), x)
    return b.select(is_positive, x, b.fmul(alpha, b.fsub(exponential(b, negative), constant(1.0))))


def _elu_slope(b: Builder, y: Value, alpha: Value) -> Value:
    return b.select(_is_positive(b, y), constant(1.0), b.fadd(y, alpha))


def _leaky_relu(b: Builder, x: Value, slope: Value) -> Value:
    return b.select(_is_positive(b, x), x, b.fmul(slope, x))


def _leaky_relu_slope(b: Builder, y: Value, slope: Value) -> Value:
    return b.select(_is_positive(b, y), constant(1.0), slope)


def _sigmoid(b: Builder, x: Value) -> Value:
    one = constant(1.0)
    return b.fdiv(one, b.fadd(one, exponential(b, b.fsub(constant(0.0), x))))


def _silu(b: Builder, x: Value, _: Value) -> Value:
    return b.fmul(x, _sigmoid(b, x))


def _silu_slope(b: Builder, x: Value, _: Value) -> Value:
    s, one = _sigmoid(b, x), constant(1.0)
    return b.fmul(s, b.fadd(one, b.fmul(x, b.fsub(one, s))))


def _half_plus(b: Builder, x: Value) -> Value:
    return b.fmul(constant(0.5), b.fadd(constant(1.0), x))


def _gelu(b: Builder, x: Value, _: Value) -> Value:
    return b.fmul(x, _half_plus(b, error_function(b, b.fmul(x, constant(_ROOT_HALF)))))


def _gelu_slope(b: Builder, x: Value, _: Value) -> Value:
    cumulative = _half_plus(b, error_function(b, b.fmul(x, constant(_ROOT_HALF))))
    density = b.fmul(constant(_DENSITY), exponential(b, b.fmul(constant(-0.5), b.fmul(x, x))))
    return b.fadd(cumulative, b.fmul(x, density))


def _gelu_tanh_parts(b: Builder, x: Value) -> tuple[Value, Value]:
    square = b.fmul(x, x)
    inner = b.fmul(constant(_ROOT_2_OVER_PI), b.fmul(x, b.fadd(constant(1.0), b.fmul(constant(_CUBIC), square))))
    return hyperbolic_tangent(b, inner), square


def _gelu_tanh(b: Builder, x: Value, _: Value) -> Value:
    return b.fmul(x, _half_plus(b, _gelu_tanh_parts(b, x)[0]))


def _gelu_tanh_slope(b: Builder, x: Value, _: Value) -> Value:
    tanh, square = _gelu_tanh_parts(b, x)
    inner = b.fmul(constant(_ROOT_2_OVER_PI), b.fadd(constant(1.0), b.fmul(constant(3.0 * _CUBIC), square)))
    bend = b.fmul(b.fsub(constant(1.0), b.fmul(tanh, tanh)), b.fmul(constant(0.5), b.fmul(x, inner)))
    return b.fadd(_half_plus(b, tanh), bend)


def _rows(function: Emitter, is_slope: bool) -> Any:
    """An intrinsic (x, y, count, parameter): ``y = f(x)``, or ``y *= f(x)`` where ``f`` is a derivative."""

    def rows(b: Builder, x: Value, y: Value, count: Value, parameter: Value) -> None:
        repeated = splat(b, parameter)
        with cgutils.for_range_slice(b, int64(0), b.mul(count, int64(FLOAT_BYTES)), int64(VECTOR_BYTES)) as (at, _):
            value = function(b, load_vector(b, b.add(x, at)), repeated)
            address = b.add(y, at)
            store_vector(b, b.fmul(load_vector(b, address), value) if is_slope else value, address)

    return intrinsic(None, INT64, INT64, INT64, FLOAT)(rows)


_relu_rows, _relu_slopes = _rows(_relu, False), _rows(_relu_slope, True)
_tanh_rows, _tanh_slopes = _rows(_tanh, False), _rows(_tanh_slope, True)
_elu_rows, _elu_slopes = _rows(_elu, False), _rows(_elu_slope, True)
_leaky_relu_rows, _leaky_relu_slopes = _rows(_leaky_relu, False), _rows(_leaky_relu_slope, True)
_silu_rows, _silu_slopes = _rows(_silu, False), _rows(_silu_slope, True)
_gelu_rows, _gelu_slopes = _rows(_gelu, False), _rows(_gelu_slope, True)
_gelu_tanh_rows, _gelu_tanh_slopes = _rows(_gelu_tanh, False), _rows(_gelu_tanh_slope, True)


@compiled
def activate(activation: int, parameter: float, x: int, y: int, count: int) -> None:
    """``y = f(x)``; x and y may be the same.

    :param activation: RELU, TANH, …
    :param parameter: α of ELU, negative slope of LeakyReLU
    :param x: address of the inputs
    :param y: address of the outputs
    :param count: number of floats
    """
    if activation == RELU:
        _relu_rows(x, y, count, parameter)
    elif activation == TANH:
        _tanh_rows(x, y, count, parameter)
    elif activation == ELU:
        _elu_rows(x, y, count, parameter)
    elif activation == LEAKY_RELU:
        _leaky_relu_rows(x, y, count, parameter)
    elif activation == SILU:
        _silu_rows(x, y, count, parameter)
    elif activation == GELU:
        _gelu_rows(x, y, count, parameter)
    elif activation == GELU_TANH:
        _gelu_tanh_rows(x, y, count, parameter)


@compiled
def times_slope(activation: int, parameter: float, h: int, g: int, count: int) -> None:
    """Multiply gradients with an activation's derivative.

    :param activation: RELU, TANH, …; NONE changes nothing
    :param parameter: α of ELU, negative slope of LeakyReLU
    :param h: address of the activation's outputs; from SILU on of its inputs
    :param g: address of the gradients
    :param count: number of floats
    """
    if activation == RELU:
        _relu_slopes(h, g, count, parameter)
    elif activation == TANH:
        _tanh_slopes(h, g, count, parameter)
    elif activation == ELU:
        _elu_slopes(h, g, count, parameter)
    elif activation == LEAKY_RELU:
        _leaky_relu_slopes(h, g, count, parameter)
    elif activation == SILU:
        _silu_slopes(h, g, count, parameter)
    elif activation == GELU:
        _gelu_slopes(h, g, count, parameter)
    elif activation == GELU_TANH:
        _gelu_tanh_slopes(h, g, count, parameter)
