"""Actions of a sparse actor for a few observations, compiled."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch as th
from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN

from sb3_rlx2.engine import networks as n
from sb3_rlx2.engine.plan import Layer, NetworkTable, address
from sb3_rlx2.engine.updates import ACTIVATIONS, linear_layers_of
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import product_of_one
from sb3_rlx2.kernels.vectors import FLOAT_BYTES, load_float, store_float
from sb3_rlx2.sparse.layers import SparseLinear

Table = Any
Array = npt.NDArray[np.float32]


@compiled
def _activate(activation: int, x: int, count: int) -> None:
    for i in range(count):
        value = load_float(x, i)
        if activation == n.RELU:
            store_float(x, i, 0.0 if value < 0.0 else value)
        elif activation == n.TANH:
            store_float(x, i, np.tanh(value))
        elif value < 0.0:
            store_float(x, i, np.expm1(value))


@compiled
def _layer(layers: Table, row: int, x: int, y: int) -> None:
    product_of_one(
        layers[row, n.N_OUT],
        layers[row, n.ROWS],
        layers[row, n.COLUMNS],
        layers[row, n.VALUES],
        layers[row, n.BIAS],
        x,
        y,
    )


@compiled
def _outputs(
    layers: Table, hidden: int, activation: int, x: int, count: int, n_obs: int, memory: int, out: int
) -> None:
    """Outputs of all layers after the hidden ones (heads), side by side, for some observations.

    :param layers: table of layers: hidden layers, then heads
    :param hidden: number of hidden layers
    :param activation: of hidden layers
    :param x: [count, n_obs]
    :param count: number of observations
    :param n_obs: number of observation dimensions
    :param memory: room for the outputs of two layers, each of ``widest`` floats
    :param out: [count, sum of the heads' outputs]
    """
    heads = layers.shape[0]
    widest = 0
    for row in range(heads):
        widest = max(widest, layers[row, n.N_OUT])
    for i in range(count):
        h = x + i * n_obs * FLOAT_BYTES
        for row in range(hidden):
            y = memory + (row % 2) * widest * FLOAT_BYTES
            _layer(layers, row, h, y)
            _activate(activation, y, layers[row, n.N_OUT])
            h = y
        for row in range(hidden, heads):
            _layer(layers, row, h, out)
            out += layers[row, n.N_OUT] * FLOAT_BYTES


class FastActor:
    """The actor of a covered policy, computed from its own parameters without PyTorch.

    It is right as long as the ``Watch`` holds that ``why_not_acting`` read the policy through.

    :param policy: a policy of TD3 or SAC that ``why_not_acting`` has nothing against
    """

    def __init__(self, policy: Any) -> None:
        actor = policy.actor
        layers: list[Layer] = linear_layers_of(actor)
        self.is_gaussian = hasattr(actor, "log_std")
        self._hidden = len(layers) - (2 if self.is_gaussian else 1)
        self._activation = ACTIVATIONS[policy.activation_fn]
        self._table = NetworkTable([layers], [0])
        self.n_obs, self.n_act = layers[0].in_features, layers[-1].out_features
        self._n_out = self.n_act * (2 if self.is_gaussian else 1)
        self._room = 2 * max(layer.out_features for layer in layers)

    @staticmethod
    def is_worth_it(actor: th.nn.Module) -> bool:
        """Whether there is anything sparse to compute."""
        return any(isinstance(module, SparseLinear) for module in actor.modules())

    def __call__(self, observations: Array, deterministic: bool) -> tuple[Array, Array]:
        """Actions in [-1, 1], and the same without noise.

        :param observations: [count, n_obs] float32, contiguous
        :param deterministic: whether SAC's actions are to be without noise
        :return: two arrays [count, n_act]; one and the same where there is no noise
        """
        self._table.refresh()
        count = len(observations)
        out = np.empty((count, self._n_out), np.float32)
        memory = np.empty(self._room, np.float32)  # of this call: several threads may act at once
        _outputs(
            self._table.rows,
            self._hidden,
            self._activation,
            address(observations),
            count,
            observations.shape[1],
            address(memory),
            address(out),
        )
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
