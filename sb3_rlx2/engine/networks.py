"""Forward and backward passes of whole networks on one tile of a batch, compiled.

A network is a run of rows in a table of layers (int64, one row a layer, columns named below). So one compiled function
serves any depth, any widths and any number of critics. Places are addresses, or offsets in floats where said.
"""

from __future__ import annotations

from typing import Any

from numba.core import cgutils

from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import ROW_BYTES, TILE, input_gradient, product, reorder, weight_gradient
from sb3_rlx2.kernels.vectors import (
    FLOAT_BYTES,
    INT64,
    VECTOR_BYTES,
    Builder,
    Value,
    constant,
    exponential,
    int64,
    intrinsic,
    load_vector,
    store_vector,
    tanh_floats,
)

Table = Any

N_IN, N_OUT, NNZ = 0, 1, 2
VALUES, BIAS = 3, 4
ROWS, COLUMNS = 5, 6  # connections row by row
STARTS, OUTPUTS, SOURCES, ORDERED = 7, 8, 9, 10  # the same input by input, and room for the values in that order
GRADIENT_ROWS, GRADIENT_COLUMNS = 11, 12  # where gradients are wanted: the connections, or all positions
VALUES_GRADIENT, BIAS_GRADIENT = 13, 14  # offsets in a shard's gradients
ACTIVATIONS = 15  # offset of the outputs in the memory for activations
LAYER_FIELDS = 16

RELU, TANH, ELU = 0, 1, 2


def _elu(b: Builder, x: Value) -> Value:
    zero = constant(0.0)
    negative = b.select(b.fcmp_ordered(">", x, zero), zero, x)
    return b.select(b.fcmp_ordered(">", x, zero), x, b.fsub(exponential(b, negative), constant(1.0)))


@intrinsic(None, INT64, INT64)
def _elu_floats(b: Builder, x: Value, count: Value) -> None:
    """ELU in place."""
    with cgutils.for_range_slice(b, int64(0), b.mul(count, int64(FLOAT_BYTES)), int64(VECTOR_BYTES)) as (at, _):
        place = b.add(x, at)
        store_vector(b, _elu(b, load_vector(b, place)), place)


def _times(derivative: Any) -> Any:
    def emit(b: Builder, h: Value, g: Value, count: Value) -> None:
        with cgutils.for_range_slice(b, int64(0), b.mul(count, int64(FLOAT_BYTES)), int64(VECTOR_BYTES)) as (at, _):
            place = b.add(g, at)
            slope = derivative(b, load_vector(b, b.add(h, at)))
            store_vector(b, b.fmul(load_vector(b, place), slope), place)

    return intrinsic(None, INT64, INT64, INT64)(emit)


def _tanh_slope(b: Builder, h: Value) -> Value:
    return b.fsub(constant(1.0), b.fmul(h, h))


def _elu_slope(b: Builder, h: Value) -> Value:
    one = constant(1.0)
    return b.select(b.fcmp_ordered(">", h, constant(0.0)), one, b.fadd(h, one))


times_tanh_slope = _times(_tanh_slope)
_times_elu_slope = _times(_elu_slope)


@compiled
def forward(layers: Table, first: int, count: int, activation: int, x: int, memory: int) -> int:
    """Outputs of a network, before any output activation; what hidden layers give out stays in ``memory``.

    :param layers: table of layers
    :param first: the network's first layer
    :param count: number of its layers
    :param activation: RELU, TANH or ELU, of hidden layers
    :param x: input tile
    :param memory: room for activations
    :return: the output tile
    """
    for row in range(first, first + count):
        y = memory + layers[row, ACTIVATIONS] * FLOAT_BYTES
        is_hidden = row < first + count - 1
        n_out = layers[row, N_OUT]
        product(
            n_out,
            layers[row, ROWS],
            layers[row, COLUMNS],
            layers[row, VALUES],
            layers[row, BIAS],
            x,
            y,
            is_hidden and activation == RELU,
        )
        if is_hidden and activation == TANH:
            tanh_floats(y, y, n_out * TILE)
        elif is_hidden and activation == ELU:
            _elu_floats(y, n_out * TILE)
        x = y
    return x


