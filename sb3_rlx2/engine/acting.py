"""Actions of a sparse policy for a few observations, compiled."""

from __future__ import annotations

import math
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN

from sb3_rlx2.engine.exploring import Exploration
from sb3_rlx2.engine.networks import acting_network
from sb3_rlx2.engine.operations import (
    ACTIVATION,
    DENSE,
    LAYER_NORM,
    LINEAR,
    OBSERVATION_NORM,
    SUM,
    network_at,
    operation_at,
)
from sb3_rlx2.engine.plan import NetworkBlocks
from sb3_rlx2.engine.programs import acting_program
from sb3_rlx2.engine.records import OPERATION
from sb3_rlx2.engine.replay import clip
from sb3_rlx2.kernels.activations import ELU, GELU, GELU_TANH, LEAKY_RELU, NONE, RELU, SILU, TANH
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.dense import dense_product_of_one
from sb3_rlx2.kernels.products import TILE, product_of_one
from sb3_rlx2.kernels.vectors import FLOAT_BYTES, load_double, load_float, store_float
from sb3_rlx2.sparse.layers import SparseLinear

Block = Any
Array = npt.NDArray[Any]

_BYTES = OPERATION.size
_ROOT_HALF, _ROOT_2_OVER_PI, _CUBIC = math.sqrt(0.5), math.sqrt(2.0 / math.pi), 0.044715


@compiled
def _activate(activation: int, parameter: float, x: int, y: int, count: int) -> None:
    for i in range(count):
        value = load_float(x, i)
        if activation == RELU:
            value = np.float32(0.0) if value < 0.0 else value
        elif activation == TANH:
            value = np.tanh(value)
        elif activation == ELU:
            value = np.float32(parameter * np.expm1(value)) if value < 0.0 else value
        elif activation == LEAKY_RELU:
            value = np.float32(parameter * value) if value < 0.0 else value
        elif activation == SILU:
            value = np.float32(value / (1.0 + math.exp(-value)))
        elif activation == GELU:
            value = np.float32(0.5 * value * (1.0 + math.erf(value * _ROOT_HALF)))
        elif activation == GELU_TANH:
            inner = _ROOT_2_OVER_PI * (value + _CUBIC * value * value * value)
            value = np.float32(0.5 * value * (1.0 + math.tanh(inner)))
        store_float(y, i, value)


@compiled
def _normalize(x: int, y: int, count: int, weights: int, bias: int, epsilon: float) -> None:
    mean, variance = 0.0, 0.0
    for i in range(count):
        mean += load_float(x, i)
    mean /= count
    for i in range(count):
        variance += (load_float(x, i) - mean) ** 2
    rate = 1.0 / math.sqrt(variance / count + epsilon)
    for i in range(count):
        store_float(y, i, (load_float(x, i) - mean) * rate * load_float(weights, i) + load_float(bias, i))


@compiled
def _normalize_observation(x: int, y: int, count: int, mean: int, variance: int, epsilon: float, limit: float) -> None:
    for i in range(count):
        value = (load_float(x, i) - load_double(mean, i)) / math.sqrt(load_double(variance, i) + epsilon)
        store_float(y, i, clip(value, -limit, limit))


@compiled
def _add(x: int, other: int, y: int, count: int) -> None:
    for i in range(count):
        store_float(y, i, load_float(x, i) + load_float(other, i))


