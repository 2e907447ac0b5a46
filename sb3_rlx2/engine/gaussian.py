"""SAC's squashed Gaussian actor on one tile of a batch, compiled."""

from __future__ import annotations

import math
from typing import Any

from stable_baselines3.sac.policies import LOG_STD_MAX, LOG_STD_MIN

from sb3_rlx2.engine import task as t
from sb3_rlx2.engine.networks import ACTIVATIONS, N_IN, backward, forward, layer_input_gradient, layer_weight_gradient
from sb3_rlx2.engine.replay import clip
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.vectors import FLOAT_BYTES, exp_floats, load_float, log_floats, store_float, tanh_floats

Table = Any

EPSILON = 1e-6  # as in SB3's SquashedDiagGaussianDistribution
LOG_ROOT_2_PI = math.log(math.sqrt(2.0 * math.pi))
# An actor's heads leave four blocks of n_act rows: standard deviations, noise, actions, and room
STD, NOISE, ACTION, ROOM = 0, 1, 2, 3


@compiled
def sample_actions(
    layers: Table, task: Table, x: int, outputs: int, heads: int, noise: int, count: int, log_prob: int
) -> None:
    """Sample an action for each state of a tile, with its log-probability.

    :param layers: table of layers
    :param task: integers of the task
    :param x: states
    :param outputs: room for the actor's activations
    :param heads: room for standard deviations, noise and actions
    :param noise: standard normal numbers, [count, n_act]
    :param count: number of samples in the tile
    :param log_prob: where the log-probabilities go, [TILE]
    """
    n_act, actor, hidden = task[t.N_ACT], task[t.ACTOR], task[t.ACTOR_LAYERS] - 2
    activation = task[t.ACTIVATION]
    mean = forward(layers, actor, hidden + 1, activation, x, outputs)
    h = x if hidden == 0 else outputs + layers[actor + hidden - 1, ACTIVATIONS] * FLOAT_BYTES
    log_std = forward(layers, actor + hidden + 1, 1, activation, h, outputs)
    block = n_act * ROW_BYTES
    std, eps, action, room = heads, heads + NOISE * block, heads + ACTION * block, heads + ROOM * block
    for j in range(n_act * TILE):
        store_float(std, j, clip(load_float(log_std, j), LOG_STD_MIN, LOG_STD_MAX))
    for lane in range(TILE):
        store_float(log_prob, lane, 0.0)
    for i in range(n_act):
        for lane in range(TILE):
            value = load_float(noise, lane * n_act + i) if lane < count else 0.0
            store_float(eps, i * TILE + lane, value)
            store_float(log_prob, lane, load_float(log_prob, lane) - load_float(std, i * TILE + lane))
    exp_floats(std, std, n_act * TILE)
    for j in range(n_act * TILE):
        store_float(action, j, load_float(mean, j) + load_float(std, j) * load_float(eps, j))
    for i in range(n_act):
        for lane in range(TILE):
            j = i * TILE + lane
            error = (load_float(action, j) - load_float(mean, j)) / load_float(std, j)
            store_float(log_prob, lane, load_float(log_prob, lane) - 0.5 * error * error - LOG_ROOT_2_PI)
    tanh_floats(action, action, n_act * TILE)
    for j in range(n_act * TILE):
        value = load_float(action, j)
        store_float(room, j, 1.0 - value * value + EPSILON)
    log_floats(room, room, n_act * TILE)
    for i in range(n_act):
        for lane in range(TILE):
            store_float(log_prob, lane, load_float(log_prob, lane) - load_float(room, i * TILE + lane))


@compiled
def actor_gradient(
    layers: Table, task: Table, x: int, outputs: int, heads: int, coefficient: float, count: int,
    dx: int, g: int, spare: int, gradients: int,
) -> None:  # fmt: skip
    """Gradients of the actor's loss, the mean of ``coefficient * log_prob - Q``.

    :param layers: table of layers
    :param task: integers of the task
    :param x: states
    :param outputs: activations, as ``sample_actions`` left them
    :param heads: standard deviations, noise and actions, as it left them
    :param coefficient: entropy coefficient
    :param count: number of samples in the tile
    :param dx: gradient of ``-Q / batch`` with respect to the actions, [n_act, TILE], with room for as much behind it
    :param g: room for the gradient of one layer's outputs
    :param spare: the same
    :param gradients: where gradients of weights are added
    """
    n_act, actor, hidden = task[t.N_ACT], task[t.ACTOR], task[t.ACTOR_LAYERS] - 2
    activation, block = task[t.ACTIVATION], n_act * ROW_BYTES
    weight = coefficient / task[t.BATCH]
    log_std = outputs + layers[actor + hidden + 1, ACTIVATIONS] * FLOAT_BYTES
    d_log_std = dx + block
    for i in range(n_act):
        for lane in range(TILE):
            j = i * TILE + lane
            action = load_float(heads + ACTION * block, j)
            slope = 1.0 - action * action
            d_mean, d_scale = 0.0, 0.0
            if lane < count:
                # Of log(1 - a²) and of the action itself, both through tanh; the Gaussian's own terms cancel
                d_mean = load_float(dx, j) * slope + weight * 2.0 * action * slope / (slope + EPSILON)
                raw = load_float(log_std, j)
                if LOG_STD_MIN <= raw <= LOG_STD_MAX:
                    d_scale = d_mean * load_float(heads, j) * load_float(heads + NOISE * block, j) - weight
            store_float(dx, j, d_mean)
            store_float(d_log_std, j, d_scale)
    h = x if hidden == 0 else outputs + layers[actor + hidden - 1, ACTIVATIONS] * FLOAT_BYTES
    mean_layer, scale_layer = actor + hidden, actor + hidden + 1
    layer_weight_gradient(layers, mean_layer, dx, h, gradients)
    layer_weight_gradient(layers, scale_layer, d_log_std, h, gradients)
    if hidden > 0:
        width = layers[mean_layer, N_IN]
        layer_input_gradient(layers, mean_layer, activation, dx, 0, g, 0, width, False)
        layer_input_gradient(layers, scale_layer, activation, d_log_std, h, g, 0, width, True)
        backward(layers, actor, hidden, activation, x, outputs, g, spare, gradients, 0, 0, 0, False)
