"""Networks as programs: forward and backward of every operation are PyTorch's, for any wiring."""

import itertools

import numba
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from torch import nn

from sb3_rlx2.common.observation_norm import ObservationNorm
from sb3_rlx2.engine import operations as o
from sb3_rlx2.engine.plan import NetworkBlocks, aligned, fused
from sb3_rlx2.engine.programs import NotCoveredError, Program
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.sparse import SparseLinear

forward_at, backward_at, network_at = o.forward, o.backward, o.network_at
order_weights = o.order_weights
ACTIVATIONS = [nn.ReLU(), nn.Tanh(), nn.ELU(0.7), nn.LeakyReLU(0.2), nn.SiLU(), nn.GELU(), nn.GELU("tanh")]


@numba.njit
def run_forward(network, x, memory):
    return forward_at(network_at(network), x, memory)


@numba.njit
def run_backward(network, x, memory, room, gradients, dx, start, stop, add):
    order_weights(network_at(network), True, 0, 1)
    backward_at(network_at(network), x, memory, room, gradients, dx, start, stop, add)


class Residual(nn.Module):
    """``x + block(x)``: translated by tracing its forward pass."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return x + self.block(x)


class Projected(nn.Module):
    """``skip(x) + body(x)``."""

    def __init__(self, body, skip):
        super().__init__()
        self.body, self.skip = body, skip

    def forward(self, x):
        return self.skip(x) + self.body(x)


class Doubled(nn.Module):
    """``2 block(x)``, which no operation computes, with a translation of its own."""

    def __init__(self, block):
        super().__init__()
        self.block = block

    def forward(self, x):
        return self.block(x) * 2

    def add_to_program(self, program, value):
        value = program.apply(self.block, value)
        return program.add("sum", [value, value], program.widths[value])


class Branching(nn.Module):
    """Something else in training."""

    def forward(self, x):
        return x.relu() if self.training else x.tanh()


class Scaled(nn.Module):
    def forward(self, x):
        return x * 0.5


def program_of(module, n_in):
    program = Program(n_in)
    program.outputs = (program.apply(module, 0),)
    return program


def check(program, forward, n_in, start=0, tolerance=2e-5):
    """Compare one tile with PyTorch: outputs, and gradients of inputs start .. and of all parameters."""
    blocks = NetworkBlocks(program)
    blocks.refresh()
    for parameter, _ in blocks.gradient_offsets():
        parameter.grad = None
    x = th.randn(TILE, n_in, generator=th.Generator().manual_seed(1), requires_grad=True)
    expected = forward(x)
    g = th.randn(expected.shape, generator=th.Generator().manual_seed(2))
    expected.backward(g)
    network = blocks.network[0]
    tile = np.ascontiguousarray(x.detach().numpy().T)
    memory, room = aligned(int(network["activation_bytes"])), aligned(int(network["gradient_bytes"]))
    room.view(np.float32)[:] = np.nan
    gradients = np.zeros(int(network["n_gradients"]), np.float32)
    y = run_forward(blocks.address, tile.ctypes.data, memory.ctypes.data) - memory.ctypes.data
    outputs = memory[y : y + int(network["n_out"]) * ROW_BYTES].view(np.float32).reshape(-1, TILE)
    np.testing.assert_allclose(outputs.T, expected.detach(), rtol=tolerance, atol=tolerance)
    at = int(network["output_gradient"])
    room[at : at + int(network["n_out"]) * ROW_BYTES].view(np.float32)[:] = np.ascontiguousarray(g.numpy().T).ravel()
    dx = np.full((n_in - start, TILE), 7.0, np.float32)
    addresses = (array.ctypes.data for array in (tile, memory, room, gradients, dx))
    run_backward(blocks.address, *addresses, start, n_in, True)
    np.testing.assert_allclose(dx.T - 7.0, x.grad[:, start:], rtol=tolerance, atol=10 * tolerance)
    for parameter, offset in blocks.gradient_offsets():
        found = gradients[offset : offset + parameter.numel()].reshape(parameter.shape)
        np.testing.assert_allclose(found, parameter.grad, rtol=tolerance, atol=100 * tolerance)


def sparse(n_in, n_out, seed=0):
    th.manual_seed(seed)
    return SparseLinear(n_in, n_out, n_in * n_out // 3, connections="random")


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("depth", [1, 3])
def test_chains_of_linear_layers_and_activations(activation, depth):
    widths = [19, 30, 33, 24][: depth + 1]
    layers = [layer for pair in itertools.pairwise(widths) for layer in (sparse(*pair), activation)]
    module = nn.Sequential(*layers, nn.Linear(widths[-1], 5))
    check(program_of(module, 19), module, 19, start=13)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
@pytest.mark.parametrize("widths", [(16, 64, 8), (19, 30, 9), (5, 70, 80)])
def test_dense_layers_of_any_shape(widths, activation):
    th.manual_seed(4)
    n_in, hidden, n_out = widths
    module = nn.Sequential(
        nn.Linear(n_in, hidden), activation, nn.Linear(hidden, hidden), activation, nn.Linear(hidden, n_out)
    )
    check(program_of(module, n_in), module, n_in, start=3)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_layer_normalization_before_and_behind_an_activation(activation):
    hidden = [sparse(21, 40), nn.LayerNorm(40), activation, nn.LayerNorm(40)]
    module = nn.Sequential(nn.LayerNorm(21), *hidden, sparse(40, 3))
    with th.no_grad():
        for norm in module:
            if isinstance(norm, nn.LayerNorm):
                norm.weight.uniform_(0.5, 1.5)
                norm.bias.uniform_(-1.0, 1.0)
    check(program_of(module, 21), module, 21, start=17)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=str)
def test_residual_blocks(activation):
    th.manual_seed(3)
    block = Residual(nn.Sequential(nn.LayerNorm(32), sparse(32, 64), activation, sparse(64, 32, 1)))
    other = Residual(nn.Sequential(sparse(32, 32, 2), activation))
    module = nn.Sequential(sparse(10, 32), activation, block, other, nn.LayerNorm(32), sparse(32, 4))
    check(program_of(module, 10), module, 10, start=7)


def test_a_residual_block_on_the_input_and_a_value_read_four_times():
    first, second = sparse(12, 12), sparse(12, 12, 1)
    program = Program(12)
    hidden = program.apply(nn.Tanh(), program.apply(first, 0))
    doubled = program.add("sum", [hidden, hidden], 12)
    mixed = program.add("sum", [0, doubled], 12)
    program.outputs = (program.add("sum", [mixed, program.apply(second, hidden)], 12), hidden)

    def forward(x):
        h = first(x).tanh()
        return th.cat([x + 2 * h + second(h), h], dim=1)

    check(program, forward, 12)
    check(program, forward, 12, start=5)


def test_two_heads_read_the_same_units_and_their_outputs_lie_side_by_side():
    body, one, other = nn.Sequential(sparse(9, 40), nn.ReLU()), sparse(40, 3), sparse(40, 2, 5)
    program = Program(9)
    value = program.apply(body, 0)
    program.outputs = (program.apply(one, value), program.apply(other, value))
    check(program, lambda x: th.cat([one(body(x)), other(body(x))], dim=1), 9)


def test_an_activation_joins_the_linear_layer_before_it_only_where_nobody_else_reads_that():
    relu, layer, last = nn.ReLU(), sparse(8, 8), sparse(8, 2, 5)
    program = program_of(nn.Sequential(layer, relu, last), 8)
    assert [(step.operation.module, step.activation) for step in fused(program)] == [(layer, relu), (last, None)]
    value = program.operations[0].output
    program.outputs = (*program.outputs, value)
    assert [step.operation.kind for step in fused(program)] == ["linear", "activation", "linear"]
    check(program, lambda x: th.cat([last(layer(x).relu()), layer(x)], dim=1), 8)
    silu = program_of(nn.Sequential(layer, nn.SiLU(), last), 8)
    assert [step.operation.kind for step in fused(silu)] == ["linear", "activation", "linear"]


def test_the_sum_of_a_residual_block_joins_the_sparse_layer_before_it():
    first, second, norm, last = sparse(8, 16), sparse(16, 16, 1), nn.LayerNorm(16), sparse(16, 3, 2)
    third = sparse(16, 16, 4)
    chained, flat = Residual(nn.Sequential(norm, second)), Residual(third)  # the last step reads a sum twice
    module = nn.Sequential(first, nn.ReLU(), chained, flat, last)
    assert [step.operation.module for step in fused(program_of(module, 8))] == [first, norm, second, third, last]
    check(program_of(module, 8), module, 8, start=5)
    at_the_end = nn.Sequential(first, nn.Tanh(), chained)
    assert [step.operation.kind for step in fused(program_of(at_the_end, 8))] == ["linear", "layer_norm", "linear"]
    check(program_of(at_the_end, 8), at_the_end, 8)
    projected = Projected(first, sparse(8, 16, 3))
    assert [step.operation.kind for step in fused(program_of(projected, 8))] == ["linear", "linear"]
    check(program_of(projected, 8), projected, 8)


def test_a_sum_stays_alone_where_nothing_sparse_is_before_it_or_others_read_the_layer():
    first, second, dense = sparse(8, 16), sparse(16, 16, 1), nn.Linear(16, 16)
    after_dense = nn.Sequential(first, Residual(dense))
    assert [step.operation.kind for step in fused(program_of(after_dense, 8))] == ["linear", "linear", "sum"]
    of_input = Residual(sparse(8, 8))
    assert [step.operation.kind for step in fused(program_of(of_input, 8))] == ["linear", "sum"]
    program = program_of(nn.Sequential(first, Residual(second)), 8)
    program.outputs = (*program.outputs, program.operations[1].output)
    assert [step.operation.kind for step in fused(program)] == ["linear", "linear", "sum"]
    check(program, lambda x: th.cat([first(x) + second(first(x)), second(first(x))], dim=1), 8)
    doubled = program_of(Doubled(first), 8)
    assert [step.operation.kind for step in fused(doubled)] == ["linear", "sum"]


def test_activations_that_have_been_read_make_room_where_there_is_no_backward_pass():
    module = nn.Sequential(
        sparse(9, 40), nn.SiLU(), *(Residual(nn.Sequential(nn.LayerNorm(40), sparse(40, 40, i))) for i in range(4))
    )
    program = program_of(module, 9)
    program.outputs = (program.apply(sparse(40, 3), program.outputs[0]), program.operations[1].output)
    forward_only, whole = NetworkBlocks(program, has_backward=False), NetworkBlocks(program)
    sizes = [int(blocks.network[0]["activation_bytes"]) for blocks in (forward_only, whole)]
    # Both outputs, what a block reads, normalizes and makes
    assert sizes[0] == (3 + 40 + 40 + 40 + 40) * ROW_BYTES < sizes[1] / 2
    x = np.ascontiguousarray(th.randn(TILE, 9, generator=th.Generator().manual_seed(1)).numpy().T)
    found = []
    for blocks, size in zip((forward_only, whole), sizes, strict=True):
        blocks.refresh()
        memory = aligned(size)
        memory.view(np.float32)[:] = np.nan
        y = run_forward(blocks.address, x.ctypes.data, memory.ctypes.data) - memory.ctypes.data
        found.append(memory[y : y + 43 * ROW_BYTES].copy())
    np.testing.assert_array_equal(*found)
    assert not np.isnan(found[0].view(np.float32)).any()


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.ELU, nn.LeakyReLU, nn.SiLU])
def test_a_network_may_end_with_an_activation(activation):
    body = nn.Sequential(sparse(8, 8), activation())
    check(program_of(body, 8), body, 8)


@pytest.mark.parametrize("start", [0, 9, 13, 15])
@pytest.mark.parametrize("reads_twice", [False, True])
def test_observations_are_normalized_within_bounds_and_what_stands_beside_them_is_copied(start, reads_twice):
    norm, layer = ObservationNorm(spaces.Box(-1.0, 1.0, (13,)), epsilon=0.1, clip=1.3), sparse(19, 30)
    norm.update(np.random.default_rng(0).normal(size=(50, 13)) * 0.7 + 0.3)
    program = Program(19)
    value = program.apply(norm, 0)
    first = program.apply(nn.Tanh(), program.apply(layer, value))
    other = program.apply(sparse(19, 30, 1), program.apply(norm, 0) if reads_twice else value)
    program.outputs = (program.add("sum", [first, other], 30),)

    def forward(x):
        x = th.cat([norm(x[:, :13]), x[:, 13:]], dim=1)
        return layer(x).tanh() + program.layers[1](x)

    check(program, forward, 19, start=start)


def test_a_module_may_bring_its_own_translation():
    module = nn.Sequential(Doubled(nn.Sequential(sparse(7, 20), nn.SiLU())), sparse(20, 2))
    check(program_of(module, 7), module, 7)


@pytest.mark.parametrize(
    "module",
    [
        Branching(),
        Scaled(),
        nn.Dropout(),
        nn.LayerNorm((3, 4)),
        nn.LayerNorm(12, bias=False),
        nn.Linear(12, 3, bias=False),
        nn.Linear(3, 1),
    ],
)
def test_what_no_operation_computes_is_refused_in_a_sentence(module):
    with pytest.raises(NotCoveredError, match=type(module).__name__ if type(module) is not nn.Linear else "a layer"):
        program_of(nn.Sequential(nn.Linear(12, 12), module), 12)