@compiled
def layer_input_gradient(
    layers: Table, row: int, activation: int, g: int, h: int, dx: int, start: int, stop: int, add: bool
) -> None:
    """Gradient of a layer's inputs start .. stop.

    :param layers: table of layers
    :param row: the layer
    :param activation: RELU, TANH or ELU, of hidden layers
    :param g: gradient of its outputs
    :param h: its inputs if they came out of a hidden layer, whose activation is then passed too; else 0
    :param dx: where the gradient goes
    :param start: first input
    :param stop: end of inputs
    :param add: whether to add to what stands in ``dx``, before the activation is passed
    """
    is_relu = h != 0 and activation == RELU
    input_gradient(
        start,
        stop,
        layers[row, STARTS],
        layers[row, OUTPUTS],
        layers[row, ORDERED],
        g,
        h if is_relu else 0,
        dx,
        add,
    )
    if h != 0 and activation == TANH:
        times_tanh_slope(h + start * ROW_BYTES, dx, (stop - start) * TILE)
    elif h != 0 and activation == ELU:
        _times_elu_slope(h + start * ROW_BYTES, dx, (stop - start) * TILE)


@compiled
def layer_weight_gradient(layers: Table, row: int, g: int, x: int, gradients: int) -> None:
    """Add the gradient of a layer's weights and biases.

    :param layers: table of layers
    :param row: the layer
    :param g: gradient of its outputs
    :param x: its inputs
    :param gradients: a shard's gradients
    """
    weight_gradient(
        layers[row, N_OUT],
        layers[row, GRADIENT_ROWS],
        layers[row, GRADIENT_COLUMNS],
        g,
        x,
        gradients + layers[row, VALUES_GRADIENT] * FLOAT_BYTES,
        gradients + layers[row, BIAS_GRADIENT] * FLOAT_BYTES,
    )


@compiled
def backward(
    layers: Table,
    first: int,
    count: int,
    activation: int,
    x: int,
    memory: int,
    g: int,
    spare: int,
    gradients: int,
    dx: int,
    start: int,
    stop: int,
    add: bool,
) -> None:
    """Gradients of a network after ``forward``; ``order_values`` must have been called since its weights changed.

    :param layers: table of layers
    :param first: the network's first layer
    :param count: number of its layers
    :param activation: RELU, TANH or ELU, of hidden layers
    :param x: input tile
    :param memory: activations, as ``forward`` left them
    :param g: gradient of the outputs; overwritten
    :param spare: room for the gradient of one layer's outputs
    :param gradients: where gradients of weights are added; 0: not wanted
    :param dx: where the gradient of the inputs start .. stop goes; 0: not wanted
    :param start: first input
    :param stop: end of inputs
    :param add: whether to add to ``dx``
    """
    for back in range(count):
        row = first + count - 1 - back
        h = x if row == first else memory + layers[row - 1, ACTIVATIONS] * FLOAT_BYTES
        if gradients != 0:
            layer_weight_gradient(layers, row, g, h, gradients)
        if row > first:
            layer_input_gradient(layers, row, activation, g, h, spare, 0, layers[row, N_IN], False)
            g, spare = spare, g
        elif dx != 0:
            layer_input_gradient(layers, row, activation, g, 0, dx, start, stop, add)


@compiled
def order_values(layers: Table, first: int, count: int, thread: int, threads: int) -> None:
    """Bring weights into the order of the inputs, which gradients of inputs need. Each thread does its share.

    :param layers: table of layers
    :param first: the first layer
    :param count: number of layers
    :param thread: number of this thread
    :param threads: number of threads
    """
    for row in range(first, first + count):
        start, stop = layers[row, NNZ] * thread // threads, layers[row, NNZ] * (thread + 1) // threads
        reorder(start, stop, layers[row, SOURCES], layers[row, VALUES], layers[row, ORDERED])
