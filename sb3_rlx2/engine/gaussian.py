"""SAC's squashed Gaussian actor on one tile of a batch, compiled."""

from __future__ import annotations

import math
from typing import Any

from sb3_rlx2.engine.operations import backward, forward, network_at
from sb3_rlx2.engine.replay import clip
from sb3_rlx2.kernels.compiled import compiled
from sb3_rlx2.kernels.products import ROW_BYTES, TILE
from sb3_rlx2.kernels.vectors import exp_floats, load_float, log_floats, store_float, tanh_floats

Block = Any

EPSILON = 1e-6  # as in SB3's SquashedDiagGaussianDistribution
LOG_ROOT_2_PI = math.log(math.sqrt(2.0 * math.pi))
# An actor's heads leave four blocks of n_act rows: standard deviations, noise, actions, and room
STD, NOISE, ACTION, ROOM = 0, 1, 2, 3


@compiled
def sample_actions(
    task: Block, sac: Block, x: int, outputs: int, heads: int, noise: int, count: int, log_prob: int
) -> None:
    """Sample an action for each state of a tile, with its log-probability.

    :param task: the task's block
    :param sac: SAC's block
    :param x: states
    :param outputs: room for the actor's activations
    :param heads: room for standard deviations, noise and actions
    :param noise: standard normal numbers, [count, n_act]
    :param count: number of samples in the tile
    :param log_prob: where the log-probabilities go, [TILE]
    """
    n_act = task.n_act
    block = n_act * ROW_BYTES
    mean = forward(network_at(task.actor), x, outputs)
    log_std = mean + block
    std, eps, action, room = heads, heads + NOISE * block, heads + ACTION * block, heads + ROOM * block
    for j in range(n_act * TILE):
        store_float(std, j, clip(load_float(log_std, j), sac.log_std_min, sac.log_std_max))
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
    task: Block, sac: Block, x: int, outputs: int, heads: int, count: int, dx: int, room: int, gradients: int
) -> None:
    """Gradients of the actor's loss, the mean of ``coefficient * log_prob - Q``.

    :param task: the task's block
    :param sac: SAC's block
    :param x: states
    :param outputs: activations, as ``sample_actions`` left them
    :param heads: standard deviations, noise and actions, as it left them
    :param count: number of samples in the tile
    :param dx: gradient of ``-Q / batch`` with respect to the actions, [n_act, TILE]
    :param room: room for gradients of values
    :param gradients: where gradients of weights are added
    """
    actor, n_act = network_at(task.actor), task.n_act
    block, weight = n_act * ROW_BYTES, sac.coefficient / task.batch
    log_std = outputs + actor.output + block
    d_mean = room + actor.output_gradient
    d_log_std = d_mean + block
    for i in range(n_act):
        for lane in range(TILE):
            j = i * TILE + lane
            action = load_float(heads + ACTION * block, j)
            slope = 1.0 - action * action
            d_action, d_scale = 0.0, 0.0
            if lane < count:
                # Of log(1 - a²) and of the action itself, both through tanh; the Gaussian's own terms cancel
                d_action = load_float(dx, j) * slope + weight * 2.0 * action * slope / (slope + EPSILON)
                raw = load_float(log_std, j)
                if sac.log_std_min <= raw <= sac.log_std_max:
                    d_scale = d_action * load_float(heads, j) * load_float(heads + NOISE * block, j) - weight
            store_float(d_mean, j, d_action)
            store_float(d_log_std, j, d_scale)
    backward(actor, x, outputs, room, gradients, 0, 0, 0, False)
