"""Forward and backward passes of programs on one tile of a batch, compiled.

A network is a record and a run of operation records behind one another. So one compiled function serves any network.
Activations and gradients of values are tiles, ``[features, TILE]`` floats.
"""

from __future__ import annotations

from typing import Any

from sb3_rlx2.engine.records import NETWORK, OPERATION
from sb3_rlx2.kernels.activations import LAST_FROM_OUTPUT, NONE, RELU, activate, times_slope
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.dense import dense_input_gradient, dense_product, dense_weight_gradient
from sb3_rlx2.kernels.layer_norm import layer_norm, layer_norm_input_gradient, layer_norm_weight_gradient
from sb3_rlx2.kernels.observation_norm import observation_norm, observation_norm_input_gradient
from sb3_rlx2.kernels.products import (
    ROW_BYTES,
    TILE,
    input_gradient,
    product,
    reorder,
    residual_product,
    weight_gradient,
)
from sb3_rlx2.kernels.vectors import FLOAT_BYTES, add_floats, sum_floats

Block = Any

LINEAR, DENSE, ACTIVATION, LAYER_NORM, SUM, OBSERVATION_NORM = range(6)

network_at, operation_at = NETWORK.at, OPERATION.at
_BYTES = OPERATION.size


@compiled
def forward(network: Block, x: int, memory: int) -> int:
    """Outputs of a network.

    :param network: its block
    :param x: input tile
    :param memory: room for activations; what ``backward`` needs stays there
    :return: the output tile
    """
    for i in range(network.n_operations):
        op = operation_at(network.operations + i * _BYTES)
        h = x if op.source < 0 else memory + op.source
        y = memory + op.output
        if op.kind == LINEAR and op.adds_residual:
            residual = memory + op.second_source
            residual_product(op.n_out, op.rows, op.columns, op.weights, op.bias, h, residual, y)
        elif op.kind == LINEAR:
            product(op.n_out, op.rows, op.columns, op.weights, op.bias, h, y, op.activation == RELU)
            if op.activation != NONE and op.activation != RELU:
                activate(op.activation, op.activation_parameter, y, y, op.n_out * TILE)
        elif op.kind == DENSE:
            dense_product(op.n_in, op.n_out, op.weights, op.bias, h, y)
            if op.activation != NONE:
                activate(op.activation, op.activation_parameter, y, y, op.n_out * TILE)
        elif op.kind == ACTIVATION:
            activate(op.activation, op.activation_parameter, h, y, op.n_out * TILE)
        elif op.kind == LAYER_NORM:
            layer_norm(h, y, op.n_out, op.weights, op.bias, op.epsilon, memory + op.statistics)
        elif op.kind == SUM:
            sum_floats(h, x if op.second_source < 0 else memory + op.second_source, y, op.n_out * TILE)
        elif op.kind == OBSERVATION_NORM:
            observation_norm(h, y, op.n_normalized, op.n_out, op.weights, op.bias, op.epsilon, op.clip)
    return int(memory + network.output)


@compiled
def _weight_gradients(op: Block, h: int, g: int, memory: int, room: int, gradients: int) -> None:
    weights, bias = gradients + op.weights_gradient * FLOAT_BYTES, gradients + op.bias_gradient * FLOAT_BYTES
    if op.kind == LINEAR:
        weight_gradient(op.n_out, op.gradient_rows, op.gradient_columns, g, h, weights, bias)
    elif op.kind == DENSE:
        dense_weight_gradient(op.n_in, op.n_out, g, h, room + op.transposed, weights, bias)
    elif op.kind == LAYER_NORM:
        layer_norm_weight_gradient(h, g, op.n_out, memory + op.statistics, weights, bias)