@compiled
def _outputs(network_address: int, count: int, numbers: Array) -> None:
    """Outputs of a network for some observations.

    :param network_address: address of its block
    :param count: number of observations
    :param numbers: float32: the observations, [count, n_in], behind them the outputs, [count, n_out], and behind these
        room for the values of one observation
    """
    network = network_at(network_address)
    x = numbers.ctypes.data
    out = x + count * network.n_in * FLOAT_BYTES
    memory = out + count * network.n_out * FLOAT_BYTES
    for sample in range(count):
        inputs = x + sample * network.n_in * FLOAT_BYTES
        for i in range(network.n_operations):
            op = operation_at(network.operations + i * _BYTES)
            # Offsets count rows of TILE samples; here a feature is one number
            h = inputs if op.source < 0 else memory + op.source // TILE
            y = memory + op.output // TILE
            if op.kind == LINEAR:
                product_of_one(op.n_out, op.rows, op.columns, op.weights, op.bias, h, y)
                if op.adds_residual:
                    _add(y, memory + op.second_source // TILE, y, op.n_out)
            elif op.kind == DENSE:
                dense_product_of_one(op.n_in, op.n_out, op.weights, op.bias, h, y)
            elif op.kind == ACTIVATION:
                _activate(op.activation, op.activation_parameter, h, y, op.n_out)
            elif op.kind == LAYER_NORM:
                _normalize(h, y, op.n_out, op.weights, op.bias, op.epsilon)
            elif op.kind == SUM:
                _add(h, inputs if op.second_source < 0 else memory + op.second_source // TILE, y, op.n_out)
            elif op.kind == OBSERVATION_NORM:
                _normalize_observation(h, y, op.n_normalized, op.weights, op.bias, op.epsilon, op.clip)
            if op.kind <= DENSE and op.activation != NONE:
                _activate(op.activation, op.activation_parameter, y, y, op.n_out)
        for j in range(network.n_out):
            store_float(out, sample * network.n_out + j, load_float(memory + network.output // TILE, j))


class FastActor:
    """The network of a covered policy that acts, computed from its own parameters without PyTorch.

    It is right as long as the ``Watch`` holds that ``why_not_acting`` read the policy through.

    :param policy: a policy that ``why_not_acting`` has nothing against
    """

    def __init__(self, policy: Any) -> None:
        name = acting_network(policy)
        network = policy._modules[name]
        self.is_greedy = name != "actor"
        self.is_gaussian = hasattr(network, "log_std")
        self._blocks = NetworkBlocks(acting_program(policy), has_backward=False)
        self.n_obs, self._n_out = int(self._blocks.network[0]["n_in"]), int(self._blocks.network[0]["n_out"])
        self.n_act = self._n_out // 2 if self.is_gaussian else self._n_out
        if self.is_greedy:
            self.n_act = int(policy.action_space.n)
        else:
            self.exploration = Exploration(policy.action_space)
        self._room = int(self._blocks.network[0]["activation_bytes"]) // (TILE * FLOAT_BYTES)
        self._blocks.refresh()
        self._address = self._blocks.address

    @staticmethod
    def is_worth_it(policy: th.nn.Module) -> bool:
        """Whether there is anything sparse to compute."""
        name = acting_network(policy)
        modules = () if name is None else cast(th.nn.Module, policy._modules[name]).modules()
        return any(isinstance(module, SparseLinear) for module in modules)

    def __call__(self, observations: Array, deterministic: bool) -> tuple[Array, Array]:
        """Actions in [-1, 1], and the same without noise; of discrete actions the greedy one, int64.

        :param observations: [count, ...], n_obs numbers each
        :param deterministic: whether SAC's actions are to be without noise
        :return: two arrays [count, n_act], or [count] of discrete actions; one and the same where there is no noise
        """
        count = len(observations)
        # Of this call: several threads may act at once
        first, end = count * self.n_obs, count * (self.n_obs + self._n_out)
        numbers = np.empty(end + self._room, np.float32)
        numbers[:first] = observations.reshape(-1)
        _outputs(self._address, count, numbers)
        out = numbers[first:end].reshape(count, self._n_out)
        if self.is_greedy:
            values = out if self._n_out == self.n_act else out.reshape(count, -1, self.n_act).mean(axis=1)
            greedy = values.argmax(axis=1)
            return greedy, greedy
        if not self.is_gaussian:
            action = np.tanh(out)
            return action, action
        mean, log_std = out[:, : self.n_act], out[:, self.n_act :]
        noise_free = np.tanh(mean)
        if deterministic:
            return noise_free, noise_free
        # The random numbers that torch's Normal would draw
        noise = th.empty(count, self.n_act, dtype=th.float32, device="cpu").normal_().numpy()
        return np.tanh(mean + np.exp(np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX)) * noise), noise_free