@compiled
def _input_gradients(op: Block, h: int, g: int, memory: int, dx: int, start: int, stop: int, adds: bool) -> None:
    """The gradient of an operation's inputs start .. stop."""
    if op.kind == LINEAR:
        is_relu = op.source_activation == RELU
        input_gradient(start, stop, op.starts, op.outputs, op.ordered, g, h if is_relu else 0, dx, adds)
        if is_relu:
            return
    elif op.kind == DENSE:
        dense_input_gradient(start, stop, op.n_in, op.n_out, op.weights, g, dx, adds)
    elif op.kind == ACTIVATION:
        count, at = (stop - start) * TILE, start * ROW_BYTES
        from_output = op.activation <= LAST_FROM_OUTPUT
        times_slope(
            op.activation, op.activation_parameter, memory + op.output if from_output else h, g, op.n_out * TILE
        )
        add_floats(g + at, dx, count, adds)
    elif op.kind == LAYER_NORM:
        layer_norm_input_gradient(h, g, op.n_out, op.weights, memory + op.statistics, dx, start, stop, adds)
    elif op.kind == SUM:
        add_floats(g + start * ROW_BYTES, dx, (stop - start) * TILE, adds)
    elif op.kind == OBSERVATION_NORM:
        observation_norm_input_gradient(
            h, g, dx, start, stop, op.n_normalized, op.weights, op.bias, op.epsilon, op.clip, adds
        )
    if op.source_activation != NONE:
        times_slope(op.source_activation, op.source_parameter, h + start * ROW_BYTES, dx, (stop - start) * TILE)


@compiled
def backward(
    network: Block, x: int, memory: int, room: int, gradients: int, dx: int, start: int, stop: int, add: bool
) -> None:
    """Gradients of a network after ``forward``. ``order_weights`` must have been called since its weights changed.

    The gradient of its outputs is to stand at ``room + network.output_gradient``; it is overwritten.

    :param network: its block
    :param x: input tile
    :param memory: activations, as ``forward`` left them
    :param room: room for gradients of values
    :param gradients: where gradients of parameters are added; 0: not wanted
    :param dx: where the gradient of the inputs start .. stop goes; 0: not wanted
    :param start: first input
    :param stop: end of inputs
    :param add: whether to add to ``dx``
    """
    for back in range(network.n_operations):
        op = operation_at(network.operations + (network.n_operations - 1 - back) * _BYTES)
        h, g = x if op.source < 0 else memory + op.source, room + op.output_gradient
        if gradients != 0:
            _weight_gradients(op, h, g, memory, room, gradients)
        if op.reads_normalized_input:
            if dx != 0:
                to = room + op.source_gradient + start * ROW_BYTES
                _input_gradients(op, h, g, memory, to, start, stop, op.adds != 0)
        elif op.source >= 0:
            _input_gradients(op, h, g, memory, room + op.source_gradient, 0, op.n_in, op.adds != 0)
        elif dx != 0:
            _input_gradients(op, h, g, memory, dx, start, stop, add or op.adds != 0)
        if op.kind == SUM or op.adds_residual:
            if op.second_source >= 0:
                other = room + op.second_source_gradient
                if other != g:
                    add_floats(g, other, op.n_out * TILE, op.second_adds != 0)
                h = memory + op.second_source
                times_slope(op.second_activation, op.second_parameter, h, other, op.n_out * TILE)
            elif dx != 0:
                add_floats(g + start * ROW_BYTES, dx, (stop - start) * TILE, add or op.second_adds != 0)


@compiled
def order_weights(network: Block, with_input: bool, thread: int, threads: int) -> None:
    """Bring weights into the order of the inputs, which gradients of inputs need. Each thread does its share.

    :param network: its block
    :param with_input: whether the gradient of the network's own inputs will be wanted
    :param thread: number of this thread
    :param threads: number of threads
    """
    for i in range(network.n_operations):
        op = operation_at(network.operations + i * _BYTES)
        reads_input = op.source < 0 or op.reads_normalized_input
        if op.kind == LINEAR and (with_input or not reads_input):
            start, stop = op.nnz * thread // threads, op.nnz * (thread + 1) // threads
            reorder(start, stop, op.sources, op.weights, op.ordered)
